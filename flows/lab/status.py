"""What runs, what it costs, and what lies on the disk: looks only, changes nothing, and needs no server to answer."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psutil

from flows.lab import disk, health, limits, processes
from flows.lab.servers import TITLES
from flows.lab.settings import WORK_POOL, Settings

State = Literal["running", "starting", "stopped", "not answering"]


@dataclass(frozen=True)
class Server:
    """One row of `lab status`.

    Attributes:
        name: `prefect`, `mlflow` or `worker`.
        state: `starting` is a process that does not answer yet; `not answering` is a server elsewhere that does not.
        address: what to open in a browser; for the worker, its pool.
        pid: of the server's first process; None when none runs on this machine.
        uptime_seconds: since that process was started; None as above.
        memory_bytes: of all processes of the server; None as above.
    """

    name: str
    state: State
    address: str
    pid: int | None = None
    uptime_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Status:
    """The answer of `lab status`.

    Attributes:
        home: LAB_HOME.
        servers: one each, in the order of their start.
        flow_runs: how many are `running` and `queued`; None when the Prefect server does not answer.
        flow_run_bytes: memory of the flow runs' processes on this machine.
        disk: bytes of each part of LAB_HOME.
        disk_complete: False when the sizes are lower bounds, because there was too much to count.
        quota: how much of LAB_QUOTA_GB that is; None without a quota.
        free_bytes: free on the disk of LAB_HOME.
    """

    home: str
    servers: list[Server]
    flow_runs: dict[str, int] | None
    flow_run_bytes: int
    disk: dict[str, int]
    disk_complete: bool
    quota: limits.Quota | None
    free_bytes: int

    @property
    def running(self) -> bool:
        """Whether every server does its work."""
        return all(server.state == "running" for server in self.servers)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "running": self.running}


def look(settings: Settings) -> Status:
    """The state of the servers and of the disk, in well under a second."""
    found: dict[str, list[psutil.Process]] = {}
    for process in processes.marked(settings.home):
        found.setdefault(processes.part(process), []).append(process)
    now = datetime.now(UTC).isoformat()
    with ThreadPoolExecutor() as pool:
        answering = {name: pool.submit(health.answers, settings, name, timeout=0.5) for name in TITLES}
        flow_runs = pool.submit(_flow_runs, settings, now)
        sizes = pool.submit(disk.sizes, settings.home)
        servers = [_server(settings, name, found.get(name, []), answers=answering[name].result()) for name in TITLES]
    taken, complete = sizes.result()
    return Status(
        home=str(settings.home),
        servers=servers,
        flow_runs=flow_runs.result(),
        flow_run_bytes=processes.memory(found.get(processes.FLOW_RUN, [])),
        disk=taken,
        disk_complete=complete,
        quota=limits.quota(settings, sum(taken.values())),
        free_bytes=shutil.disk_usage(next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())).free,
    )


def _server(settings: Settings, name: str, found: list[psutil.Process], *, answers: bool) -> Server:
    remote = {"prefect": settings.remote_prefect, "mlflow": settings.remote_mlflow}.get(name)
    address = {"prefect": settings.prefect_ui, "mlflow": settings.mlflow_ui, "worker": f"pool {WORK_POOL}"}[name]
    if remote:
        return Server(name, "running" if answers else "not answering", address)
    try:
        first = min(found, key=psutil.Process.create_time)
        state: State = "running" if answers else "starting"
        return Server(name, state, address, first.pid, round(processes.uptime(first), 1), processes.memory(found))
    except (ValueError, psutil.NoSuchProcess):  # none runs, or it has just ended
        return Server(name, "stopped", address)


def _flow_runs(settings: Settings, now: str) -> dict[str, int] | None:
    try:
        return health.flow_runs(settings, now=now, timeout=0.5)
    except OSError:
        return None
