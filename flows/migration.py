"""`lab migrate`: a lab's SQLite files → its PostgreSQL databases, row by row through each store's own tables, checked afterwards.

The source is read from a copy that is first brought to the schemas of the installed versions, so the files themselves stay untouched.
Each store is copied in a transaction, and none ends before all are compared, so what fails leaves the databases as they were. Foreign
keys are dropped first and made again at the end, which checks every one of them (they run in circles, so no order of the tables would
do). Why: docs/adr/0021-team.md.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RequestError, RunError
from flows import databases
from flows.lab import artifact_addresses, launch, postgres, servers
from flows.lab.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData, Row, Table

Say = Callable[[str], None]

BATCH = 1000
"""Rows in one statement."""
SAMPLES = 50
"""Rows of each table that are compared value by value, spread over all of it."""
COUNTED = {
    "flow runs": ("prefect", "flow_run"),
    "deployments": ("prefect", "deployment"),
    "schedules": ("prefect", "deployment_schedule"),
    "MLflow runs": ("mlflow", "runs"),
    "metric values": ("mlflow", "metrics"),
    "registered model versions": ("mlflow", "model_versions"),
    "studies": ("optuna", "studies"),
    "trials": ("optuna", "trials"),
    "evaluations": ("lab", "evaluation"),
    "links": ("lab", "link"),
}
"""What people ask for after a move → store and table."""


def migrate(settings: Settings, say: Say = lambda _: None) -> dict[str, int]:
    """Copy the SQLite lab in LAB_HOME to `settings.database`; with LAB_ARTIFACTS its artifacts, too. Returns how many of what.

    Raises:
        RequestError: there is nothing to copy or nowhere to, the lab is running, or the target has runs or studies already.
        RunError: a database refuses, or what arrived is not what was sent. Then nothing was copied.
    """
    if settings.database is None:
        raise RequestError("LAB_DATABASE_URL says where to: it is not set")
    sources = {name: file for name, file in _files(settings).items() if file.exists()}
    if not sources:
        raise RequestError(f"there is nothing to copy: {settings.home} has no databases")
    if servers.supervised(settings):
        raise RequestError("the lab is running: lab down first, so that nothing is written meanwhile")
    databases.initialise(settings, lambda line: say(f"making {line}" if not line.startswith("made") else line))
    for name in sources:
        _refuse_what_is_used(name, settings)
    moved = _copy_artifacts(settings, say)
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as transactions:
        for name, file in sources.items():
            say(f"copying {file.name}")
            copy = _current(name, file, Path(folder), settings)
            counts[name] = _copy(name, copy, settings, transactions, moved if name == "mlflow" else None)
    return {what: counts[store].get(table, 0) for what, (store, table) in COUNTED.items() if store in counts}


def _files(settings: Settings) -> dict[str, Path]:
    return {
        "lab": settings.lab_database,
        "optuna": settings.optuna_database,
        "mlflow": settings.mlflow_database,
        "prefect": settings.prefect_database,
    }


def _target(name: str, settings: Settings) -> str:
    """A store's address with a driver that needs no event loop."""
    assert settings.database is not None
    part: postgres.Part = "prefect" if name == "prefect" else "mlflow" if name == "mlflow" else ""
    return postgres.address(settings.database, part, settings.password_file)


def _metadata(name: str) -> MetaData:
    """The tables of a store, as the installed version of its program has them."""
    if name == "prefect":
        from prefect.server.database.orm_models import Base

        return Base.metadata
    if name == "mlflow":
        for kind in ("tracking", "model_registry"):  # each adds its tables
            import_module(f"mlflow.store.{kind}.sqlalchemy_store")
        from mlflow.store.db.base_sql_model import Base as Tracking

        return Tracking.metadata  # type: ignore[no-any-return]
    if name == "optuna":
        from optuna.storages._rdb.models import BaseModel

        return BaseModel.metadata  # type: ignore[no-any-return]
    from flows.records.tables import Table as Own

    return Own.metadata


def _current(name: str, file: Path, folder: Path, settings: Settings) -> str:
    """The address of a copy of a SQLite database in `folder`, with its tables brought to the installed version's."""
    copy = folder / file.name
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)  # also what is still in the write-ahead log
    url = f"sqlite:///{copy}"
    if name == "prefect":
        databases.migrate_prefect(settings, f"sqlite+aiosqlite:///{copy}")
    elif name == "mlflow":
        launch.migrate_mlflow(settings, url, launch.mlflow_migration())
    elif name == "optuna":
        databases.migrate_optuna(url)
    else:
        from flows.records.store import Store

        Store(url).close()
    return url


def _refuse_what_is_used(name: str, settings: Settings) -> None:
    """A copy takes the place of what a new store holds by itself, and of nothing that somebody made."""
    from sqlalchemy import NullPool, create_engine, func, select

    tables = _metadata(name).tables
    with create_engine(_target(name, settings), poolclass=NullPool).connect() as connection:
        for what, (store, table) in COUNTED.items():
            if store == name and (count := connection.execute(select(func.count()).select_from(tables[table])).scalar_one()):
                raise RequestError(f"the PostgreSQL lab has {count} {what} already, and they would be lost: choose an empty database")


