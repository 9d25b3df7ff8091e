"""The trainer process: `python -m flows.trainer`, one experiment in a process of its own.

It imports torch and nothing of Prefect or MLflow, so the first training step is not kept waiting for them, and a crash, an
out-of-memory kill or a hanging server cannot take the rest with it. Whoever starts it (flows/supervise.py) writes one JSON line to its
standard input and reads JSON lines from its standard output:

    → {"overrides": ["experiment=mlp_mnist", …]}     a new run, or {"config": …}, or {"resume": "RUN"}
    → {"stop": true}                                              save a checkpoint and end    (so does end-of-file: nobody is listening)
    ← {"kind": "run", "run": …, "folder": …, "config": {…}}       the request was right; the run exists now
    ← {"kind": "stage" | "progress" | "note" | "warning", …}      what is happening
    ← {"kind": "result", …}                                       the end;   or {"kind": "error", "message": …, "exit": 1 or 2}

Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 3 interrupted (a checkpoint is written).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import Any

from components.errors import Interrupted, LabError, RequestError

INTERRUPTED = 3
"""Exit code of a run that was asked to stop and saved its checkpoint."""


class _Voice:
    """Lines to the supervisor; silent once nobody reads them."""

    def __init__(self) -> None:
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a library prints must not end up between our lines
        self.last_progress = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        if line["kind"] == "progress" and line["step"] not in (0, line["total"]):
            now = time.monotonic()
            if now - self.last_progress < 0.1:
                return
            self.last_progress = now
        with contextlib.suppress(BrokenPipeError):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def main() -> int:
    """Read the request, run it, tell about it; returns the exit code."""
    stop = threading.Event()
    tell = _Voice()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    warnings.showwarning = lambda message, *_, **__: tell({"kind": "warning", "message": str(message)})
    first = sys.stdin.readline()
    threading.Thread(target=_listen, args=(stop,), daemon=True, name="listen").start()
    try:
        _run(json.loads(first or "{}"), tell, stop)
    except Interrupted as error:
        tell({"kind": "interrupted", "message": str(error)})
        return INTERRUPTED
    except LabError as error:
        tell({"kind": "error", "message": str(error), "exit": error.exit_code})
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        tell({"kind": "error", "message": f"{type(error).__name__}: {error}", "exit": 1})
        return 1
    return 0


def _run(request: dict[str, Any], tell: _Voice, stop: threading.Event) -> None:
    from flows import experiment
    from flows.config.build import validate
    from flows.config.compose import compose
    from flows.lab.settings import Settings

    settings = Settings.load()
    if "resume" in request:
        folder = settings.runs / request["resume"]
        config = experiment.read_config(folder)
    elif "overrides" in request or "config" in request:
        config = validate(request["config"] if "config" in request else compose(request["overrides"]))
        if stop.is_set():
            raise Interrupted("stopped before the run began")
        folder = experiment.create(config, settings, request.get("run"))
    else:
        raise RequestError("the trainer was started without a request")
    tell({"kind": "run", "run": folder.name, "folder": str(folder), "config": config})
    experiment.run(config, folder, settings, tell=tell, stopping=stop.is_set)


def _listen(stop: threading.Event) -> None:
    """Stop when told to, and when whoever started this is gone."""
    while (line := sys.stdin.readline()) and not json.loads(line).get("stop"):
        pass
    stop.set()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do: every file is closed, and torch's own teardown takes a while
