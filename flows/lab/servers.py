"""Start and stop the local Prefect server, MLflow server and worker.

supervisord (infra/supervisord.conf) keeps them running and their logs small; `flows.lab.launch` becomes each of them. Nothing here
believes a file about what runs: processes are found by their marker (see `flows.lab.processes`), so a power cut leaves nothing to
clean up, and `down` also finds what a killed supervisord left behind. Why it is done like this: docs/adr/0006-supervised-servers.md.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import psutil

from components.errors import RequestError, RunError
from flows.lab import access, health, launch, postgres, processes, published
from flows.lab.settings import LOOPBACK, Settings

Say = Callable[[str], None]
"""Takes one line for the person who waits."""

CONFIGURATION = Path(__file__).parents[2] / "infra" / "supervisord.conf"
TITLES = {"prefect": "Prefect server", "mlflow": "MLflow server", "worker": "worker"}
_POLL_SECONDS = 0.2
_STARTS_ALLOWED = 3


def wanted(settings: Settings) -> list[str]:
    """The servers that `up` starts here, in the order in which they have to be ready."""
    remote = {"prefect": settings.remote_prefect, "mlflow": settings.remote_mlflow}
    return [server for server in TITLES if remote.get(server) is None]


def supervised(settings: Settings) -> psutil.Process | None:
    """The supervisord of this LAB_HOME, when one runs."""
    return next((found for found in processes.marked(settings.home) if processes.part(found) == processes.SUPERVISOR), None)


def up(settings: Settings, say: Say, *, team: bool = False, timeout: float = 180.0, deployments: str = "flows.deployments") -> bool:
    """Start everything and return when all of it answers; False, and nothing changed, when it was running already.

    Args:
        settings: which LAB_HOME, which ports.
        say: is told each step.
        team: make credentials, where there are none, as soon as nothing stands in the way of a start.
        timeout: seconds until everything has to answer; what was started is stopped again after that.
        deployments: module that registers the flows with the server when it is run (`python -m …`); left out while there is none.

    Raises:
        RequestError: a port is busy, LAB_HOST is no address of this machine, LAB_HOME cannot be written, or the notifications are wrong.
        RunError: a server does not come up (the message ends with the last lines of its log), or somebody else is starting it.
    """
    _make_folders(settings)
    with _lock(settings):
        if supervised(settings):
            return False
        _clear_orphans(settings, say)
        serves = wanted(settings) != ["worker"]
        if serves:
            _check_host(settings)
        if serves and not team:
            launch.refuse_strangers(settings)
        _check_ports(settings)
        if serves:
            check_database(settings)
        published.check(settings)
        if serves and team and access.make(settings.credentials):
            say(f"made credentials for everybody: they are in {settings.credentials}, which only you may read")
        started = datetime.now(UTC)
        settings.running_file.write_text(json.dumps({"LAB_PREFECT_PORT": settings.prefect_port, "LAB_MLFLOW_PORT": settings.mlflow_port}))
        try:
            _start_supervisor(settings)
            _wait_until_ready(settings, started, time.monotonic() + timeout, say)
            _register(settings, deployments, started, say)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                say("stopping what was started")
            stop(settings, say)
            raise
    return True


def down(settings: Settings, say: Say) -> bool:
    """Stop everything that belongs to this LAB_HOME; False when nothing ran. An `up` that is still at work is stopped as well."""
    if not settings.home.is_dir():
        return False
    try:
        with _lock(settings):
            return stop(settings, say)
    except LockedError:
        return stop(settings, say)


def stop(settings: Settings, say: Say) -> bool:
    """What `down` does, for a caller that holds the lock."""
    found = processes.marked(settings.home)
    if any(processes.part(each) == processes.FLOW_RUN for each in found):
        say(f"asking the running flow runs to save and stop; they have {processes.FLOW_RUN_SECONDS:.0f} s")
    supervisors = [each for each in found if processes.part(each) == processes.SUPERVISOR]
    processes.ask_to_end(supervisors)
    _wait_until_gone(supervisors, processes.FLOW_RUN_SECONDS + 60, say)
    processes.kill(supervisors)  # what is stopped below must not be started again
    processes.end_flow_runs(settings.home)
    processes.end(processes.marked(settings.home))
    while rest := [each for each in processes.marked(settings.home) if processes.alive(each)]:
        processes.kill(rest)
    settings.running_file.unlink(missing_ok=True)
    return bool(found)


def log_tail(settings: Settings, server: str, lines: int = 15) -> str:
    """The last lines of a server's log, indented; a note when it has none."""
    file = settings.logs / f"{server}.log"
    try:
        text = file.read_text(errors="replace")[-20_000:]
    except OSError:
        text = ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or f"    ({file} is empty)"


