"""One trial: one run of the experiment with one configuration and one seed, from its beginning or from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from components.errors import Interrupted, LabError, Pruned, RequestError, RunError
from components.training.checkpoint import Checkpoints
from flows import experiment
from flows.config.build import validate
from flows.lab.settings import Settings
from flows.parts import Tell
from flows.records import journal
from flows.search import sampling
from flows.search.study import Sweep, Taken

if TYPE_CHECKING:
    import optuna

SECONDS_BETWEEN_LOOKS = 0.5


def folder_of(settings: Settings, sweep: str, run: str) -> Path:
    """Where a trial's run is, or will be."""
    return settings.sweeps / sweep / "trials" / run


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        reason: why it failed.
        result: the run's result (flows/experiment.py); empty unless complete.
        seconds: of training and evaluation.
        samples: training examples seen.
    """

    state: Literal["complete", "pruned", "failed"]
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0


def run_trial(sweep: Sweep, taken: Taken, *, tell: Tell = lambda _: None, stopping: Callable[[], bool] = lambda: False) -> str:
    """Run a trial that was taken, and say in the study what became of it.

    Returns:
        `complete`, `pruned`, `failed`, or `stopped`: then it waits to be taken up again.
    """
    began = time.perf_counter()
    seen: dict[str, Any] = {}
    folder = folder_of(sweep.settings, sweep.name, taken.run)
    try:
        result = _run(sweep, taken, tell=tell, stopping=stopping, seen=seen)
    except Interrupted:
        sweep.put_back(taken)
        return "stopped"
    except Exception as error:  # whatever it is: it is this trial's, and the sweep goes on
        state: Literal["pruned", "failed"] = "pruned" if isinstance(error, Pruned) else "failed"
        seconds, samples = time.perf_counter() - began, _samples_seen(folder, seen)
        return conclude(sweep, taken, folder, Ended(state, _words(error), seconds=seconds, samples=samples))
    return conclude(sweep, taken, folder, Ended("complete", "", result, seconds=result["seconds"], samples=result["samples"]))


def conclude(sweep: Sweep, taken: Taken, folder: Path, ended: Ended) -> str:
    """Say in the study what became of a trial; returns its state, which is `failed` where a value is missing or no number."""
    return conclude_many(sweep, [(taken, folder, ended)])[0]


def conclude_many(sweep: Sweep, ends: Sequence[tuple[Taken, Path, Ended]]) -> list[str]:
    """The same for many trials; those that are complete are written in one transaction.

    Raises:
        RequestError: an objective asks for what no run has; it would be the same for every trial.
    """
    states: list[str] = []
    done: list[tuple[Taken, Mapping[str, Any], Sequence[float]]] = []
    asks_too_much: RequestError | None = None
    for taken, folder, ended in ends:
        outcome = _outcome(folder, ended, sweep.objectives[0].metric)
        Checkpoints(folder / "checkpoints").clear()
        state = ended.state
        try:
            if state == "failed":
                raise RunError(ended.reason)
            if state == "complete":
                values = [_value(outcome, objective.metric) for objective in sweep.objectives]
                for metric in sweep.plan.constraints:
                    _value(outcome, metric)
                done.append((taken, outcome, values))
            else:
                sweep.prune(taken, outcome)
        except (RunError, RequestError) as error:
            state = "failed"
            sweep.fail(taken, str(error), outcome)
            asks_too_much = error if isinstance(error, RequestError) else asks_too_much
        states.append(state)
    if done:
        sweep.complete(*done)
    if asks_too_much:
        raise asks_too_much
    return states


def _outcome(folder: Path, ended: Ended, metric: str) -> dict[str, Any]:
    """What the study keeps of a trial."""
    lines = journal.read(folder)
    events = {line["event"]: line["facts"] for line in lines if line["kind"] == "event"}
    return {
        "seconds": round(ended.seconds, 3),
        "samples": ended.samples,
        "parameters": events.get("model", {}).get("parameters"),
        "device": events.get("model", {}).get("device"),
        "curve": _curve(lines, metric),
        **({"metrics": ended.result["metrics"]} if ended.result else {}),
    }


def open_run(sweep: Sweep, taken: Taken) -> tuple[Path, dict[str, Any]]:
    """The trial's run folder and configuration, found or made."""
    folder = folder_of(sweep.settings, sweep.name, taken.run)
    if (folder / "config.json").exists():
        return folder, experiment.read_config(folder)
    config = validate(sweep.compose(taken.chosen, taken.seed))
    return experiment.create(config, sweep.settings, taken.run, inside=folder.parent), config


def judged(sweep: Sweep, taken: Taken, folder: Path, config: Mapping[str, Any]) -> optuna.Trial:
    """Optuna's handle of the trial, with the pruner, told what an earlier attempt saw."""
    sweep.study.pruner = sampling.pruner(sweep.plan, config["trainer"]["epochs"])
    trial = sweep.trial_of(taken)
    for epoch, (_, value) in enumerate(_curve(journal.read(folder), sweep.objectives[0].metric), start=1):
        trial.report(value, epoch)
    return trial


def judge(trial: optuna.Trial, epoch: int, value: float) -> str | None:
    """Report one epoch to the pruner; why the trial is hopeless, if it says so."""
    if math.isfinite(value):
        trial.report(value, epoch)
        if trial.should_prune():
            return f"hopeless beside the other trials after {epoch} epochs"
    return None


def _run(sweep: Sweep, taken: Taken, *, tell: Tell, stopping: Callable[[], bool], seen: dict[str, Any]) -> dict[str, Any]:
    folder, config = open_run(sweep, taken)
    while journal.is_open(folder):  # the worker that began it is not quite gone
        if stopping():
            raise Interrupted("stopped while another process still had the run")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    metric = sweep.objectives[0].metric
    trial = judged(sweep, taken, folder, config) if sweep.plan.pruner not in ("none", "wilcoxon") else None

    def hear(line: dict[str, Any]) -> None:
        tell(line)
        if line["kind"] == "progress":
            seen.update({key: line[key] for key in ("step", "total", "epochs")})
            if trial is not None and metric in line["values"] and (reason := judge(trial, line["epoch"] + 1, line["values"][metric])):
                raise Pruned(reason)

    return experiment.run(config, folder, sweep.settings, tell=hear, stopping=stopping, draw=False, splits=("validation",))


def _samples_seen(folder: Path, seen: Mapping[str, Any]) -> int:
    """Training examples that a run which did not end had seen."""
    cards = [line["facts"]["card"] for line in journal.read(folder) if line.get("event") == "data"]
    examples = cards[-1]["counts"]["train"]["examples"] if cards else 0
    return round(seen["step"] / seen["total"] * seen["epochs"] * examples) if seen.get("total") else 0


def _value(outcome: Mapping[str, Any], metric: str) -> float:
    found = {**outcome.get("metrics", {}), **{key: outcome[key] for key in ("seconds", "parameters", "samples")}}
    value = found.get(metric)
    if value is None:
        raise RequestError(f"search.objectives: a run has no {metric!r} (it has: {', '.join(sorted(found))})")
    if not math.isfinite(value):
        raise RunError(f"{metric} became {value}")
    return float(value)


def _curve(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    series = journal.series_of(lines)
    epochs = dict(series.get("epoch", ()))
    return [(epochs[step], value) for step, value in series.get(metric, ()) if math.isfinite(value)]


def _words(error: Exception) -> str:
    """Why a trial failed, in one line."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error):
        return f"out of memory: {' '.join(str(error).split())[:200]}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
