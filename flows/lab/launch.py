"""`python -m flows.lab.launch prefect|mlflow|worker`: gets things ready for one server, then becomes it or looks after it.

supervisord runs this. It does what has to happen before the server's own program each time the server is started, also after a
crash: clears away what a killed predecessor left behind (MLflow's web process outlives its parent and keeps the port), makes
MLflow's database, lets the worker wait for its server, and settles the runs that were missed before the worker sees them.
"""

import configparser
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import RequestError, RunError
from flows.lab import access, artifact_addresses, health, postgres, processes, timetable
from flows.lab.settings import LOOPBACK, WORK_POOL, Settings

Migration = Callable[[], list[str]]
"""Gives the command that makes the tables in the database that MLFLOW_BACKEND_STORE_URI names."""


def main(server: str) -> int:
    """Be `server`, one of `prefect`, `mlflow`, `worker`; only for the worker it returns: with its exit code."""
    settings = Settings.load()
    environment = os.environ | settings.lab_environment() | settings.prefect_environment() | settings.mlflow_environment()
    if server != "worker":
        refuse_strangers(settings)
    processes.kill(processes.leftovers(settings.home, server))
    if server == "prefect":
        command = [sys.executable, "-m", "flows.lab.prefect_server"]
        os.execve(sys.executable, command, environment | prefect_server_environment(settings))  # noqa: S606 — no shell is meant
    if server == "mlflow":
        make_mlflow_database(settings)
        artifact_addresses.settle(settings)
        shutil.rmtree(mlflow_metrics(settings), ignore_errors=True)  # counts of processes that are gone
        os.execve(sys.executable, mlflow_command(settings), environment | mlflow_server_environment(settings))  # noqa: S606
    wait_for_prefect(settings)
    for line in timetable.prepare(settings):
        sys.stdout.write(f"{line}\n")
    return look_after(worker_command(settings), settings, environment)


def refuse_strangers(settings: Settings) -> None:
    """RequestError: other machines could use the servers, and nothing would ask them who they are."""
    if settings.beyond_loopback and access.read(settings.credentials) is None:
        raise RequestError(
            f"LAB_HOST is {settings.host}, so other machines could use the servers, and nothing asks them who they are: "
            "lab up --team makes credentials first"
        )


def look_after(command: Sequence[str], settings: Settings, environment: Mapping[str, str], *, apart: bool = False) -> int:
    """Run the worker, and end its flow runs properly when asked to stop (SIGTERM); returns the worker's exit code.

    Prefect's worker kills its flow runs at once when it is stopped, and the server goes on showing them as running. So it never gets
    that signal: see `processes.end_flow_runs`. With `apart` a Ctrl-C in the terminal does not reach it either, and means the same here.
    """

    def asked_to_stop(_signum: int, _frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, asked_to_stop)
    worker = subprocess.Popen(command, env={**environment, "TMPDIR": own_temporary_folder()}, start_new_session=apart)
    try:
        return worker.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if worker.poll() is None:
            processes.end_flow_runs(settings.home)
            worker.wait()


def own_temporary_folder() -> str:
    """A folder for temporary files that this person's workers share.

    Prefect's worker makes `runner_storage` in the temporary folder, and whoever starts one first on a machine keeps all others out.
    """
    folder = Path(tempfile.gettempdir())
    name = f"lab-{os.getuid()}"
    if folder.name == name:  # a worker of a worker's run
        return str(folder)
    try:
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return str(folder)
    mine = (folder / name).stat().st_uid == os.getuid() and not (folder / name).is_symlink()
    return str(folder / name) if mine else str(folder)


def worker_command(settings: Settings) -> list[str]:
    """Prefect's worker for the pool of the lab, which it makes when it is missing."""
    name, limit = ["--name", health.worker_name()], ["--limit", str(settings.workers)]
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", *name, *limit]


def prefect_server_environment(settings: Settings) -> dict[str, str]:
    """What the Prefect server needs besides what its clients need; the database's password is in the environment, not in the command."""
    origins = _origins(settings, settings.prefect_port, settings.public_prefect)
    login = access.read(settings.credentials)
    return {
        "PREFECT_SERVER_API_HOST": settings.host,
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(origins),  # by default any web site that a browser visits may call the API
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": settings.prefect_store,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_METRICS_ENABLED": "true",
        "PREFECT_UI_API_URL": f"{settings.prefect_ui}/api",
    } | ({"PREFECT_SERVER_API_AUTH_STRING": login.prefect.string} if login else {})


def mlflow_server_environment(settings: Settings) -> dict[str, str]:
    """What the MLflow server needs besides what its clients need."""
    hosts = names(settings)
    proxy = [urlsplit(settings.public_mlflow).netloc] if settings.public_mlflow else []
    given = {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_store,
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(dict.fromkeys([*hosts, *(f"{host}:{settings.mlflow_port}" for host in hosts), *proxy])),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(_origins(settings, settings.mlflow_port, settings.public_mlflow)),
    }
    login = access.read(settings.credentials)
    if login is None:
        return given
    if login.admin is None or login.secret is None:
        raise RequestError(f"{settings.credentials} is a client's file of credentials: the servers need the one that lab up --team makes")
    return given | {
        "MLFLOW_AUTH_CONFIG_PATH": str(_write_mlflow_access(settings)),
        "MLFLOW_AUTH_ADMIN_USERNAME": login.admin.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.admin.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": login.secret,
    }


