"""One trial: one run of the experiment with one configuration and one seed, from its beginning or from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from components.errors import Interrupted, LabError, Pruned
from components.training.checkpoint import Checkpoints
from flows import experiment
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.parts import Tell
from flows.records import journal
from flows.search import sampling
from flows.search.space import overrides
from flows.search.study import Sweep, Taken

if TYPE_CHECKING:
    import optuna

SECONDS_BETWEEN_LOOKS = 0.5


def folder_of(settings: Settings, sweep: str, run: str) -> Path:
    """Where a trial's run is, or will be."""
    return settings.sweeps / sweep / "trials" / run


def run_trial(sweep: Sweep, taken: Taken, *, tell: Tell = lambda _: None, stopping: Callable[[], bool] = lambda: False) -> str:
    """Run a trial that was taken, and say in the study what became of it.

    Returns:
        `complete`, `pruned`, `failed`, or `stopped`: then it waits to be taken up again.
    """
    began = time.perf_counter()
    seen: dict[str, Any] = {}
    folder = folder_of(sweep.settings, sweep.name, taken.run)
    try:
        result = _run(sweep, taken, folder, tell=tell, stopping=stopping, seen=seen)
        values = [_value(result, seen, objective.metric) for objective in sweep.objectives]
    except Interrupted:
        sweep.put_back(taken)
        return "stopped"
    except Pruned:
        sweep.prune(taken, _outcome(sweep, folder, seen, time.perf_counter() - began))
        Checkpoints(folder / "checkpoints").clear()
        return "pruned"
    except Exception as error:  # whatever it is: it is this trial's, and the sweep goes on
        sweep.fail(taken, _words(error), _outcome(sweep, folder, seen, time.perf_counter() - began))
        Checkpoints(folder / "checkpoints").clear()
        return "failed"
    outcome = {**_outcome(sweep, folder, seen, result["seconds"]), "metrics": result["metrics"], "samples": result["samples"]}
    sweep.complete(taken, outcome, values)
    return "complete"


def _run(sweep: Sweep, taken: Taken, folder: Path, *, tell: Tell, stopping: Callable[[], bool], seen: dict[str, Any]) -> dict[str, Any]:
    if (folder / "config.json").exists():
        config = experiment.read_config(folder)
        while journal.is_open(folder):  # the worker that began it is not quite gone
            if stopping():
                raise Interrupted("stopped while another process still had the run")
            time.sleep(SECONDS_BETWEEN_LOOKS)
    else:
        config = validate(compose([*sweep.overrides, *overrides(taken.chosen), f"seed={taken.seed}"]))
        experiment.create(config, sweep.settings, taken.run, inside=folder.parent)
    metric = sweep.objectives[0].metric
    sweep.study.pruner = sampling.pruner(sweep.plan, config["trainer"]["epochs"])
    pruning = sweep.plan.pruner not in ("none", "wilcoxon")
    trial = judged(sweep, taken, folder) if pruning else None

    def hear(line: dict[str, Any]) -> None:
        tell(line)
        if line["kind"] == "progress":
            seen.update({key: line[key] for key in ("step", "total", "epochs")})
            if trial and metric in line["values"]:
                _judge(trial, line["epoch"] + 1, line["values"][metric])

    return experiment.run(config, folder, sweep.settings, tell=hear, stopping=stopping, draw=False, splits=("validation",))


def judged(sweep: Sweep, taken: Taken, folder: Path) -> optuna.Trial:
    """Optuna's handle of the trial, told what an earlier attempt saw."""
    trial = sweep.trial_of(taken)
    for epoch, (_, value) in enumerate(_curve(folder, sweep.objectives[0].metric), start=1):
        trial.report(value, epoch)
    return trial


def _judge(trial: optuna.Trial, epoch: int, value: float) -> None:
    """Report one epoch to the pruner; raises Pruned when it calls the trial hopeless."""
    if math.isfinite(value):
        trial.report(value, epoch)
        if trial.should_prune():
            raise Pruned(f"hopeless beside the other trials after {epoch} epochs")


def _value(result: dict[str, Any], seen: dict[str, Any], metric: str) -> float:
    found = {**seen, **result["metrics"], "seconds": result["seconds"], "parameters": result.get("parameters")}.get(metric)
    if found is None:
        raise LabError(f"the run has no {metric!r} (it has: {', '.join(sorted(result['metrics']))}, parameters, seconds)")
    if not math.isfinite(found):
        raise LabError(f"{metric} became {found}")
    return float(found)


def _outcome(sweep: Sweep, folder: Path, seen: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What is kept of a trial beside its values."""
    events = {line["event"]: line["facts"] for line in journal.read(folder) if line["kind"] == "event"}
    counts = (events.get("data", {}).get("card") or {}).get("counts") or {}
    examples = (counts.get("train") or {}).get("examples", 0)
    share = seen["step"] / seen["total"] if seen.get("total") else 0.0
    return {
        "seconds": round(seconds, 3),
        "samples": round(share * seen.get("epochs", 0) * examples),
        "parameters": events.get("model", {}).get("parameters"),
        "curve": _curve(folder, sweep.objectives[0].metric),
        "device": events.get("model", {}).get("device"),
    }


def _curve(folder: Path, metric: str) -> list[tuple[float, float]]:
    series = journal.history(folder)
    epochs = dict(series.get("epoch", ()))
    return [(epochs[step], value) for step, value in series.get(metric, ()) if math.isfinite(value)]


def _words(error: Exception) -> str:
    """Why a trial failed, in one line."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error):
        return f"out of memory: {' '.join(str(error).split())[:200]}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
