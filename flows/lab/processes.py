"""The processes of the local servers, found by a marker in their environment and by nothing else.

Process ids in files lie after a power cut, and children outlive a killed supervisor. A variable in the environment is inherited by
every descendant, dies with its process, and tells one LAB_HOME from another; so it is the only thing that is trusted here. Processes
of other users are never looked at.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from flows.lab.settings import MARKER

SUPERVISOR = "supervisor"
FLOW_RUN = "flow run"
FLOW_RUN_SECONDS = 30.0
"""How long a flow run that is asked to stop has to save its checkpoint."""


def mark(home: Path) -> dict[str, str]:
    """The environment variable that makes a process, and all it starts, one of the servers of `home`."""
    return {MARKER: os.path.realpath(home)}


def marked(home: Path) -> list[psutil.Process]:
    """This user's processes that carry the marker of `home`; without this one and those that it runs in."""
    value, mine = os.path.realpath(home), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in mine and _environment(process).get(MARKER) == value]


def part(process: psutil.Process) -> str:
    """What a marked process belongs to: `supervisor`, `flow run`, or the server's name."""
    environment = _environment(process)
    if "PREFECT__FLOW_RUN_ID" in environment:
        return FLOW_RUN
    return environment.get("LAB_SERVER", SUPERVISOR)


def leftovers(home: Path, server: str) -> list[psutil.Process]:
    """What an earlier `server` of `home` left behind, seen from its successor; flow runs go on without their worker and do not count."""
    return [process for process in marked(home) if part(process) == server]


def flow_run_ids(home: Path) -> set[str]:
    """The Prefect ids of the flow runs whose processes are alive."""
    return {_environment(each).get("PREFECT__FLOW_RUN_ID", "") for each in marked(home)} - {""}


def end_flow_runs(home: Path, *, seconds: float = FLOW_RUN_SECONDS) -> None:
    """End the worker and its flow runs, and let these save what they have.

    The worker is suspended first: so it takes no queued flow run in place of one that stops, those stay queued, and the pipe that a
    flow run writes to stays open. Only the flow run's own process is asked (SIGTERM); a trainer below it is for the flow to stop.

    Args:
        home: LAB_HOME.
        seconds: how long flow runs have before they are killed.
    """
    found = marked(home)
    workers = [each for each in found if part(each) == "worker"]
    for worker in workers:
        _send(worker, signal.SIGSTOP)
    flow_runs = [each for each in marked(home) if part(each) == FLOW_RUN]
    inside = {each.pid for each in flow_runs}
    for flow_run in flow_runs:
        if _parent(flow_run) not in inside:
            _send(flow_run, signal.SIGTERM)
    begin = time.monotonic()
    while any(alive(each) for each in flow_runs) and time.monotonic() - begin < seconds:
        time.sleep(0.1)
    kill([*workers, *(each for each in marked(home) if part(each) == FLOW_RUN)])


def ask_to_end(processes: Iterable[psutil.Process]) -> None:
    """Send SIGTERM and wait for nothing."""
    for process in processes:
        _send(process, signal.SIGTERM)


def end(processes: Iterable[psutil.Process], *, seconds: float = 10.0) -> None:
    """Ask `processes` to end (SIGTERM), and kill those that have not after `seconds`."""
    there = list(processes)
    ask_to_end(there)
    _, stubborn = psutil.wait_procs(there, timeout=seconds)
    kill(stubborn)


def kill(processes: Iterable[psutil.Process], *, seconds: float = 5.0) -> None:
    """End `processes` at once (SIGKILL) and wait up to `seconds` until they are gone."""
    there = list(processes)
    for process in there:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(there, timeout=seconds)


def alive(process: psutil.Process) -> bool:
    """Whether the process still does something; one that is dead but not collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def memory(processes: Iterable[psutil.Process]) -> int:
    """Bytes of memory that `processes` hold together; shared pages count for each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def uptime(process: psutil.Process) -> float:
    """Seconds since the process was started."""
    return max(0.0, time.time() - process.create_time())


def owner_of_port(port: int) -> str | None:
    """A few words on who listens on a local TCP `port`; None when nobody does or the system does not say."""
    pid = _listener(port)
    return None if pid is None else _describe(pid)


def home_of_port(port: int) -> str | None:
    """The LAB_HOME of the lab that listens on a local TCP `port`; None when none does, or the system does not say."""
    pid = _listener(port)
    try:
        return None if pid is None else _environment(psutil.Process(pid)).get(MARKER)
    except psutil.NoSuchProcess:
        return None


def _listener(port: int) -> int | None:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    listening = (each for each in connections if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN)
    return next((each.pid for each in listening if each.pid), None)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _describe(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        other = _environment(process).get(MARKER)
        return f"the lab of {other}" if other else f"{process.name()} (process {pid})"
    except psutil.NoSuchProcess:
        return None


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        if process.uids().real != os.getuid():
            return {}
        return dict(process.environ())
    except (psutil.Error, OSError):  # it has ended, or the system hides it
        return {}
