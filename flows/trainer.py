"""The trainer process: `python -m flows.trainer`, one experiment in a process of its own.

It imports torch and nothing of Prefect or MLflow, so the first training step is not kept waiting for them, and a crash, an
out-of-memory kill or a hanging server cannot take the rest with it. Whoever starts it (flows/supervise.py) writes one JSON line to its
standard input and reads JSON lines from its standard output:

    → {"overrides": ["experiment=mlp_mnist", …]}     a new run, or {"config": …}, or {"resume": "RUN"}
    → {"join": "host:port"}                          to take part in a training that another machine leads (flows/group.py)
    → {"stop": true}                                              save a checkpoint and end    (so does end-of-file: nobody is listening)
    ← {"kind": "run", "run": …, "folder": …, "config": {…}}       the request was right; the run exists now
    ← {"kind": "stage" | "progress" | "note" | "warning", …}      what is happening
    ← {"kind": "result", …}                                       the end;   or {"kind": "error", "message": …, "exit": 1 or 2}

Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 3 interrupted (a checkpoint is written).
"""

from __future__ import annotations

from typing import Any

from components.errors import RequestError
from flows.child import Stop, Voice, leave, serve


def _run(request: dict[str, Any], tell: Voice, stop: Stop) -> None:
    from flows import acceptance, experiment, group, runs
    from flows.config.build import build
    from flows.config.compose import compose
    from flows.judgement import judge
    from flows.lab import limits
    from flows.lab.settings import Settings

    settings = Settings.load()
    if "join" in request:
        group.follow(request["join"], settings, tell=tell, stopping=stop)
        return
    if "resume" in request:
        folder = settings.runs / request["resume"]
        config = experiment.read_config(folder)
    elif "overrides" in request or "config" in request:
        config = judge(request["config"] if "config" in request else compose(request["overrides"]))
        if full := limits.warning(settings):
            tell({"kind": "warning", "message": full})
        with stop.interrupting("stopped before the run began"):
            acceptance.refuse(config, settings, tell=tell)
        folder = experiment.create(config, settings, request.get("run"))
    else:
        raise RequestError("the trainer was started without a request")
    tell({"kind": "run", "run": folder.name, "folder": str(folder), "config": config})
    together = build(config["trainer"]).grouped and not runs.result(folder)  # what is left after the training is for one
    (group.lead if together else experiment.run)(config, folder, settings, tell=tell, stopping=stop)


if __name__ == "__main__":
    leave(serve(_run))
