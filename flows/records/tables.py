"""The tables of lab.db (flows/records/store.py works with them), and how an older database is brought forward.

A change of the tables raises `SCHEMA` by one and adds the step to `MIGRATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    LargeBinary,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from components.errors import RunError
from flows.lab.locks import let_readers_go_on

SCHEMA = 2
BUSY_MILLISECONDS = 30_000
MAKING_TABLES = 0x6C616254  # "labT": PostgreSQL's advisory lock of whoever makes the lab's own tables


def _add_workers(connection: Connection) -> None:
    Table.metadata.tables[Worker.__tablename__].create(connection)


MIGRATIONS: dict[int, Callable[[Connection], None]] = {1: _add_workers}
"""What brings a database from schema N to N + 1, by N; each runs in the transaction that also writes the new number."""


class Table(DeclarativeBase):
    """Base of the lab's tables."""


class SchemaVersion(Table):
    """One row: the number of the schema."""

    __tablename__ = "schema_version"
    number: Mapped[int] = mapped_column(primary_key=True)


class Data(Table):
    """A prepared data set: its name, fingerprint and card."""

    __tablename__ = "data"
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Evaluation(Table):
    """One run's metrics (null: not finite) on one split of one data set; evaluating again replaces it."""

    __tablename__ = "evaluation"
    __table_args__ = (UniqueConstraint("run", "split"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(index=True)
    split: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(ForeignKey("data.fingerprint"), index=True)
    metrics: Mapped[dict[str, float | None]] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    series: Mapped[list[OutcomeSeries]] = relationship(back_populates="evaluation", cascade="all, delete-orphan", passive_deletes=True)


class OutcomeSeries(Table):
    """One number an example: a compressed little-endian array; the series `index` says which example each place is."""

    __tablename__ = "outcome_series"
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    values: Mapped[bytes] = mapped_column(LargeBinary)
    evaluation: Mapped[Evaluation] = relationship(back_populates="series")


class Link(Table):
    """What a run of the lab is called elsewhere."""

    __tablename__ = "link"
    run: Mapped[str] = mapped_column(primary_key=True)
    mlflow_run: Mapped[str | None] = mapped_column(index=True)
    prefect_flow_run: Mapped[str | None] = mapped_column(index=True)
    optuna_study: Mapped[str | None]
    optuna_trial: Mapped[int | None]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Worker(Table):
    """A process that runs trials of a sweep, and when it last gave a sign of life."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    sweep: Mapped[str] = mapped_column(index=True)
    seen: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def connect(url: str) -> Engine:
    """An engine whose transactions, on SQLite, wait for one another; see `writing`."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: _configure_sqlite(connection, engine.url.database))
        event.listen(engine, "begin", _begin_sqlite)
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write.

    On SQLite they take their turn at the start: one that has read and then wants to write is refused at once, without waiting, when
    another wrote meanwhile.
    """
    return engine.execution_options(writes=True)


def bring_forward(engine: Engine) -> None:
    """Make the tables, or bring an older schema to this one's number, in one transaction; one process at a time.

    Raises:
        RunError: the database has a newer schema.
    """
    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite's writers wait for one another anyway
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MAKING_TABLES})
        SchemaVersion.metadata.create_all(connection, tables=[SchemaVersion.metadata.tables[SchemaVersion.__tablename__]])
        number = connection.execute(select(func.max(SchemaVersion.number))).scalar_one()
        if number is None:
            Table.metadata.create_all(connection)
            connection.execute(insert(SchemaVersion).values(number=SCHEMA))
            return
        if number > SCHEMA:
            raise RunError(
                f"the lab's database {engine.url} has schema {number}, this version of the lab knows {SCHEMA}: "
                "use the newer version that wrote it"
            )
        for step in range(number, SCHEMA):
            MIGRATIONS[step](connection)
            connection.execute(update(SchemaVersion).values(number=step + 1))


def _configure_sqlite(connection: Any, database: str | None) -> None:
    """Writers wait for one another instead of failing, and readers for nobody."""
    connection.isolation_level = None  # the driver begins no transactions behind our back: `_begin_sqlite` does
    connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    connection.execute("PRAGMA foreign_keys=ON")
    let_readers_go_on(connection, database)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
