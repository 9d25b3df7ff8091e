"""Where studies are kept, and whose turn it is: Optuna's database, opened so that many processes can use it at once."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from components.data.durable import is_full
from components.errors import RequestError, RunError
from flows.lab import postgres
from flows.lab.locks import held, let_readers_go_on
from flows.lab.settings import Settings
from flows.records.tables import BUSY_MILLISECONDS

if TYPE_CHECKING:
    import optuna
    from sqlalchemy import Engine

    from flows.search.bulk import Database


def create(settings: Settings, name: str, directions: Sequence[str]) -> optuna.Study:
    """A new study. RequestError: there is one of that name."""
    import optuna

    try:
        return optuna.create_study(storage=storage(settings), study_name=name, directions=list(directions))  # type: ignore[arg-type]
    except optuna.exceptions.DuplicatedStudyError as error:
        raise RequestError(
            f"there is a sweep {name!r} already; go on with it by lab sweep --resume {name}, or choose another name"
        ) from error


def load(settings: Settings, name: str) -> optuna.Study | None:
    """The study `name`; None when there is none."""
    import optuna

    if not exists(settings):
        return None
    try:
        return optuna.load_study(study_name=name, storage=storage(settings))
    except KeyError:
        return None


def names(settings: Settings) -> list[str]:
    """The names of all studies, oldest first."""
    return [study.study_name for study in storage(settings).get_all_studies()] if exists(settings) else []


def exists(settings: Settings) -> bool:
    """Whether there is a database; looking makes none."""
    return not settings.optuna_store.startswith("sqlite:") or settings.optuna_database.exists()


def storage(settings: Settings) -> Database:
    """Optuna's database of this lab, made where it is missing; one connection pool a process.

    Raises:
        RunError: it cannot be opened.
    """
    return _storage(settings.optuna_store, settings.home)


def in_words(error: BaseException) -> str | None:
    """What went wrong with a database or the disk, in one line; None for anything else."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if not isinstance(error, StorageInternalError | SQLAlchemyError | OSError):
        return None
    if is_full(error):
        return "the disk is full; free some space"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return f"the sweep's database or folder cannot be written: {postgres.reason(causes[-1])}"


@cache
def _storage(url: str, home: Any) -> Database:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from flows.search.bulk import Database

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with held(home / "optuna.lock"):  # two processes that make the tables at once collide (measured; Optuna 5)
            found = Database(url, engine_kwargs=_engine_arguments(url))
            _configure(found.engine)
        return found
    except (SQLAlchemyError, RuntimeError, OSError) as error:
        raise RunError(f"Optuna's database {postgres.shown(url)} cannot be opened: {postgres.reason(error)}") from None


def _engine_arguments(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": BUSY_MILLISECONDS / 1000}} if url.startswith("sqlite:") else {"pool_pre_ping": True}


def _configure(engine: Engine) -> None:
    from sqlalchemy import event

    if engine.dialect.name != "sqlite":
        return

    event.listen(engine, "connect", lambda connection, _: let_readers_go_on(connection, engine.url.database))
    engine.dispose()  # connections from before the listener


@contextmanager
def turn(settings: Settings, name: str) -> Iterator[None]:
    """Hold the sweep's turn: nobody else takes or puts back trials of it meanwhile. It is let go with the process, too.

    With SQLite there is one machine, and a locked file does; elsewhere it is an advisory lock of the database.
    """
    if settings.optuna_store.startswith("sqlite:"):
        with held(settings.sweeps / name / "turn.lock"):
            yield
        return
    from sqlalchemy import text

    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with storage(settings).engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
