"""Where the lab lives and what its servers are called: everything that comes from environment variables, read in one place.

| variable | default | meaning |
|---|---|---|
| `LAB_HOME` | `.lab` of the nearest folder above that has one or is a checkout, else of this folder | everything local lives there |
| `LAB_PREFECT_PORT`, `LAB_MLFLOW_PORT` | 4200, 5000 (or what the running servers were started with) | ports on 127.0.0.1 |
| `LAB_PREFECT_API_URL`, `LAB_MLFLOW_URI` | none | servers that run elsewhere; `lab up` then starts none of its own |
| `LAB_DATA_MIRROR` | none | folder or address that is asked for data before the upstream address |
| `LAB_DATABASE_URL` | none | `postgresql+psycopg://…`: where sweeps and the lab's own tables are kept, instead of files in LAB_HOME |
| `LAB_WORKERS` | half the processors, at least 2 | how many flow runs the local worker runs at once |

Standard library only: every command imports this, and `lab --help` has to stay quick.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import RequestError

LOOPBACK = "127.0.0.1"
PREFECT_PORT = 4200
MLFLOW_PORT = 5000
WORK_POOL = "lab"
MARKER = "LAB_SERVERS_OF"
"""Environment variable that every process of the local servers carries; its value is the absolute LAB_HOME."""
VARIABLES = (
    "LAB_HOME",
    "LAB_PREFECT_PORT",
    "LAB_MLFLOW_PORT",
    "LAB_PREFECT_API_URL",
    "LAB_MLFLOW_URI",
    "LAB_DATA_MIRROR",
    "LAB_WORKERS",
    "LAB_DATABASE_URL",
)


@dataclass(frozen=True)
class Settings:
    """One consistent set of settings; make it with `Settings.load()`.

    Attributes:
        home: LAB_HOME, absolute.
        prefect_port: port of the local Prefect server, 1–65535.
        mlflow_port: port of the local MLflow server, 1–65535.
        workers: how many flow runs the local worker runs at once, at least 1.
        data_mirror: folder path or http(s) address that is asked for data first; None for no mirror.
        remote_prefect: API address of a Prefect server elsewhere (`http://host:4200/api`); None for the local one.
        remote_mlflow: tracking address of an MLflow server elsewhere; None for the local one.
        database: SQLAlchemy address of a PostgreSQL database for sweeps and the lab's own tables; None for SQLite files in `home`.
    """

    home: Path
    prefect_port: int = PREFECT_PORT
    mlflow_port: int = MLFLOW_PORT
    workers: int = 2
    data_mirror: str | None = None
    remote_prefect: str | None = None
    remote_mlflow: str | None = None
    database: str | None = None

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> "Settings":
        """Settings from `environment` (default: this process's), seen from `folder` (default: the current one).

        Raises:
            RequestError: a value is not what the variable can be; the message names the variable, the value and what is allowed.
        """
        values = {name: value.strip() for name, value in (os.environ if environment is None else environment).items()}
        folder = Path.cwd() if folder is None else folder
        home = _home(values.get("LAB_HOME", ""), folder)
        running = _running_ports(home)
        settings = cls(
            home=home,
            prefect_port=_integer(values, "LAB_PREFECT_PORT", running.get("LAB_PREFECT_PORT", PREFECT_PORT), 1, 65535),
            mlflow_port=_integer(values, "LAB_MLFLOW_PORT", running.get("LAB_MLFLOW_PORT", MLFLOW_PORT), 1, 65535),
            workers=_integer(values, "LAB_WORKERS", max(2, (os.cpu_count() or 1) // 2), 1, 1000),
            data_mirror=_mirror(values.get("LAB_DATA_MIRROR", ""), folder),
            remote_prefect=_address(values, "LAB_PREFECT_API_URL"),
            remote_mlflow=_address(values, "LAB_MLFLOW_URI"),
            database=_database(values.get("LAB_DATABASE_URL", "")),
        )
        if settings.prefect_port == settings.mlflow_port:
            raise RequestError(f"LAB_PREFECT_PORT and LAB_MLFLOW_PORT are both {settings.prefect_port}; each server needs its own port")
        return settings

    # Paths, in the order of the folder listing.

    @property
    def data(self) -> Path:
        """Prepared data, one folder `NAME/FINGERPRINT` each."""
        return self.home / "data"

    @property
    def downloads(self) -> Path:
        """Source files as they came, verified."""
        return self.home / "downloads"

    @property
    def runs(self) -> Path:
        """One folder a training run."""
        return self.home / "runs"

    @property
    def prefect_home(self) -> Path:
        """Prefect's own folder, its database included."""
        return self.home / "prefect"

    @property
    def prefect_database(self) -> Path:
        """The Prefect server's SQLite file."""
        return self.prefect_home / "prefect.db"

    @property
    def mlflow_database(self) -> Path:
        """The MLflow server's SQLite file."""
        return self.home / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts; clients on this machine write here directly."""
        return self.home / "artifacts"

    @property
    def lab_database(self) -> Path:
        """The lab's own catalogue."""
        return self.home / "lab.db"

    @property
    def optuna_database(self) -> Path:
        """Optuna's studies."""
        return self.home / "optuna.db"

    @property
    def sweeps(self) -> Path:
        """One folder a sweep, with the runs of its trials in it."""
        return self.home / "sweeps"

    @property
    def logs(self) -> Path:
        """One log file a server, rotated."""
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """What only matters while the servers run: lock and ports."""
        return self.home / "run"

    @property
    def running_file(self) -> Path:
        """The ports that the servers were started with, so that other terminals find them without being told."""
        return self.run / "servers.json"

    @property
    def lock_file(self) -> Path:
        """Held (flock) while the servers are being started or stopped; the kernel frees it when its holder dies."""
        return self.run / "lock"

    # Addresses.

    @property
    def prefect_api(self) -> str:
        """The Prefect API's address, without a slash at the end."""
        return self.remote_prefect or f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def prefect_ui(self) -> str:
        """The address that a person opens to see Prefect."""
        return self.prefect_api.removesuffix("/api")

    @property
    def mlflow_uri(self) -> str:
        """The MLflow server's address: its API and its UI."""
        return self.remote_mlflow or f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def mlflow_store(self) -> str:
        """The MLflow server's database as a SQLAlchemy address."""
        return f"sqlite:///{self.mlflow_database}"

    @property
    def lab_store(self) -> str:
        """The lab's own tables as a SQLAlchemy address."""
        return self.database or f"sqlite:///{self.lab_database}"

    @property
    def optuna_store(self) -> str:
        """Optuna's studies as a SQLAlchemy address."""
        return self.database or f"sqlite:///{self.optuna_database}"

    # Environments of other processes.

    def lab_environment(self) -> dict[str, str]:
        """The variables by which another process of the lab gets these same settings, whatever its current folder."""
        given = {
            "LAB_HOME": str(self.home),
            "LAB_PREFECT_PORT": str(self.prefect_port),
            "LAB_MLFLOW_PORT": str(self.mlflow_port),
            "LAB_WORKERS": str(self.workers),
            "LAB_DATA_MIRROR": self.data_mirror,
            "LAB_PREFECT_API_URL": self.remote_prefect,
            "LAB_MLFLOW_URI": self.remote_mlflow,
            "LAB_DATABASE_URL": self.database,
        }
        return {name: value for name, value in given.items() if value is not None}

    def prefect_environment(self) -> dict[str, str]:
        """The variables that every process which imports prefect needs, the server and the worker as well as clients.

        Prefect's home is made here, because Prefect falls back to another one when it does not exist.
        """
        self.prefect_home.mkdir(parents=True, exist_ok=True)
        ui = ",".join(f"http://{host}:{self.prefect_port}" for host in (LOOPBACK, "localhost"))
        return {
            "PREFECT_HOME": str(self.prefect_home),
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_UI_URL": self.prefect_ui,
            "PREFECT_SERVER_API_HOST": LOOPBACK,
            "PREFECT_SERVER_API_PORT": str(self.prefect_port),
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ui,  # by default any web site that a browser here visits may call the API
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.prefect_database}",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a client without a server should fail, not start a slow one of its own
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": _no_proxy(),
            "no_proxy": _no_proxy(),
        }

    def mlflow_environment(self) -> dict[str, str]:
        """The variables that every process which imports mlflow needs, the server as well as clients."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a dozen processes and 2.7 GB
            "DO_NOT_TRACK": "1",
            "GIT_PYTHON_REFRESH": "quiet",
            "NO_PROXY": _no_proxy(),
            "no_proxy": _no_proxy(),
        }


def _home(given: str, folder: Path) -> Path:
    if given:
        home = folder / Path(given).expanduser()
    else:
        base = next((above for above in (folder, *folder.parents) if (above / ".lab").is_dir() or (above / ".git").exists()), folder)
        home = base / ".lab"
    home = Path(os.path.abspath(home))  # noqa: PTH100 — `..` has to go, but symbolic links stay as the person wrote them
    if wrong := [sign for sign in "?#%\n" if sign in str(home)]:
        raise RequestError(f"LAB_HOME {str(home)!r} has {wrong[0]!r} in it, which database addresses cannot hold; choose another folder")
    if home.exists() and not home.is_dir():
        raise RequestError(f"LAB_HOME {str(home)!r} is a file; it has to be a folder")
    return home


def _running_ports(home: Path) -> dict[str, int]:
    try:
        ports = json.loads((home / "run" / "servers.json").read_text())
        return {name: int(ports[name]) for name in ("LAB_PREFECT_PORT", "LAB_MLFLOW_PORT")}
    except (OSError, ValueError, KeyError, TypeError):  # not running, or the file of a power cut: the defaults do
        return {}


def _integer(values: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    given = values.get(name, "")
    if not given:
        return default
    if not given.isascii() or not given.isdigit() or not low <= int(given) <= high:
        raise RequestError(f"{name} is {given!r}; it has to be a whole number from {low} to {high}")
    return int(given)


def _address(values: Mapping[str, str], name: str) -> str | None:
    given = values.get(name, "").rstrip("/")
    if not given:
        return None
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise RequestError(f"{name} is {given!r}; it has to be an address like https://host:port{'/api' if 'PREFECT' in name else ''}")
    return given


def _database(given: str) -> str | None:
    if given and not given.startswith("postgresql+psycopg://"):
        raise RequestError(
            f"LAB_DATABASE_URL begins with {given.partition('/')[0]!r}; it has to be postgresql+psycopg://user@host/database"
        )
    return given or None


def _mirror(given: str, folder: Path) -> str | None:
    if not given:
        return None
    if given.startswith(("http://", "https://")):
        return given.rstrip("/")
    if "://" in given:
        raise RequestError(f"LAB_DATA_MIRROR is {given!r}; it has to be a folder or an http(s) address")
    return os.path.abspath(folder / Path(given).expanduser())  # noqa: PTH100 — as for LAB_HOME


def _no_proxy() -> str:
    hosts = [host for host in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if host]
    return ",".join([*hosts, *(host for host in (LOOPBACK, "localhost") if host not in hosts)])