def _copy(name: str, source: str, settings: Settings, transactions: ExitStack, moved: tuple[str, str] | None) -> dict[str, int]:
    """Copy one store, in a transaction that ends with the `transactions` of all; returns the rows of each table."""
    from sqlalchemy import NullPool, create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    metadata = _metadata(name)
    tables = [table for table in metadata.tables.values() if table.name != "alembic_version"]
    try:
        old = transactions.enter_context(create_engine(source, poolclass=NullPool).connect())
        new = transactions.enter_context(create_engine(_target(name, settings), poolclass=NullPool).begin())
        _check_known(old, metadata, name)
        keys = _drop_foreign_keys(new, tables)
        new.execute(text(f"TRUNCATE {', '.join(_quoted(new, table) for table in tables)} CASCADE"))
        new.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        counts = {table.name: _copy_table(old, new, table) for table in tables}
        for statement in keys:
            new.execute(text(statement))
        _set_sequences(new, tables)
        for table in tables:
            _compare(old, new, table, counts[table.name])
        if moved:
            artifact_addresses.move(new, *moved)
    except SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        raise RunError(f"copying {name} failed, and nothing was copied: {said}") from error
    return counts


def _check_known(old: Connection, metadata: MetaData, name: str) -> None:
    """Every table that holds something is one that is copied."""
    from sqlalchemy import inspect, text

    ignored = {"alembic_version", "alembic_version_auth", "sqlite_sequence"}
    for table in sorted({*inspect(old).get_table_names()} - metadata.tables.keys() - ignored):
        if old.execute(text(f'SELECT 1 FROM "{table}" LIMIT 1')).first():  # noqa: S608 — a name that the database gave
            raise RunError(f"the table {table} of {name} holds rows that this version does not know how to copy")


def _drop_foreign_keys(new: Connection, tables: list[Table]) -> list[str]:
    """Drop the tables' foreign keys; returns the statements that make them again."""
    from sqlalchemy import text

    query = (
        "SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid) FROM pg_constraint k "
        "JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype = 'f' AND c.relname = ANY(:names)"
    )
    found = new.execute(text(query), {"names": [table.name for table in tables]}).all()
    for table, key, _ in found:
        new.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {key}"))
    return [f"ALTER TABLE {table} ADD CONSTRAINT {key} {definition}" for table, key, definition in found]


def _copy_table(old: Connection, new: Connection, table: Table) -> int:
    from sqlalchemy import insert, select

    columns = [column for column in table.columns if column.computed is None]
    copied = 0
    for rows in old.execution_options(yield_per=BATCH).execute(select(*columns)).partitions(BATCH):
        new.execute(insert(table), [_aware(row) for row in rows])
        copied += len(rows)
    return copied


def _aware(row: Row[Any]) -> dict[str, Any]:
    """SQLite has no time zones: what it gives without one is UTC, and PostgreSQL would take it for the session's."""

    def aware(value: Any) -> Any:
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value

    return {key: aware(value) for key, value in row._asdict().items()}


def _set_sequences(new: Connection, tables: list[Table]) -> None:
    """Let PostgreSQL count on from the highest number that was copied."""
    from sqlalchemy import func, select, text

    find = text("SELECT pg_get_serial_sequence(:table, :column)")
    for table in tables:
        for column in table.columns:
            sequence = new.execute(find, {"table": _quoted(new, table), "column": column.name}).scalar_one()
            if sequence:
                highest = new.execute(select(func.max(column))).scalar_one()
                new.execute(
                    text("SELECT setval(:sequence, :number, :used)"), {"sequence": sequence, "number": highest or 1, "used": bool(highest)}
                )


def _compare(old: Connection, new: Connection, table: Table, copied: int) -> None:
    """RunError: another number of rows has arrived, or one of the samples is not what it was."""
    from sqlalchemy import func, select

    there = [each.execute(select(func.count()).select_from(table)).scalar_one() for each in (old, new)]
    if there != [copied, copied]:
        raise RunError(f"of {there[0]} rows of {table.name}, {copied} were sent and {there[1]} arrived; nothing was kept")
    keys = list(table.primary_key.columns)
    if not keys:
        return
    columns = [column for column in table.columns if column.computed is None]
    for place in range(0, copied, max(1, copied // SAMPLES)):
        row = old.execute(select(*columns).order_by(*keys).offset(place).limit(1)).one()
        same = [key == row._mapping[key] for key in keys]
        arrived = new.execute(select(*columns).where(*same)).one_or_none()
        if arrived is None or _aware(arrived) != _aware(row):
            raise RunError(f"a row of {table.name} did not arrive as it was: {[row._mapping[key] for key in keys]}; nothing was kept")


def _quoted(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _copy_artifacts(settings: Settings, say: Say) -> tuple[str, str] | None:
    """Copy MLflow's artifacts to where LAB_ARTIFACTS says; returns the old and the new address, or None where they stay."""
    if settings.artifact_store is None or not settings.artifacts.is_dir():
        return None
    say(f"copying the artifacts to {settings.artifact_store}")
    if "://" not in settings.artifact_store:
        shutil.copytree(settings.artifacts, settings.artifact_store, dirs_exist_ok=True)
        return settings.artifacts.as_uri(), Path(settings.artifact_store).as_uri()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store: Any = get_artifact_repository(settings.artifact_store)
    store.log_artifacts(str(settings.artifacts))
    return settings.artifacts.as_uri(), settings.artifact_store
