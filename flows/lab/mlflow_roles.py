"""Who may do what in MLflow, where its own rules leave a gap: MLflow's server asks this at every request.

MLflow lets everybody who has signed in make experiments and registered models, of which they are then the managers. The lab's reader
only looks, so that one is refused whatever makes something. MLflow also keeps its counts (`/metrics`) for administrators, while
Prometheus signs in as the reader.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from flows.lab import access
from flows.lab.settings import Settings

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization


def authenticate() -> Authorization | Response:
    """Who the current request is from, or the answer that refuses it: 401 without the right password, 403 to a reader who makes things."""
    from flask import Response, make_response, request
    from mlflow.server.auth import authenticate_request_basic_auth
    from werkzeug.datastructures import Authorization

    found: Authorization | Response = authenticate_request_basic_auth()
    if isinstance(found, Response) or found.username != _reader():
        return found
    if (request.method, request.path) == ("GET", "/metrics"):
        return Authorization("basic", {"username": str(_admin()), "password": ""})
    what = request.path.rstrip("/").rpartition("/")[2]
    if request.method == "POST" and what.lower().startswith("create"):
        return make_response("Permission denied: the lab's reader looks, and makes nothing", 403)
    return found


def _reader() -> str | None:
    login = _logins().reader
    return login.user if login else None


def _admin() -> str | None:
    login = _logins().admin
    return login.user if login else None


@cache
def _logins() -> access.Credentials:
    return access.required(Settings.load().credentials)
