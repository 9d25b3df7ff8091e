"""`lab init-db`: every store's tables in PostgreSQL, made or brought forward; running it again changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from components.errors import RequestError, RunError
from flows.lab import launch, postgres
from flows.lab.settings import Settings

Say = Callable[[str], None]


def initialise(settings: Settings, say: Say = lambda _: None) -> None:
    """Make the databases that are missing, and the tables of all stores in them.

    Raises:
        RequestError: LAB_DATABASE_URL is not set: SQLite's files are made by whoever needs them.
        RunError: the server does not answer, or refuses; or a migration failed.
    """
    if settings.database is None:
        raise RequestError("LAB_DATABASE_URL is not set, so the lab keeps its tables in files, which need no preparation")
    with postgres.prepared(settings.database, settings.password_file, say):
        say("the lab's own tables")
        _own_tables(settings)
        say("Optuna's tables")
        migrate_optuna(settings.optuna_store)
        say("MLflow's tables")
        launch.migrate_mlflow(settings, settings.mlflow_store, launch.mlflow_migration())
        say("Prefect's tables")
        migrate_prefect(settings, settings.prefect_store)


def migrate_prefect(settings: Settings, store: str) -> None:
    """Make Prefect's tables at the address `store`, or bring older ones forward. RunError: it failed."""
    environment = os.environ | settings.prefect_environment() | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": store}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["it said nothing"]
        raise RunError(f"Prefect's tables could not be made: {postgres.redacted(last[0])}")


def _own_tables(settings: Settings) -> None:
    from flows.records.store import Store

    Store(settings.lab_store).close()


def migrate_optuna(store: str) -> None:
    """Make Optuna's tables at the address `store`, or bring older ones forward, which opening them alone would refuse."""
    import logging

    import optuna

    opened = optuna.storages.RDBStorage(store, skip_compatibility_check=True)
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # the migration sets up its own logging
    try:
        opened.upgrade()
    finally:
        logging.disable(before)
        opened.engine.dispose()
