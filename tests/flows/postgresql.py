"""A PostgreSQL server for tests, from the distribution's package, as the user `postgres` where the tests run as root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(found).parent for found in [shutil.which("initdb")] if found]
AS_ROOT = os.geteuid() == 0
PASSWORD = "p@ss:w/rd%41"
"""Has every sign in it that an address gives a meaning to."""

needs_postgresql = [
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(AS_ROOT and not shutil.which("runuser"), reason="PostgreSQL refuses to run as root, and there is no runuser"),
]


def run(*command: str) -> None:
    """One of PostgreSQL's own programs."""
    as_other = ["runuser", "-u", "postgres", "--"] if AS_ROOT else []
    subprocess.run([*as_other, PROGRAMS[-1] / command[0], *command[1:]], check=True, capture_output=True, cwd="/")


@contextmanager
def server() -> Iterator[int]:
    """A server with nothing in it, whose user `lab` has to say PASSWORD; gives its port on 127.0.0.1.

    Its files are not in pytest's own folder: every other session of pytest closes that to the user `postgres`.
    """
    with tempfile.TemporaryDirectory(prefix="lab-postgresql-") as made:
        folder = Path(made)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if AS_ROOT:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = int(free.getsockname()[1])
        run("initdb", "-D", f"{folder}/data", "--auth=scram-sha-256", f"--pwfile={secret}", "-U", "lab", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield port
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
