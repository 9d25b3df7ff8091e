"""One experiment from start to finish, as plain functions: prepare, fit, evaluate, draw.

The train flow, the `lab train` command and every trial of a sweep call `run`. It knows neither Prefect nor MLflow: everything it
has to say goes into the run folder, whose journal others carry on (see flows/records). Each stage can be repeated: a prepared data
set is found again, a training goes on from its checkpoint, a finished stage is passed over. So a run that was killed anywhere is
finished by calling `run` again with the same folder.

    runs/RUN/config.json           the resolved configuration
             journal.jsonl         everything that was said
             checkpoints/ figures/ outcomes/
             model/                the best weights, with what is needed to build the model again without the data
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from components.data.batches import Batches
from components.data.prepared import Prepared
from components.errors import Interrupted, Pruned, RequestError, RunError
from components.protocols import Objective, Optimizer, Outcomes, Recorder, Schedule
from components.training import loop, randomness
from components.training.checkpoint import KEEP, Checkpoints, weights_sha256
from components.training.device import choose, configure
from components.training.evaluation import evaluate
from components.training.features import below_head_is_frozen, compute_once
from components.training.settings import Trainer
from components.training.state import Fitted, Progress
from flows.child import interrupting
from flows.config.build import build
from flows.lab import limits
from flows.lab.settings import Settings
from flows.parts import Tell, build_model, load_model, load_outcomes, prepare_data, save_model, save_outcomes, write_json
from flows.records.journal import Journal, history, read
from flows.records.reproducible import environment

if TYPE_CHECKING:
    from components.training.distributed import Silent

Fit = Callable[..., Fitted]
"""`components.training.loop.fit`, or what has its parameters."""
OPTIMIZER_COPIES = 2
"""How often an optimizer keeps the weights' size beside them, at most: Adam does twice."""
EVALUATION_BATCH = 500
"""Examples a batch when nothing is learned; larger ones gain nothing on a CPU."""


def new_run_name(config: Mapping[str, Any]) -> str:
    """A name for a run that sorts by time and is not taken: `mlp_mnist-20261122-134512-3f9a`."""
    return f"{config['name']}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create(config: dict[str, Any], settings: Settings, name: str | None = None, *, inside: Path | None = None) -> Path:
    """Make the folder of a new run, with its configuration in it, in LAB_HOME/runs or `inside` another folder; returns the folder."""
    folder = (inside or settings.runs) / (name or new_run_name(config))
    write_json(folder / "config.json", config)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run; RequestError when the folder is not a run's."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder.name} is not a run of this lab ({folder / 'config.json'} cannot be read)") from error
    return config


def run(
    config: dict[str, Any],
    folder: Path,
    settings: Settings,
    *,
    tell: Tell = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
    draw: bool = True,
    splits: Sequence[str] = ("validation", "test"),
    fit: Fit = loop.fit,
) -> dict[str, Any]:
    """Run the experiment `config` in `folder` to its end, from wherever it stands; returns its result.

    The result has `run`, `metrics` (by split, of those `splits` that the data has), `monitor` (name, direction, best validation value),
    `weights_sha256`, `best_step`, `steps`, `samples` (training examples seen), `seconds`. It is said before the figures are drawn, which
    takes a few seconds (`draw=False` leaves them out). What `tell` raises ends the run: a search raises Pruned. `fit` is how it trains:
    alone, or as the first of a group of processes.
    Raises RunError and its kin; the journal then says why.
    """
    began = time.perf_counter()
    with Journal(folder) as journal:
        said = [line for line in read(folder) if line["kind"] == "event"]
        result = next((line["facts"] for line in reversed(said) if line["event"] == "result"), None)
        if result is not None:
            tell({"kind": "result", **result})
            if not draw or any(line["event"] == "drawn" for line in said):
                return dict(result)
        journal.event("started", run=folder.name, config=config, **environment())
        try:
            with _stage(journal, tell, "prepare"):
                with interrupting(stopping):
                    prepared = prepare_data(config, settings, tell=tell)
                _check_same_data(said, prepared)
                journal.event("data", name=prepared.name, fingerprint=prepared.fingerprint, card=prepared.card)
            if result is None:
                with _stage(journal, tell, "fit"):
                    parts = assemble(config, prepared, settings, journal, said=said, tell=lambda text: tell({"kind": "note", "text": text}))
                    limits.refuse_what_will_not_fit(settings, needed(parts))
                    tell(as_progress(Progress(0, 0, 0, parts.trainer.epochs, {})))
                    fitted = _fit(
                        parts,
                        fit,
                        recorder=journal,
                        stopping=stopping,
                        checkpoints=Checkpoints(folder / "checkpoints"),
                        progress=lambda now: tell(as_progress(now)),
                    )
                    save_model(folder / "model", fitted.weights, config, prepared)
                with _stage(journal, tell, "evaluate"):
                    result = evaluate_fitted(parts, fitted, prepared, folder, journal, splits=splits, began=began)
                    tell({"kind": "result", **result})
            if draw:
                with _stage(journal, tell, "draw"):
                    _draw(config, folder, prepared, journal, step=result["steps"])
                journal.event("drawn")
        except (Interrupted, Pruned) as error:
            journal.event("interrupted" if isinstance(error, Interrupted) else "pruned", reason=str(error))
            raise
        except RunError as error:
            journal.event("failed", reason=str(error))
            raise
        Checkpoints(folder / "checkpoints").clear()
        return dict(result)


