"""The way to MLflow: a client that is quiet, sends nothing home and gives up soon enough for its caller to decide.

MLflow reads these settings from the environment, most of them while it is imported; what the user has set is kept.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from flows.lab import access, health
from flows.lab.launch import make_mlflow_database
from flows.lab.settings import Settings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # covers alembic's migrations too
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the courier repeats; MLflow's own 7 hold a thread for minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_UV_AUTO_DETECT": "false",  # a logged model's requirements are the lab's, whatever project lies in the working directory
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_client(uri: str) -> MlflowClient:
    """A client of the tracking store and the registry at `uri` (http://… or sqlite:///…). Importing MLflow takes about 2 s, once.

    A database's tables are made by the first call, which takes seconds.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # again, for where somebody imported MLflow earlier
        logging.getLogger(name).setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints pages about what is raised anyway
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def tracking_uri(settings: Settings) -> str:
    """Where MLflow is now: a server elsewhere if one is set, the local one if it answers, else its database, directly.

    MLflow's client signs in with what is in the environment, so the lab's credentials are put there.

    Raises:
        RequestError: the server does not take them.
    """
    if login := access.read(settings.credentials):
        os.environ.update(login.mlflow.for_mlflow())
    if settings.remote_mlflow or health.answers(settings, "mlflow"):
        health.check_mlflow_login(settings)
        return settings.mlflow_uri
    make_mlflow_database(settings)
    return settings.mlflow_store


def run_page(uri: str, experiment_id: str | None, run_id: str) -> str:
    """The address of a run's page in the MLflow UI, in its view for trained models (it opens in another one by itself).

    Where the server at `uri` is this lab's, it is the address by which people reach that.
    """
    settings = Settings.load()
    shown = settings.mlflow_ui if uri.rstrip("/") == settings.mlflow_uri else uri.rstrip("/")
    return f"{shown}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
