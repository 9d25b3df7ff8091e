"""The worker process: `python -m flows.search.worker`, which runs trials of one sweep until none is left.

Like the trainer (flows/trainer.py) it imports torch, and Optuna besides, but nothing of Prefect or MLflow, and speaks by flows/child.py:

    → {"sweep": NAME, "cores": [0], "stacked": false, "workers": 2}      stacked: many trials together (flows/search/stacks.py)
    → {"stop": true}
    ← {"kind": "worker", "name": …}                  it has signed in
    ← {"kind": "trial", "state": "began" | "complete" | "pruned" | "failed" | "stopped", "run": …, "number": …, "chosen": {…}, "seed": …}
    ← {"kind": "way", "way": "stacked" | "processes", "reason": …}      what `search.backend=auto` chose
    ← {"kind": "progress", "run": …, …}              as the trainer's
    ← {"kind": "error", "message": …, "exit": …}
"""

from __future__ import annotations

import os
from typing import Any

from components.errors import RunError
from flows.child import Stop, Voice, leave, serve

SECONDS_BETWEEN_LOOKS = 0.5


def _work(request: dict[str, Any], tell: Voice, stop: Stop) -> None:
    if request.get("cores") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    import torch

    from flows.lab.settings import Settings
    from flows.search.study import Sweep
    from flows.search.trials import run_trial

    if request.get("cores"):
        torch.set_num_threads(len(request["cores"]))
    sweep = Sweep.load(Settings.load(), request["sweep"])
    worker = sweep.presence.sign_in(sweep.name)
    tell({"kind": "worker", "name": worker})
    if request.get("stacked"):
        from flows.search import stacks

        cores, workers = len(request.get("cores") or [0]), request.get("workers", 1)
        if stacks.work(sweep, worker, cores=cores, workers=workers, tell=tell, stopping=stop):
            return
    while not stop.is_set():
        taken = sweep.take(worker)
        if taken is None:
            if sweep.finished():
                return
            stop.wait(SECONDS_BETWEEN_LOOKS)  # others still run trials, which may come back
            continue
        facts = {"kind": "trial", "run": taken.run, "number": taken.number, "chosen": taken.chosen, "seed": taken.seed}
        tell({**facts, "state": "began"})

        def pass_on(line: dict[str, Any], run: str = taken.run) -> None:
            if line["kind"] in ("progress", "warning"):
                tell({**line, "run": run})

        state = run_trial(sweep, taken, tell=pass_on, stopping=stop)
        tell({**facts, "state": state})
        if state == "failed" and (reason := sweep.hopeless()):
            raise RunError(reason)


def work(request: dict[str, Any], tell: Voice, stop: Stop) -> None:
    """Run trials until none is left; what is wrong with a database or the disk is said in one line."""
    try:
        _work(request, tell, stop)
    except Exception as error:
        from flows.search.storage import in_words

        if (known := in_words(error)) is None:
            raise
        raise RunError(known) from error


if __name__ == "__main__":
    leave(serve(work))
