"""Looks after a trainer process: starts it, listens to it, stops it gently, starts it again where it was killed.

Everything else that a run needs while it trains — the courier to MLflow, Prefect's bookkeeping, a progress bar — lives in this
supervising process, on the other core, so that the training waits for none of it. When this process dies, whatever way, the trainer
finds its standard input closed, writes a checkpoint and ends: nothing is left behind.
"""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.errors import Interrupted, RequestError, RunError, UntrainedError
from flows.child import GRACE_SECONDS, Child
from flows.lab.settings import Settings

Watch = Callable[[dict[str, Any]], None]
"""Told every line the trainer says (see flows/trainer.py)."""


class TrainerDied(RunError):  # noqa: N818 — it says what happened
    """The trainer process was killed or crashed; its run can go on from the last checkpoint."""


class Training:
    """One trainer process and what it has said so far.

    Args:
        request: `{"overrides": [...]}` or `{"resume": RUN}`, as in flows/trainer.py.
        settings: whose LAB_HOME the run belongs to.
        watch: called with every line, in the thread that waits.
    """

    def __init__(self, request: dict[str, Any], settings: Settings, *, watch: Watch = lambda _: None) -> None:
        self.settings, self.watch = settings, watch
        self.run: str | None = request.get("resume")
        self.config: dict[str, Any] = {}
        self.result: dict[str, Any] | None = None
        self.finished: set[str] = set()
        """Stages that are done."""
        self.started: set[str] = set()
        self.stop_asked = False
        self.ended = False
        """Everything the process had to say has been heard."""
        self.done = False
        """It ended because nothing was left to do."""
        self._start(request)

    # ------------------------------------------------------------------ the process

    def _start(self, request: dict[str, Any]) -> None:
        self.child = Child("flows.trainer", request, self.settings)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The trainer's process."""
        return self.child.process

    @property
    def pid(self) -> int:
        """The trainer's process id."""
        return self.process.pid

    @property
    def folder(self) -> Path:
        """The run's folder, once the run exists."""
        assert self.run is not None
        return self.settings.runs / self.run

    def restart(self) -> None:
        """Go on with the run in a new process, from its last checkpoint."""
        assert self.run is not None, "a request that was never accepted cannot be resumed"
        self.child.end()
        self.ended = False
        self._start({"resume": self.run})

    def stop(self) -> None:
        """Ask the trainer to write a checkpoint and end. Returns at once; `wait` learns of the end."""
        self.stop_asked = True
        self.child.stop()

    def close(self, *, grace: float = GRACE_SECONDS) -> None:
        """Make sure that no process is left: ask, wait `grace` seconds for the checkpoint, then kill."""
        self.child.end(grace=grace)

    # ------------------------------------------------------------------ listening

    def wait(self, reached: Callable[[Training], bool] = lambda _: False) -> None:
        """Listen until `reached(self)` or the end of the process, passing every line to `watch`.

        Raises:
            RequestError: the request was wrong; nothing was started.
            RunError: the run failed (TrainerDied: its process was killed or crashed).
            Interrupted: it was asked to stop and has saved a checkpoint.
        """
        while not reached(self):
            line = self._next()
            if line is None:
                self.ended = True
                self._raise_if_died()
                return
            self._note(line)
            self.watch(line)
            if line["kind"] in {"error", "interrupted"}:
                self.ended = True
            if line["kind"] == "error":
                raise _error(line)
            if line["kind"] == "interrupted":
                raise Interrupted(line["message"])

    def _next(self) -> dict[str, Any] | None:
        while True:
            try:
                return self.child.lines.get(timeout=0.2)  # wakes up so that signal handlers run
            except queue.Empty:
                continue

    def _note(self, line: dict[str, Any]) -> None:
        if line["kind"] == "run":
            self.run, self.config = line["run"], line["config"]
        elif line["kind"] == "stage" and line["state"] == "started":
            self.started.add(line["name"])
        elif line["kind"] == "stage" and line["state"] == "finished":
            self.finished.add(line["name"])
        elif line["kind"] == "result":
            self.result = {key: value for key, value in line.items() if key != "kind"}

    def _raise_if_died(self) -> None:
        if self.process.wait() == 0:
            self.done = True
            return
        raise TrainerDied(f"the trainer process {self.child.how_it_ended()}")


def _error(line: Mapping[str, Any]) -> RequestError | RunError:
    """The error that the process has told of."""
    if line.get("untrained"):
        return UntrainedError(line["message"])
    return (RequestError if line["exit"] == 2 else RunError)(line["message"])
