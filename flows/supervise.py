"""Looks after a trainer process: starts it, listens to it, stops it gently, starts it again where it was killed.

Everything else that a run needs while it trains — the courier to MLflow, Prefect's bookkeeping, a progress bar — lives in this
supervising process, on the other core, so that the training waits for none of it. When this process dies, whatever way, the trainer
finds its standard input closed, writes a checkpoint and ends: nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from components.errors import Interrupted, RequestError, RunError
from flows.lab.settings import Settings

GRACE_SECONDS = 25.0
"""How long a trainer may take to write its checkpoint before it is killed. Prefect's worker gives a flow 30 s."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep instead of spinning, unless the person has said otherwise: docs/adr/0011-threads.md."""

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
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 — open as long as the process runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**WAITING, **os.environ, **self.settings.lab_environment()},
            start_new_session=True,  # Ctrl-C in the terminal reaches only us; we pass it on once, as a request to stop
        )
        self.lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True, name="trainer-output").start()
        self._say(request)

    @staticmethod
    def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                with contextlib.suppress(ValueError):  # a killed trainer may leave half a line
                    lines.put(json.loads(line))
        lines.put(None)

    def _say(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; whoever waits for it learns why

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
        self._close()
        self.ended = False
        self._start({"resume": self.run})

    def stop(self) -> None:
        """Ask the trainer to write a checkpoint and end. Returns at once; `wait` learns of the end."""
        self.stop_asked = True
        self._say({"stop": True})

    def close(self, *, grace: float = GRACE_SECONDS) -> None:
        """Make sure that no process is left: ask, wait `grace` seconds for the checkpoint, then kill."""
        if self.process.poll() is None:
            self.stop()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._close()

    def _close(self) -> None:
        self.process.wait()
        for stream in (self.process.stdin, self.errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

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
                raise (RequestError if line["exit"] == 2 else RunError)(line["message"])
            if line["kind"] == "interrupted":
                raise Interrupted(line["message"])

    def _next(self) -> dict[str, Any] | None:
        while True:
            try:
                return self.lines.get(timeout=0.2)  # wakes up so that signal handlers run
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
        code = self.process.wait()
        if code == 0:
            self.done = True
            return
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            what += " (is there enough memory?)"
        raise TrainerDied(f"the trainer process {what}{self._last_words()}")

    def _last_words(self) -> str:
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""