def assist(config: dict[str, Any], settings: Settings, *, stopping: Callable[[], bool], fit: Fit) -> None:
    """Take part in the training of an experiment that another process runs; raises as `run`."""
    from components.training.distributed import Silent

    parts = assemble(config, prepare_data(config, settings), settings, Silent())
    _fit(parts, fit, recorder=Silent(), stopping=stopping)


def evaluate_run(folder: Path, settings: Settings, *, split: str = "test", tell: Tell = lambda _: None) -> dict[str, float]:
    """Evaluate a finished run's model again on one split of its data; outcomes are written into the run folder."""
    if not (folder / "model").is_dir():
        raise RequestError(f"{folder.name} has no model yet: finish it first (lab train --resume {folder.name})")
    loaded = load_model(folder / "model")
    prepared = prepare_data(loaded.config, settings, tell=tell)
    if split not in prepared.splits:
        raise RequestError(f"{prepared.name} has no split {split!r} (it has: {', '.join(prepared.splits)})")
    if prepared.fingerprint != loaded.data["fingerprint"]:
        raise RunError(f"{prepared.name} has changed since {folder.name} was trained: its fingerprint is another one")
    trainer: Trainer = build(loaded.config["trainer"])
    device = _configure(trainer)
    model = loaded.model.to(device, torch.float64 if trainer.precision == "float64" else None)
    batches = Batches(prepared.splits[split], batch_size=EVALUATION_BATCH, seed=0, shuffle=False)
    outcomes = evaluate(model, loaded.objective, batches, device=device, precision=trainer.precision)
    save_outcomes(folder / "outcomes" / split, outcomes)
    return loaded.objective.metrics(outcomes)


# ---------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Parts:
    """What a configuration and its data are made into: all that a training takes."""

    model: nn.Module
    objective: Objective
    batches: Batches
    validation: Batches | None
    optimizer: Optimizer
    schedule: Schedule
    trainer: Trainer
    device: torch.device


def assemble(
    config: dict[str, Any],
    prepared: Prepared,
    settings: Settings,
    journal: Journal | Silent,
    *,
    said: Sequence[Mapping[str, Any]] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Parts:
    """Build everything from the experiment's seed, with earlier weights where it asks for them; sets torch's switches and generators.

    Args:
        said: the events of a run that goes on.
        tell: told of files that are fetched, and of what takes a while.
    """
    trainer: Trainer = build(config["trainer"])
    device = _configure(trainer)
    randomness.seed_everything(config["seed"])
    model, objective = build_model(config, prepared.facts)
    if config.get("pretrained") or not all(parameter.requires_grad for parameter in model.parameters()):
        from flows.pretrained import load_pretrained

        earlier = next((line["facts"] for line in said if line["event"] == "pretrained"), None)
        begun = load_pretrained(model, config, prepared.facts, settings, tell=tell, begun=earlier)
        if earlier is not None and earlier["weights_sha256"] != begun["weights_sha256"]:
            raise RunError(f"{begun['address']} leads to other weights since this run began: it cannot be resumed exactly; start a new one")
        journal.event("pretrained", **begun)
    journal.event("model", device=str(device), parameters=sum(p.numel() for p in model.parameters()), text=str(model))
    splits = dict(prepared.splits)
    if below_head_is_frozen(model, trainer.frozen) and not any(getattr(split, "augments", False) for split in splits.values()):
        once = [name for name in ("train", "validation") if name in splits]
        examples = " and ".join(f"{len(splits[name]):,} of {name}" for name in once)
        tell(f"nothing below the head learns: computing it once for all examples ({examples}), or reading it")
        for name in once:
            of = f"{prepared.fingerprint} {name}"
            splits[name] = compute_once(model, splits[name], of=of, folder=settings.home / "features", device=device)
    validation = splits.get("validation")
    return Parts(
        model,
        objective,
        Batches(splits["train"], batch_size=trainer.batch_size, seed=config["seed"], shuffle=True),
        Batches(validation, batch_size=EVALUATION_BATCH, seed=0, shuffle=False) if validation is not None else None,
        build(config["optimizer"]),
        build(config["schedule"]),
        trainer,
        device,
    )


def needed(parts: Parts) -> int:
    """Bytes that the run holds at once, about: its checkpoints with the optimizer's state, the best weights, and the model."""
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in parts.model.state_dict().values())
    return weights * (KEEP * (1 + OPTIMIZER_COPIES) + 2)


@contextmanager
def _stage(journal: Journal, tell: Tell, name: str) -> Iterator[None]:
    began = time.perf_counter()

    def say(state: str) -> None:
        facts = {"name": name, "state": state, "seconds": round(time.perf_counter() - began, 3)}
        journal.event("stage", **facts)
        tell({"kind": "stage", **facts})

    say("started")
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say("finished")


