"""`python -m flows.lab.launch prefect|mlflow|worker`: gets things ready for one server, then becomes it or looks after it.

supervisord runs this. It does what has to happen before the server's own program each time the server is started, also after a
crash: clears away what a killed predecessor left behind (MLflow's web process outlives its parent and keeps the port), makes
MLflow's database, lets the worker wait for its server, and settles the runs that were missed before the worker sees them.
"""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from components.errors import RunError
from flows.lab import health, processes, timetable
from flows.lab.settings import LOOPBACK, WORK_POOL, Settings

Migration = Callable[[Settings, Path], list[str]]
"""Settings and a file → the command that makes the tables in that file."""


def main(server: str) -> int:
    """Be `server`, one of `prefect`, `mlflow`, `worker`; only for the worker it returns: with its exit code."""
    settings = Settings.load()
    environment = os.environ | settings.lab_environment() | settings.prefect_environment() | settings.mlflow_environment()
    processes.kill(processes.leftovers(settings.home, server))
    if server == "prefect":
        os.execve(sys.executable, [sys.executable, "-m", "prefect", "server", "start"], environment)  # noqa: S606 — no shell is meant
    if server == "mlflow":
        make_mlflow_database(settings)
        os.execve(sys.executable, mlflow_command(settings), environment)  # noqa: S606
    wait_for_prefect(settings)
    for line in timetable.prepare(settings):
        sys.stdout.write(f"{line}\n")
    return look_after(worker_command(settings), settings, environment)


def look_after(command: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the worker, and end its flow runs properly when asked to stop (SIGTERM); returns the worker's exit code.

    Prefect's worker kills its flow runs at once when it is stopped, and the server goes on showing them as running. So it never gets
    that signal: see `processes.end_flow_runs`.
    """

    def asked_to_stop(_signum: int, _frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, asked_to_stop)
    worker = subprocess.Popen(command, env=environment)
    try:
        return worker.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if worker.poll() is None:
            processes.end_flow_runs(settings.home)
            worker.wait()


def worker_command(settings: Settings) -> list[str]:
    """Prefect's worker for the pool of the lab, which it makes when it is missing."""
    name, limit = ["--name", health.worker_name()], ["--limit", str(settings.workers)]
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", *name, *limit]


def mlflow_command(settings: Settings) -> list[str]:
    """The MLflow server: one web process, loopback only, artifacts in a folder that clients on this machine write to directly."""
    store = ["--backend-store-uri", settings.mlflow_store, "--default-artifact-root", str(settings.artifacts)]
    return [sys.executable, "-m", "mlflow", "server", *store, "--host", LOOPBACK, "--port", str(settings.mlflow_port), "--workers", "1"]


def wait_for_prefect(settings: Settings) -> None:
    """Return as soon as the Prefect server answers; a server that stays away is waited for without end."""
    while not health.healthy(f"{settings.prefect_api}/health"):
        time.sleep(0.2)


def mlflow_migration(settings: Settings, database: Path) -> list[str]:
    """The command that makes MLflow's tables and its default experiment in `database`."""
    code = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store; Store(sys.argv[1], sys.argv[2])"
    return [sys.executable, "-c", code, f"sqlite:///{database}", str(settings.artifacts)]


def make_mlflow_database(settings: Settings, migration: Migration = mlflow_migration) -> None:
    """Make MLflow's database unless it is there.

    It is made under a temporary name and renamed when complete: MLflow can not take up its migrations again where a power cut left
    them (Prefect can), so a half-made database must never count. What was left of one is thrown away.

    Of several processes that want it at once one makes it, and the others wait.

    Raises:
        RunError: the migration failed; the message ends with the last line that it said.
    """
    database = settings.mlflow_database
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    making = database.with_suffix(".making")
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the kernel when its holder dies
        if database.exists():
            return
        for rest in database.parent.glob(f"{making.name}*"):
            rest.unlink()
        command, environment = migration(settings, making), os.environ | settings.mlflow_environment()
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            last = made.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise RunError(f"the database {database} could not be made: {last[0]}")
        with closing(sqlite3.connect(making)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is still in the write-ahead log would not be renamed with it
        making.rename(database)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
