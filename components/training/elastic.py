"""A group of processes by torch's elastic launcher: started together, and started together again when one of them is killed.

Every machine that takes part runs one launcher. They meet at the `rendezvous`, a TCP address that the first machine holds open and the
others know; through it the first machine also says what is to be done. Whoever can reach that address can take part: it belongs into a
network that only the group's machines are in.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub does not export it
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from components.errors import RequestError, RunError

RESTARTS = 5
"""So often a group is started again; then something is wrong with more than one process."""
WAIT = timedelta(minutes=30)
"""How long machines wait for each other."""
ABORT = signal.SIGUSR1
"""What ends the launcher and all its processes at once; the signals that ask for a proper end stay the caller's."""
REQUEST = "lab/request"
LOOPBACK = "127.0.0.1"


def launch(
    work: Callable[..., None], arguments: tuple[Any, ...], *, run: str, processes: int, nodes: int, rendezvous: str, hosts: bool
) -> None:
    """Call `work(*arguments)` in `processes` new processes here and as many on each of the other machines; returns when all are done.

    Args:
        work: a function of a module; it is called again, in new processes, when a process of any machine dies.
        run: a name that all launchers of the group share.
        rendezvous: `host:port`; for one machine any free port of it is taken.
        hosts: whether this is the machine that holds the address open.

    Raises:
        RunError: processes die again and again, or the other machines do not come.
        SignalException: the signal ABORT came.
    """
    # By default one store serves all attempts, and a process that was started again finds there where a dead one listened.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=run,
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous if nodes > 1 else f"{LOOPBACK}:0",
        rdzv_configs={"is_host": hosts, "timeout": int(WAIT.total_seconds()), "join_timeout": int(WAIT.total_seconds())},
        max_restarts=RESTARTS,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        local_addr=LOOPBACK if nodes == 1 else own_address(rendezvous),
        signals_to_handle=ABORT.name,
    )
    before = signal.signal(ABORT, _abort)  # the launcher listens only while processes run
    try:
        elastic_launch(config, work)(*arguments)
    except ChildFailedError as error:
        raise RunError(_in_words(error)) from error
    except dist.DistError as error:
        raise RunError(f"the machines of the group have lost each other: {str(error).splitlines()[0]}") from error
    finally:
        signal.signal(ABORT, before)


def offer(rendezvous: str, request: str) -> Any:
    """Hold the address open, and have `request` ready for whoever comes; what is returned has to be kept until the group has ended.

    Raises:
        RequestError: the address is no `host:port`, or somebody else has it.
    """
    host, port = split_address(rendezvous)
    try:
        store = TCPStore(host, port, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=WAIT)
    except (dist.DistError, RuntimeError) as error:
        raise RequestError(f"cannot listen on {rendezvous}: {str(error).splitlines()[0]}") from error
    store.set(REQUEST, request)
    return store


def ask(rendezvous: str, *, wait: timedelta = timedelta(seconds=60)) -> str:
    """What the first machine has offered; RequestError when nobody is there."""
    host, port = split_address(rendezvous)
    try:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
        return str(store.get(REQUEST).decode())
    except (dist.DistError, RuntimeError) as error:
        raise RequestError(f"no training waits at {rendezvous}: {str(error).splitlines()[0]}") from error


def place(*, leads: bool) -> tuple[Any, int, int]:
    """In a process that `launch` started: the group's store, this process's rank and the group's size.

    The launchers number the machines as they like; here the first process of the machine that leads is number 0.
    """
    from torch.distributed.rendezvous import rendezvous

    end_with_launcher()
    store, rank, size = next(rendezvous("env://", timeout=WAIT))
    if leads and local_rank() == 0:
        store.set("lab/first", str(rank))
    return store, (rank - int(store.get("lab/first"))) % size, size


def end_with_launcher() -> None:
    """From now on this process ends within a second or two of its launcher, however that ended: nobody would take what it computes."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ["LOCAL_RANK"])


def restarts() -> int:
    """How often the group of this process has been started again."""
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as its parts. RequestError when it is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise RequestError(f"{address!r} is no address of a training (it has to be host:port, such as 10.0.0.1:29400)")
    return host, int(port)


def own_address(rendezvous: str) -> str:
    """This machine's address in the network where the rendezvous is."""
    host, port = split_address(rendezvous)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        try:
            probe.connect((host, port))
        except OSError as error:
            raise RequestError(f"{host} cannot be reached: {error.strerror or error}") from error
        return str(probe.getsockname()[0])


def _abort(_number: int, _frame: object) -> None:
    raise SignalException("the group is to end", ABORT)


def _in_words(error: ChildFailedError) -> str:
    _, failure = error.get_first_failure()
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with exit code {failure.exitcode}"
    return f"the group was started {RESTARTS + 1} times, and each time a process of it died; in the end process {failure.local_rank} {how}"