def mlflow_command(settings: Settings) -> list[str]:
    """The MLflow server: one web process.

    Artifacts are in a folder that clients on this machine write to directly, or where other machines come in, they go through the server.
    """
    files = "--artifacts-destination" if settings.beyond_loopback else "--default-artifact-root"
    command = [sys.executable, "-m", "mlflow", "server", files, settings.artifact_destination]
    command += ["--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1"]
    if access.read(settings.credentials) is None:
        return command
    counted = ["--expose-prometheus", str(mlflow_metrics(settings))] if find_spec("prometheus_flask_exporter") else []
    return [*command, *counted, "--app-name", "basic-auth"]


def mlflow_metrics(settings: Settings) -> Path:
    """Where MLflow's processes count what `/metrics` tells Prometheus."""
    return settings.run / "mlflow-metrics"


def names(settings: Settings) -> list[str]:
    """The hosts by which the servers are spoken to."""
    own = [LOOPBACK, "localhost", settings.near_host]
    public = settings.public_hosts or ([os.uname().nodename] if settings.beyond_loopback else [])
    proxies = [str(urlsplit(url).hostname) for url in (settings.public_prefect, settings.public_mlflow) if url]
    return list(dict.fromkeys([*own, *public, *proxies]))


def _origins(settings: Settings, port: int, public: str | None) -> list[str]:
    """Where a page may come from that calls the server at `port`: from the server itself, by each of its names, or through its proxy."""
    parts = urlsplit(public or "")
    proxy = [f"{parts.scheme}://{parts.netloc}"] if public else []
    return list(dict.fromkeys([*(f"http://{host}:{port}" for host in names(settings)), *proxy]))


def _write_mlflow_access(settings: Settings) -> Path:
    """The file that MLflow's login is set up by; it holds the database's address, so only its owner may read it."""
    file = settings.run / "mlflow-access.ini"
    store = settings.mlflow_store if settings.database else f"sqlite:///{settings.home / 'mlflow-users.db'}"
    made = configparser.ConfigParser(interpolation=None)
    made["mlflow"] = {
        "default_permission": "READ",
        "database_uri": store.replace("%", "%%"),
        "authorization_function": "flows.lab.mlflow_roles:authenticate",
        "auth_cache_ttl_seconds": "60",  # a password's hash takes a tenth of a second, and a training asks often
    }
    settings.run.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, access.OWNER_ONLY), "w", encoding="utf-8") as stream:
        made.write(stream)
    return file


def wait_for_prefect(settings: Settings) -> None:
    """Return as soon as the Prefect server answers; a server that stays away is waited for without end."""
    while not health.healthy(f"{settings.prefect_api}/health"):
        time.sleep(0.2)


MIGRATE_MLFLOW = """
import os
from mlflow.store.db import utils
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
store = os.environ["MLFLOW_BACKEND_STORE_URI"]
engine = utils.create_sqlalchemy_engine_with_retry(store)
if not utils._is_empty_database(engine):
    utils._upgrade_db(engine)
SqlAlchemyStore(store, os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"])
"""


def mlflow_migration() -> list[str]:
    """The command that makes MLflow's tables and its default experiment, or brings older ones forward; its environment says where."""
    return [sys.executable, "-c", MIGRATE_MLFLOW]


def migrate_mlflow(settings: Settings, store: str, command: Sequence[str]) -> None:
    """Run a migration of the MLflow database at the address `store`.

    Raises:
        RunError: it failed; the message ends with the last line that it said.
    """
    root = settings.artifact_root or "mlflow-artifacts:/"
    environment = os.environ | settings.mlflow_environment() | {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_DEFAULT_ARTIFACT_ROOT": root}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        last = made.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise RunError(f"the database {postgres.redacted(store)} could not be made: {postgres.redacted(last[0])}")


def make_mlflow_database(settings: Settings, migration: Migration = mlflow_migration) -> None:
    """Make MLflow's SQLite database unless it is there; one in PostgreSQL is `lab init-db`'s to make.

    It is made under a temporary name and renamed when complete: MLflow can not take up its migrations again where a power cut left
    them (Prefect can), so a half-made database must never count. What was left of one is thrown away.

    Of several processes that want it at once one makes it, and the others wait.

    Raises:
        RunError: the migration failed; the message ends with the last line that it said.
    """
    database = settings.mlflow_database
    if settings.database or database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    making = database.with_suffix(".making")
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the kernel when its holder dies
        if database.exists():
            return
        for rest in database.parent.glob(f"{making.name}*"):
            rest.unlink()
        migrate_mlflow(settings, f"sqlite:///{making}", migration())
        with closing(sqlite3.connect(making)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is still in the write-ahead log would not be renamed with it
        making.rename(database)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
