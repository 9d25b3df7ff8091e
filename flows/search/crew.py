"""The workers of a sweep on this machine: processes, each with its share of the cores or its GPU, started again where one is killed."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import Any

from components.errors import RequestError, RunError
from flows.child import GRACE_SECONDS, Child, Lines
from flows.lab.servers import count_gpus
from flows.lab.settings import Settings

DEATHS = 5
"""So many workers in a row may die before one of them has finished a trial; then something is wrong with the machine, not with a trial."""

Watch = Callable[[dict[str, Any]], None]


class Crew:
    """Workers of one sweep.

    Args:
        sweep: its name.
        workers: how many.
        stacked: whether each trains many trials together where that pays (flows/search/stacks.py).
        watch: called with every line that a worker says, in the thread that listens; lines have `worker`, its place from 0.
    """

    def __init__(self, sweep: str, workers: int, settings: Settings, *, stacked: bool = False, watch: Watch = lambda _: None) -> None:
        self.sweep, self.settings, self.stacked, self.watch = sweep, settings, stacked, watch
        self.lines: Lines = queue.SimpleQueue()
        self.deaths = 0
        self.stopping = False
        self.children: dict[int, Child] = {}
        self._shares = shares(workers)
        for place in range(workers):
            self._start(place)

    def _start(self, place: int) -> None:
        def hear(line: dict[str, Any] | None) -> dict[str, Any]:
            return {"kind": "end", "worker": place} if line is None else {**line, "worker": place}

        gpus = count_gpus()
        environment = {"CUDA_VISIBLE_DEVICES": str(place % gpus)} if gpus and "CUDA_VISIBLE_DEVICES" not in os.environ else {}
        request = {"sweep": self.sweep, "cores": self._shares[place], "stacked": self.stacked, "workers": len(self._shares)}
        self.children[place] = Child("flows.search.worker", request, self.settings, lines=self.lines, hear=hear, environment=environment)

    @property
    def running(self) -> bool:
        """Whether a worker is there."""
        return bool(self.children)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [child.process.pid for child in self.children.values()]

    def listen(self, seconds: float) -> None:
        """Pass on what the workers say, for about `seconds` or until something was said.

        Raises:
            RequestError, RunError: a worker says that the sweep cannot go on; or they die, one after the other.
        """
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return
        assert line is not None
        if line["kind"] == "end":
            self._ended(line["worker"])
            return
        if line["kind"] == "trial" and line["state"] in ("complete", "pruned", "failed"):
            self.deaths = 0
        self.watch(line)
        if line["kind"] == "error":
            raise (RequestError if line["exit"] == 2 else RunError)(line["message"])

    def _ended(self, place: int) -> None:
        child = self.children.pop(place)
        how, code = child.how_it_ended(), child.process.returncode
        child.end(grace=0)
        if code == 0 or self.stopping:
            return
        self.deaths += 1
        if self.deaths >= DEATHS:
            raise RunError(f"{self.deaths} workers ended one after the other without finishing a trial; the last one {how}")
        self.watch({"kind": "warning", "message": f"worker {place + 1} {how}; it is started again and its trial goes on", "worker": place})
        self._start(place)

    def stop(self) -> None:
        """Ask every worker to save its trial and end. Returns at once."""
        self.stopping = True
        for child in self.children.values():
            child.stop()

    def kill(self) -> None:
        """End every worker at once."""
        self.stopping = True
        for child in self.children.values():
            child.process.kill()

    def end(self, *, grace: float = GRACE_SECONDS) -> None:
        """Make sure that no worker is left."""
        self.stop()
        for child in self.children.values():
            child.end(grace=grace)
        self.children.clear()


def room() -> int:
    """How many workers keep this machine busy: one for each GPU, else for each core."""
    return count_gpus() or threads(1)


def shares(workers: int) -> list[list[int]]:
    """The cores of each worker: this process's cores dealt out evenly; where there are more workers than cores, cores are shared."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    each = threads(workers)
    return [[cores[(place * each + i) % len(cores)] for i in range(each)] for place in range(workers)]


def threads(workers: int) -> int:
    """How many threads each worker has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