class LockedError(RunError):
    """Another process is starting or stopping the same lab."""


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    settings.run.mkdir(parents=True, exist_ok=True)
    with settings.lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise LockedError(f"process {file.read().strip() or '?'} is already starting or stopping this lab; wait for it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _make_folders(settings: Settings) -> None:
    try:
        for folder in (settings.home, settings.run, settings.logs, settings.artifacts, settings.prefect_home):
            folder.mkdir(parents=True, exist_ok=True)
        (settings.run / "probe").write_text("")
        (settings.run / "probe").unlink()
    except OSError as error:
        raise RequestError(f"LAB_HOME {str(settings.home)!r} cannot be written: {error.strerror}; set LAB_HOME to another folder") from None


def _clear_orphans(settings: Settings, say: Say) -> None:
    orphans = [each for each in processes.marked(settings.home) if processes.part(each) != processes.FLOW_RUN]
    if orphans:
        say(f"ending {len(orphans)} processes that an earlier lab left behind")
        processes.kill(orphans)


def check_database(settings: Settings) -> None:
    """Refuse to begin with a PostgreSQL that does not answer, or that has not been made ready.

    Raises:
        RequestError: a database is missing.
        RunError: it does not answer.
    """
    if settings.database and (missing := postgres.missing(settings.database, settings.password_file)):
        raise RequestError(f"PostgreSQL has no database {' or '.join(missing)}: lab init-db makes what is missing")


def _check_host(settings: Settings) -> None:
    try:
        with _socket(settings.host) as candidate:
            candidate.bind((settings.host, 0))
    except (OSError, UnicodeError):
        raise RequestError(
            f"LAB_HOST is {settings.host!r}, and this machine has no such address ({LOOPBACK} is for itself only, 0.0.0.0 for all)"
        ) from None


def _check_ports(settings: Settings) -> None:
    ports = {"prefect": ("LAB_PREFECT_PORT", settings.prefect_port), "mlflow": ("LAB_MLFLOW_PORT", settings.mlflow_port)}
    for server, (variable, port) in ports.items():
        if server in wanted(settings) and not port_is_free(port, settings.host):
            who = processes.owner_of_port(port) or "another program"
            raise RequestError(
                f"port {port} of the {TITLES[server]} is used by {who}; choose another with {variable}={free_port_near(port)}"
            )


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `port` of `host` now."""
    with _socket(host) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def free_port_near(port: int) -> int:
    """The next free loopback port above `port`; `port` itself when there is none nearby."""
    return next((near for near in range(port + 1, min(port + 200, 65536)) if port_is_free(near)), port)


def _start_supervisor(settings: Settings) -> None:
    chosen = wanted(settings)
    environment = os.environ | settings.lab_environment() | processes.mark(settings.home)
    environment |= {
        "LAB_PYTHON": sys.executable,
        "LAB_START_PREFECT": str("prefect" in chosen).lower(),
        "LAB_START_MLFLOW": str("mlflow" in chosen).lower(),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("LAB_SERVER", None)
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIGURATION)]
    done = subprocess.run(command, env=environment, cwd=settings.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:  # it goes into the background by itself, after it has read its configuration
        raise RunError(f"supervisord does not start: {(done.stderr or done.stdout).strip().splitlines()[0]}")


def _wait_until_ready(settings: Settings, started: datetime, deadline: float, say: Say) -> None:
    waiting = wanted(settings)
    begin = time.monotonic()
    starts: dict[str, set[int]] = {server: set() for server in waiting}
    for server in waiting:
        say(f"starting the {TITLES[server]}")
    while waiting:
        supervisor = supervised(settings)
        if supervisor is None:
            tail = log_tail(settings, "supervisord")
            raise RunError(f"the servers were stopped while they were being started; the end of {settings.logs}/supervisord.log:\n{tail}")
        for server in list(waiting):
            if health.answers(settings, server, since=started):
                waiting.remove(server)
                say(f"{TITLES[server]} ready after {time.monotonic() - begin:.1f} s")
        for process in processes.marked(settings.home):
            if processes.part(process) in waiting and process.ppid() == supervisor.pid:
                starts[processes.part(process)].add(process.pid)
        for server in waiting:
            late = time.monotonic() > deadline
            if late or len(starts[server]) > _STARTS_ALLOWED:
                how = f"did not answer within {time.monotonic() - begin:.0f} s" if late else "keeps ending right after its start"
                raise RunError(f"the {TITLES[server]} {how}; the end of {settings.logs / server}.log:\n{log_tail(settings, server)}")
        time.sleep(_POLL_SECONDS)


def _register(settings: Settings, deployments: str, started: datetime, say: Say) -> None:
    """Put right what is on the Prefect server: the `gpu` limit, flow runs that a power cut ended, the deployed flows."""
    try:
        if settings.gpu_slots is None and (gpus := count_gpus()):
            health.ensure_concurrency_limit(settings, "gpu", gpus)
        if settings.remote_prefect is None:
            lost = health.settle_lost_flow_runs(settings, processes.flow_run_ids(settings.home), started)
            if lost:
                say(f"{len(lost)} flow runs that were cut off are marked as crashed or queued again")
    except OSError as error:
        raise RunError(f"the Prefect server refused a request: {error}") from None
    if find_spec(deployments) is None:
        return
    say("deploying the flows")
    environment = os.environ | settings.lab_environment() | settings.prefect_environment() | settings.mlflow_environment()
    with (settings.logs / "deploy.log").open("wb") as output:
        command = [sys.executable, "-m", deployments]
        marker = processes.mark(settings.home)
        done = subprocess.run(command, env=environment | marker, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RunError(f"the flows could not be deployed; the end of {settings.logs / 'deploy.log'}:\n{log_tail(settings, 'deploy')}")
    for line in (settings.logs / "deploy.log").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(published.TROUBLE):
            say(line)


def count_gpus(devices: Path = Path("/dev")) -> int:
    """The number of NVIDIA GPUs of this machine, by their device files, without loading a driver."""
    return sum(1 for device in devices.glob("nvidia[0-9]*") if device.name.removeprefix("nvidia").isdigit())


def _wait_until_gone(waited_for: Sequence[psutil.Process], seconds: float, say: Say) -> None:
    begin, said = time.monotonic(), 0
    while any(processes.alive(each) for each in waited_for) and time.monotonic() - begin < seconds:
        waited = time.monotonic() - begin
        if int(waited) // 5 > said:
            said = int(waited) // 5
            say(f"still stopping after {waited:.0f} s")
        time.sleep(0.1)
