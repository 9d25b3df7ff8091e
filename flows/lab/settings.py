"""Where the lab lives and what its servers are called: everything that comes from environment variables, read in one place.

| variable | default | meaning |
|---|---|---|
| `LAB_HOME` | `.lab` of the nearest folder above that has one or is a checkout, else of this folder | everything local lives there |
| `LAB_PREFECT_PORT`, `LAB_MLFLOW_PORT` | 4200, 5000 (or what the running servers were started with) | ports on 127.0.0.1 |
| `LAB_PREFECT_API_URL`, `LAB_MLFLOW_URI` | none | servers that run elsewhere; `lab up` then starts none of its own |
| `LAB_DATA_MIRROR` | none | folder or address that is asked for data before the upstream address |
| `LAB_DATABASE_URL` | none | `postgresql+psycopg://user@host/lab`: all tables are there instead of in files |
| `LAB_DATABASE_PASSWORD_FILE` | none | file with the password for it, so that it is in no address |
| `LAB_ARTIFACTS` | `artifacts` of LAB_HOME | folder that all machines share, or an artifact store that MLflow knows: `s3://bucket/lab` |
| `LAB_HOST` | 127.0.0.1 | address that the servers listen on; anything but loopback needs credentials (`lab up --team`) |
| `LAB_PUBLIC_HOSTS` | this machine's name | names by which people reach the servers, with commas: hosts and origins that are let in |
| `LAB_PUBLIC_PREFECT_URL`, `LAB_PUBLIC_MLFLOW_URL` | the servers' own | where links lead: such as a proxy's `https://…` |
| `LAB_CREDENTIALS` | `credentials.json` of LAB_HOME | file with who may; where it exists, servers ask for it and clients show it |
| `LAB_NOTIFICATIONS` | `notifications.yaml` of LAB_HOME | file that says what is sent to which webhook |
| `LAB_QUOTA_GB` | none | gigabytes that LAB_HOME may take |
| `LAB_GPU_SLOTS` | one a GPU | how many runs use GPUs at once |
| `LAB_RUNS_PER_USER` | no limit | how many runs one person may have queued and running |
| `LAB_WORKERS` | half the processors, at least 2 | how many flow runs the local worker runs at once |
| `LAB_RENDEZVOUS` | this machine's name and port 29400 | `host:port` at which the machines of one training meet (`trainer.nodes`) |

Standard library only: every command imports this, and `lab --help` has to stay quick.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import RequestError
from flows.lab import access, postgres, variables
from flows.lab.folders import Folders

LOOPBACK = "127.0.0.1"
LOOPBACKS = (LOOPBACK, "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 — compared with, not listened on
PREFECT_PORT = 4200
MLFLOW_PORT = 5000
RENDEZVOUS_PORT = 29400
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
    "LAB_DATABASE_PASSWORD_FILE",
    "LAB_ARTIFACTS",
    "LAB_HOST",
    "LAB_PUBLIC_HOSTS",
    "LAB_PUBLIC_PREFECT_URL",
    "LAB_PUBLIC_MLFLOW_URL",
    "LAB_CREDENTIALS",
    "LAB_NOTIFICATIONS",
    "LAB_QUOTA_GB",
    "LAB_GPU_SLOTS",
    "LAB_RUNS_PER_USER",
    "LAB_RENDEZVOUS",
)
SECRET = ("LAB_DATABASE_URL",)
"""Those of them that may hold a password; a worker's flow runs have them from their worker."""