def _configure(trainer: Trainer) -> torch.device:
    configure(threads=trainer.threads, deterministic=trainer.deterministic)
    return choose(trainer.device)


def as_progress(now: Progress) -> dict[str, Any]:
    """A point of the curves as a line for whoever looks after the run."""
    return {"kind": "progress", "step": now.step, "total": now.total, "epoch": now.epoch, "epochs": now.epochs, "values": dict(now.values)}


def _fit(
    parts: Parts,
    fit: Fit,
    *,
    recorder: Recorder,
    stopping: Callable[[], bool],
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Fitted:
    return fit(
        parts.model,
        parts.objective,
        parts.batches,
        parts.validation,
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        settings=parts.trainer,
        device=parts.device,
        recorder=recorder,
        checkpoints=checkpoints,
        progress=progress,
        stopping=stopping,
    )


def evaluate_fitted(
    parts: Parts, fitted: Fitted, prepared: Prepared, folder: Path, journal: Journal, *, splits: Sequence[str], began: float
) -> dict[str, Any]:
    """Evaluate the best weights on the splits, keep every example's outcome, and say the result; returns it.

    Args:
        began: `time.perf_counter()` when the run began.
    """
    parts.model.load_state_dict(fitted.weights)
    outcomes: dict[str, Outcomes] = {}
    for name in splits:
        if name in prepared.splits:
            batches = Batches(prepared.splits[name], batch_size=EVALUATION_BATCH, seed=0, shuffle=False)
            outcomes[name] = evaluate(parts.model, parts.objective, batches, device=parts.device, precision=parts.trainer.precision)
    metrics = keep_outcomes(parts.objective, outcomes, folder)
    return say_result(parts, fitted, prepared, journal, metrics, seconds=time.perf_counter() - began)


def keep_outcomes(objective: Objective, outcomes: Mapping[str, Outcomes], folder: Path) -> dict[str, float]:
    """Keep what happened to every example of each split; returns the metrics."""
    metrics: dict[str, float] = {}
    for name, each in outcomes.items():
        save_outcomes(folder / "outcomes" / name, each)
        metrics |= {f"{name}/{key}": value for key, value in objective.metrics(each).items()}
    return metrics


def say_result(
    parts: Parts, fitted: Fitted, prepared: Prepared, journal: Journal, metrics: Mapping[str, float], *, seconds: float
) -> dict[str, Any]:
    """Say what the run came to; returns it."""
    state = fitted.state
    # The point stands where the weights are from, which is not where the training ended.
    step, epoch = (state.best_step, state.best_epoch + 1) if state.best_step else (state.step, state.epoch)
    journal.metrics({key: value for key, value in metrics.items() if key.startswith("test/")}, step=step, epoch=epoch)
    result = {
        "run": journal.folder.name,
        "metrics": dict(metrics),
        "monitor": [*parts.objective.monitor, state.best_value],
        "weights_sha256": weights_sha256(fitted.weights),
        "best_step": state.best_step,
        "steps": state.step,
        "samples": round(state.step / _steps_per_epoch(prepared, parts.trainer) * len(prepared.splits["train"])),
        "stopped_early": fitted.stopped_early,
        "seconds": round(seconds, 3),
    }
    journal.event("result", **result)
    return result


def _draw(config: Mapping[str, Any], folder: Path, prepared: Prepared, journal: Journal, *, step: int) -> None:
    """The run's pictures, from what is already on disk: curves and layers from the journal, the rest from the test outcomes."""
    from components.figures.curves import curves
    from components.figures.gradients import activation_saturation, gradient_flow

    series, trainer = history(folder), build(config["trainer"])
    objective: Objective = build(config["objective"], **prepared.facts)
    steps_per_epoch = _steps_per_epoch(prepared, trainer)
    journal.figure("curves", curves(series, monitor=objective.monitor, steps_per_epoch=steps_per_epoch), step=step)
    for name, prefix, figure in (("gradient_flow", "gradients/", gradient_flow), ("saturation", "saturation/", activation_saturation)):
        if any(key.startswith(prefix) for key in series):
            journal.figure(name, figure(series), step=step)
    if "test" in prepared.splits:
        for title, drawn in objective.figures(load_outcomes(folder / "outcomes" / "test"), prepared.splits["test"]).items():
            journal.figure(f"test/{title}", drawn, step=step)
        explain = getattr(objective, "explain", None)  # pictures that need the model itself, where an objective has any
        if explain is not None:
            for title, drawn in explain(load_model(folder / "model").model, prepared.splits["test"]).items():
                journal.figure(f"test/{title}", drawn, step=step)


def _steps_per_epoch(prepared: Prepared, trainer: Trainer) -> int:
    return math.ceil(math.ceil(len(prepared.splits["train"]) / trainer.batch_size) / trainer.accumulate)


def _check_same_data(said: list[dict[str, Any]], prepared: Prepared) -> None:
    for line in said:
        if line["event"] == "data" and line["facts"]["fingerprint"] != prepared.fingerprint:
            raise RunError(f"{prepared.name} has changed since this run began: it cannot be resumed exactly; start a new one")
