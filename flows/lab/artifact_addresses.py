"""Where MLflow's database says that artifacts are: a folder or store of their own, or behind the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import RunError
from flows.lab import postgres
from flows.lab.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import ColumnClause, Connection

LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Table and column of every such address."""
SERVED = "mlflow-artifacts:/"
"""What an address begins with that only the server can follow; it goes on below the server's own folder or store."""


def settle(settings: Settings) -> None:
    """Let the addresses be such that whoever may use the server can follow them.

    A lab that was used on one machine only, where everybody writes to the folder, has addresses that mean another machine's own disk
    as soon as other machines can reach the server; a lab that is closed again has addresses that only a server follows.

    Raises:
        RunError: the database does not answer, or has no tables yet.
    """
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    place = settings.artifact_destination
    own = f"{place if '://' in place else Path(place).as_uri()}/"
    before, after = (own, SERVED) if settings.beyond_loopback else (SERVED, own)
    try:
        with create_engine(settings.mlflow_store, poolclass=NullPool).begin() as connection:
            move(connection, before, after)
    except SQLAlchemyError as error:
        said = postgres.redacted(" ".join(str(getattr(error, "orig", error)).split()))
        raise RunError(f"MLflow's database cannot be used: {said}") from None


def move(connection: Connection, before: str, after: str) -> None:
    """Let every address that begins with `before` begin with `after`."""
    from sqlalchemy import column, func, literal, table, update

    for name, key in LOCATIONS:
        place: ColumnClause[str] = column(key)
        rest = func.substr(place, len(before) + 1)
        moved = update(table(name, place)).where(place.startswith(before, autoescape=True)).values({key: literal(after).concat(rest)})
        connection.execute(moved)