@dataclass(frozen=True)
class Settings(Folders):
    """One consistent set of settings; make it with `Settings.load()`.

    Attributes:
        home: LAB_HOME, absolute.
        prefect_port: port of the local Prefect server, 1–65535.
        mlflow_port: port of the local MLflow server, 1–65535.
        workers: how many flow runs the local worker runs at once, at least 1.
        data_mirror: folder path or http(s) address that is asked for data first; None for no mirror.
        remote_prefect: API address of a Prefect server elsewhere (`http://host:4200/api`); None for the local one.
        remote_mlflow: tracking address of an MLflow server elsewhere; None for the local one.
        database: SQLAlchemy address of the lab's PostgreSQL database; None for SQLite files in `home`.
        password_file: file with the password for it; None where the address has all.
        artifact_store: folder or address where MLflow's artifacts are kept; None for one in `home`.
        host: address that the servers listen on.
        public_hosts: names by which people reach the servers.
        public_prefect, public_mlflow: addresses that people open, such as a proxy's; None for the servers' own.
        credentials_file: where there is such a file, servers ask for credentials; None for one in `home`.
        notifications_file: what is sent to which webhook; None for one in `home`.
        quota: bytes that `home` may take; None for no limit.
        gpu_slots: how many runs use GPUs at once; None for one each.
        runs_per_user: how many runs one person may have queued and running; None for no limit.
        meeting_point: `host:port` at which the machines of one training meet; None for this machine's name.
    """

    prefect_port: int = PREFECT_PORT
    mlflow_port: int = MLFLOW_PORT
    workers: int = 2
    data_mirror: str | None = None
    remote_prefect: str | None = None
    remote_mlflow: str | None = None
    database: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    artifact_store: str | None = None
    host: str = LOOPBACK
    public_hosts: tuple[str, ...] = ()
    public_prefect: str | None = None
    public_mlflow: str | None = None
    credentials_file: Path | None = None
    notifications_file: Path | None = None
    quota: int | None = None
    gpu_slots: int | None = None
    runs_per_user: int | None = None
    meeting_point: str | None = None

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> "Settings":
        """Settings from `environment` (default: this process's), seen from `folder` (default: the current one).

        Raises:
            RequestError: a value is not what the variable can be; the message names the variable, the value and what is allowed.
        """
        values = {name: value.strip() for name, value in (os.environ if environment is None else environment).items()}
        folder = Path.cwd() if folder is None else folder
        home = variables.home(values.get("LAB_HOME", ""), folder)
        running = _running_ports(home)
        settings = cls(
            home=home,
            prefect_port=variables.integer(values, "LAB_PREFECT_PORT", running.get("LAB_PREFECT_PORT", PREFECT_PORT), 1, 65535),
            mlflow_port=variables.integer(values, "LAB_MLFLOW_PORT", running.get("LAB_MLFLOW_PORT", MLFLOW_PORT), 1, 65535),
            workers=variables.integer(values, "LAB_WORKERS", max(2, (os.cpu_count() or 1) // 2), 1, 1000),
            data_mirror=variables.mirror(values.get("LAB_DATA_MIRROR", ""), folder),
            remote_prefect=variables.address(values, "LAB_PREFECT_API_URL"),
            remote_mlflow=variables.address(values, "LAB_MLFLOW_URI"),
            database=postgres.checked(values.get("LAB_DATABASE_URL", "")),
            password_file=variables.file(values.get("LAB_DATABASE_PASSWORD_FILE", ""), folder),
            artifact_store=variables.artifacts(values.get("LAB_ARTIFACTS", ""), folder),
            host=values.get("LAB_HOST", "") or LOOPBACK,
            public_hosts=variables.hosts(values, "LAB_PUBLIC_HOSTS"),
            public_prefect=variables.address(values, "LAB_PUBLIC_PREFECT_URL"),
            public_mlflow=variables.address(values, "LAB_PUBLIC_MLFLOW_URL"),
            credentials_file=variables.file(values.get("LAB_CREDENTIALS", ""), folder),
            notifications_file=variables.file(values.get("LAB_NOTIFICATIONS", ""), folder),
            quota=variables.gigabytes(values, "LAB_QUOTA_GB"),
            gpu_slots=variables.optional_integer(values, "LAB_GPU_SLOTS", 0, 10_000),
            runs_per_user=variables.optional_integer(values, "LAB_RUNS_PER_USER", 1, 1_000_000),
            meeting_point=values.get("LAB_RENDEZVOUS") or None,
        )
        if settings.prefect_port == settings.mlflow_port:
            raise RequestError(f"LAB_PREFECT_PORT and LAB_MLFLOW_PORT are both {settings.prefect_port}; each server needs its own port")
        return settings

    @property
    def credentials(self) -> Path:
        """Who may use the servers; secured are they where this file exists."""
        return self.credentials_file or self.home / "credentials.json"

    @property
    def notifications(self) -> Path:
        """What is sent to which webhook."""
        return self.notifications_file or self.home / "notifications.yaml"

    # Addresses.

    @property
    def near_host(self) -> str:
        """The host by which this machine reaches its own servers."""
        return LOOPBACK if self.host in (*LOOPBACKS, *EVERYWHERE) else self.host

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines can reach the servers."""
        return self.host not in LOOPBACKS

    @property
    def public_host(self) -> str:
        """The host by which people open the servers in a browser."""
        return self.public_hosts[0] if self.public_hosts else self.near_host

    @property
    def prefect_api(self) -> str:
        """The Prefect API's address, without a slash at the end."""
        return self.remote_prefect or f"http://{self.near_host}:{self.prefect_port}/api"

    @property
    def prefect_ui(self) -> str:
        """The address that a person opens to see Prefect."""
        if self.public_prefect:
            return self.public_prefect
        return self.remote_prefect.removesuffix("/api") if self.remote_prefect else f"http://{self.public_host}:{self.prefect_port}"

    @property
    def mlflow_uri(self) -> str:
        """The MLflow server's address, without a slash at the end."""
        return self.remote_mlflow or f"http://{self.near_host}:{self.mlflow_port}"

    @property
    def mlflow_ui(self) -> str:
        """The address that a person opens to see MLflow."""
        return self.public_mlflow or self.remote_mlflow or f"http://{self.public_host}:{self.mlflow_port}"

    @property
    def mlflow_store(self) -> str:
        """The MLflow server's database as a SQLAlchemy address."""
        return self._store("mlflow", self.mlflow_database)

    @property
    def prefect_store(self) -> str:
        """The Prefect server's database as a SQLAlchemy address with a driver that Prefect takes."""
        if self.database:
            return postgres.address(self.database, "prefect", self.password_file, asynchronous=True)
        return f"sqlite+aiosqlite:///{self.prefect_database}"

    @property
    def lab_store(self) -> str:
        """The lab's own tables as a SQLAlchemy address."""
        return self._store("", self.lab_database)

    @property
    def optuna_store(self) -> str:
        """Optuna's studies as a SQLAlchemy address."""
        return self._store("", self.optuna_database)

    def _store(self, part: postgres.Part, file: Path) -> str:
        return postgres.address(self.database, part, self.password_file) if self.database else f"sqlite:///{file}"

    @property
    def artifact_root(self) -> str | None:
        """Where a new MLflow experiment keeps its files; None leaves it to the server, through which clients elsewhere send theirs."""
        if self.remote_mlflow or self.beyond_loopback:
            return None
        return self.artifact_destination if "://" in self.artifact_destination else Path(self.artifact_destination).as_uri()

    @property
    def artifact_destination(self) -> str:
        """The folder or address that artifacts end up in."""
        return self.artifact_store or str(self.artifacts)

    @property
    def rendezvous(self) -> str:
        """`host:port` at which the machines of one training meet."""
        return self.meeting_point or f"{os.uname().nodename}:{RENDEZVOUS_PORT}"

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
            "LAB_DATABASE_PASSWORD_FILE": self.password_file,
            "LAB_ARTIFACTS": self.artifact_store,
            "LAB_HOST": self.host,
            "LAB_PUBLIC_HOSTS": ",".join(self.public_hosts) or None,
            "LAB_PUBLIC_PREFECT_URL": self.public_prefect,
            "LAB_PUBLIC_MLFLOW_URL": self.public_mlflow,
            "LAB_CREDENTIALS": self.credentials_file,
            "LAB_NOTIFICATIONS": self.notifications_file,
            "LAB_QUOTA_GB": None if self.quota is None else f"{self.quota / variables.GIGABYTE!r}",
            "LAB_GPU_SLOTS": self.gpu_slots,
            "LAB_RUNS_PER_USER": self.runs_per_user,
            "LAB_RENDEZVOUS": self.meeting_point,
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    def prefect_environment(self) -> dict[str, str]:
        """The variables that every process which imports prefect needs, the server and the worker as well as clients.

        Prefect's home is made here, because Prefect falls back to another one when it does not exist.
        """
        self.prefect_home.mkdir(parents=True, exist_ok=True)
        given = {
            "PREFECT_HOME": str(self.prefect_home),
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_UI_URL": self.prefect_ui,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a client without a server should fail, not start a slow one of its own
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        login = access.read(self.credentials)
        return given | self._everywhere() | ({"PREFECT_API_AUTH_STRING": login.prefect.string} if login else {})

    def mlflow_environment(self) -> dict[str, str]:
        """The variables that every process which imports mlflow needs, the server as well as clients."""
        given = {
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a dozen processes and 2.7 GB
            "GIT_PYTHON_REFRESH": "quiet",
        }
        login = access.read(self.credentials)
        return given | self._everywhere() | (login.mlflow.for_mlflow() if login else {})

    def _everywhere(self) -> dict[str, str]:
        hosts = variables.no_proxy(*dict.fromkeys((LOOPBACK, "localhost", self.near_host)))
        return {"DO_NOT_TRACK": "1", "NO_PROXY": hosts, "no_proxy": hosts}


def _running_ports(home: Path) -> dict[str, int]:
    try:
        ports = json.loads((home / "run" / "servers.json").read_text())
        return {name: int(ports[name]) for name in ("LAB_PREFECT_PORT", "LAB_MLFLOW_PORT")}
    except (OSError, ValueError, KeyError, TypeError):  # not running, or the file of a power cut: the defaults do
        return {}
