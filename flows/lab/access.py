"""Who may use the servers: one file of credentials, readable by its owner only, made once and shown nowhere.

Where the file exists, the servers ask for it and the lab's own clients show it: the Prefect server has one user, MLflow three with
different rights. A machine that is a client only has a file with less in it, which `lab access --role` writes.

    {"prefect": {"user": …, "password": …},      both servers and clients
     "mlflow":  {"user": …, "password": …},      whom this machine's runs are written as
     "admin": …, "reader": …, "secret": …}       on the machine with the servers only

Standard library only: every command reads this.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import RequestError

ROLES = {"reader": "READ", "editor": "EDIT"}
"""MLflow's roles here → what they may do with every experiment and every registered model."""
KINDS = ("experiment", "registered_model")
"""What they have them on."""
OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Login:
    """A user and a password; printing it shows the user only."""

    user: str
    password: str = field(repr=False)

    @property
    def string(self) -> str:
        """As Prefect wants it."""
        return f"{self.user}:{self.password}"

    def header(self) -> dict[str, str]:
        """The header of a request."""
        return {"Authorization": f"Basic {base64.b64encode(self.string.encode()).decode()}"}

    def for_mlflow(self) -> dict[str, str]:
        """The variables by which MLflow's client signs in."""
        return {"MLFLOW_TRACKING_USERNAME": self.user, "MLFLOW_TRACKING_PASSWORD": self.password}


@dataclass(frozen=True)
class Credentials:
    """What a credentials file holds.

    Attributes:
        prefect: the one user of the Prefect server.
        mlflow: whom this machine signs in as at MLflow.
        admin, reader: MLflow's administrator and its user who only looks; None on a machine without the servers.
        secret: what MLflow signs its forms with; None as above.
    """

    prefect: Login
    mlflow: Login
    admin: Login | None = None
    reader: Login | None = None
    secret: str | None = field(default=None, repr=False)


def read(path: Path) -> Credentials | None:
    """The credentials in a file; None where there is none. RequestError: it cannot be read, or is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        logins = {name: Login(**found[name]) for name in ("prefect", "mlflow", "admin", "reader") if name in found}
        return Credentials(**logins, secret=found.get("secret"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"the credentials in {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):  # what is wrong with it might show what is in it
        raise RequestError(f"{path} is not a file of credentials; lab access --into FILE writes one for another machine") from None


def required(path: Path) -> Credentials:
    """The credentials in a file. RequestError: there are none."""
    found = read(path)
    if found is None:
        raise RequestError(f"there are no credentials ({path}): lab up --team makes them")
    return found


def make(path: Path) -> bool:
    """Make new credentials unless the file exists; True when they were made. RequestError: they cannot be written there."""
    if path.exists():
        return False
    users = {"prefect": "lab", "mlflow": "editor", "admin": "admin", "reader": "reader"}
    content: dict[str, Any] = {name: {"user": user, "password": secrets.token_urlsafe(24)} for name, user in users.items()}
    _write(path, content | {"secret": secrets.token_urlsafe(32)})
    return True


def export(credentials: Credentials, role: str, path: Path) -> None:
    """Write what a client needs that has `role` in MLflow.

    Raises:
        RequestError: the file exists or cannot be written, or these credentials are a client's themselves.
    """
    if path.exists():
        raise RequestError(f"{path} exists already; choose another file")
    if credentials.reader is None:
        raise RequestError("only the machine with the servers has everybody's credentials")
    login = {"reader": credentials.reader, "editor": credentials.mlflow}[role]
    _write(path, {"prefect": vars(credentials.prefect), "mlflow": vars(login)})


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, and never readable by others, not even for a moment. RequestError: not there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            with suppress(FileExistsError):
                os.link(unfinished, path)  # unlike a rename, does not replace what another process made meanwhile
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None
