"""A process that works for this one: it is told what to do by JSON lines on its standard input and says by JSON lines how it goes.

    parent                                    child (`python -m MODULE`)
    child = Child(MODULE, request, settings)  request = listen()       the first line; from then on: is it time to stop?
    child.next()                              voice({"kind": …})
    child.stop()                              stop.is_set()            also at end-of-file: whoever listened is gone

Whatever way the parent dies, its child finds its standard input closed, saves what it has and ends: nothing is left behind.
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
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from components.errors import Interrupted, LabError, UntrainedError
from flows.lab.settings import Settings

GRACE_SECONDS = 25.0
"""How long a child may take to save what it has before it is killed. Prefect's worker gives a flow 30 s."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait for each other sleep instead of spinning, unless the person has said otherwise: docs/adr/0011-threads.md."""

INTERRUPTED = 3
"""Exit code of a child that was asked to stop and saved what it had."""

Lines = queue.SimpleQueue[dict[str, Any] | None]


class Child:
    """The parent's end.

    Args:
        module: what to run: `python -m module`.
        request: the first line that it is told.
        settings: the lab that it belongs to.
        lines: where what it says goes; None comes at its end. Several children may share one queue (then `hear` marks whose line it is).
        hear: what becomes of a line before it goes into the queue.
        environment: more variables for it.
    """

    def __init__(
        self,
        module: str,
        request: Mapping[str, Any],
        settings: Settings,
        *,
        lines: Lines | None = None,
        hear: Callable[[dict[str, Any] | None], dict[str, Any] | None] = lambda line: line,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 — open as long as the process runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**WAITING, **os.environ, **settings.lab_environment(), **(environment or {})},
            start_new_session=True,  # Ctrl-C in the terminal reaches only us; we pass it on once, as a request to stop
        )
        self.lines: Lines = lines or queue.SimpleQueue()
        threading.Thread(target=self._read, args=(hear,), daemon=True, name=f"output of {module}").start()
        self.say(request)

    def _read(self, hear: Callable[[dict[str, Any] | None], dict[str, Any] | None]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                with contextlib.suppress(ValueError):  # a killed process may leave half a line
                    self.lines.put(hear(json.loads(line)))
        self.lines.put(hear(None))

    def say(self, line: Mapping[str, Any]) -> None:
        """One line to the child; nothing happens when it has ended: whoever waits for it learns why."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """Ask it to save what it has and end. Returns at once."""
        self.say({"stop": True})

    def end(self, *, grace: float = GRACE_SECONDS) -> None:
        """Make sure that no process is left: ask, wait up to `grace` seconds, then kill."""
        if self.process.poll() is None:
            self.stop()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def how_it_ended(self) -> str:
        """In words: its signal or exit code, and the last line that it wrote to standard error."""
        code = self.process.wait()
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            what += " (is there enough memory?)"
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        return what + (f": {text.splitlines()[-1]}" if text else "")


class stopping_on_signals(contextlib.AbstractContextManager[None]):  # noqa: N801 — it reads as the verb that it is
    """While the context is open these signals call `stop`, instead of doing what they did before."""

    def __init__(self, stop: Callable[[], None], *numbers: int) -> None:
        self.stop, self.numbers = stop, numbers
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, lambda *_: self.stop()) for number in self.numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Voice:
    """The child's end: lines to the parent, by its standard output or another open file; silent once nobody reads them."""

    def __init__(self, descriptor: int = 1) -> None:
        self.file = os.fdopen(os.dup(descriptor), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a library prints must not end up between our lines
        self.last_progress = 0.0
        warnings.showwarning = lambda message, *_, **__: self({"kind": "warning", "message": str(message)})

    def __call__(self, line: dict[str, Any]) -> None:
        """Say one line; of the lines about progress at most ten a second are said."""
        if line["kind"] == "progress" and line["step"] not in (0, line["total"]):
            now = time.monotonic()
            if now - self.last_progress < 0.1:
                return
            self.last_progress = now
        with contextlib.suppress(BrokenPipeError):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


class Stop(threading.Event):
    """Set when it is time to stop; whoever works asks, or is interrupted where it is."""

    def __init__(self) -> None:
        super().__init__()
        self._interruption: str | None = None

    def __call__(self) -> bool:
        """Whether it is time to stop."""
        return self.is_set()

    @contextlib.contextmanager
    def interrupting(self, message: str) -> Iterator[None]:
        """While the context is open, in the main thread, work that may be broken off anywhere is: Interrupted is raised in it."""
        self._interruption = message
        try:
            if self.is_set():
                self.signalled()
            yield
        finally:
            self._interruption = None

    def signalled(self, *_: object) -> None:
        """The handler of a signal: it is time to stop."""
        self.set()
        if (message := self._interruption) is not None:
            self._interruption = None  # another signal lets it clean up
            raise Interrupted(message)

    def told(self) -> None:
        """The same from another thread."""
        self.set()
        if self._interruption is not None:
            os.kill(os.getpid(), signal.SIGINT)  # Python's handlers run in the main thread


def interrupting(stopping: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
    """`Stop.interrupting` where `stopping` is one; elsewhere the work goes on until it asks."""
    return stopping.interrupting("stopped before the training began") if isinstance(stopping, Stop) else contextlib.nullcontext()


def listen() -> tuple[dict[str, Any], Stop]:
    """The request, and what is set when it is time to stop: told so, signalled, or whoever started this is gone."""
    stop = Stop()
    signal.signal(signal.SIGINT, stop.signalled)
    signal.signal(signal.SIGTERM, stop.signalled)
    first = sys.stdin.readline()

    def until_stopped() -> None:
        while (line := sys.stdin.readline()) and not json.loads(line).get("stop"):
            pass
        stop.told()

    threading.Thread(target=until_stopped, daemon=True, name="listen").start()
    return json.loads(first or "{}"), stop


def serve(work: Callable[[dict[str, Any], Voice, Stop], None]) -> int:
    """Be the child: hear the request, do the `work`, tell how it went; returns the exit code.

    0 done, 1 it failed, 2 the request was wrong, 3 it was interrupted and has saved what it has.
    """
    tell = Voice()
    request, stop = listen()
    try:
        work(request, tell, stop)
    except Interrupted as error:
        tell({"kind": "interrupted", "message": str(error)})
        return INTERRUPTED
    except LabError as error:
        tell({"kind": "error", "message": str(error), "exit": error.exit_code, "untrained": isinstance(error, UntrainedError)})
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        tell({"kind": "error", "message": f"{type(error).__name__}: {error}", "exit": 1})
        return 1
    return 0


def leave(code: int) -> None:
    """End this process at once: every file is closed, nothing is left to do, and torch's own teardown takes a while."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
