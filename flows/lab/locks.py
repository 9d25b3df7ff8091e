"""Whose turn it is on one machine: a locked file. It is let go with the process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for the file's lock, and hold it; the file (and its folder) is made where it is missing and stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def let_readers_go_on(connection: Any, database: str | None) -> None:
    """Set up one of SQLite's connections: readers go on while one writes (WAL), and a commit does not wait for the disk.

    A power cut may take the last commits, never more. SQLite refuses to switch a database to WAL while somebody else opens it, without
    the wait that it grants everything else (measured: 9 of 1,600 first openings by eight threads at once), so that takes turns.

    Args:
        connection: a connection of the driver.
        database: path of its file; None or "": in memory.
    """
    cursor = connection.cursor()
    try:
        if database and cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            with held(Path(f"{database}.lock")):
                cursor.execute("PRAGMA journal_mode=WAL").fetchone()
        cursor.execute("PRAGMA synchronous=NORMAL")
    finally:
        cursor.close()
