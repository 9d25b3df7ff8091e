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
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.data.batches import Batches
from components.data.prepared import Prepared, fingerprint, prepare
from components.data.sources import Sources
from components.errors import Interrupted, RequestError, RunError
from components.protocols import DataSet, Objective, Outcomes
from components.training import randomness
from components.training.checkpoint import Checkpoints, read_tensors, weights_sha256, write_tensors
from components.training.device import choose, configure
from components.training.loop import Fitted, Progress, evaluate, fit
from components.training.settings import Trainer
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.records.journal import Journal, history, read
from flows.records.reproducible import environment

Tell = Callable[[dict[str, Any]], None]
"""Told of progress as it happens: small JSON-able dicts with a `kind`."""

EVALUATION_BATCH = 500
"""Examples a batch when nothing is learned; larger ones gain nothing on a CPU."""


def new_run_name(config: Mapping[str, Any]) -> str:
    """A name for a run that sorts by time and is not taken: `mlp_mnist-20261122-134512-3f9a`."""
    return f"{config['name']}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create(config: dict[str, Any], settings: Settings, name: str | None = None) -> Path:
    """Make the folder of a new run with its configuration in it; returns the folder."""
    folder = settings.runs / (name or new_run_name(config))
    _write_json(folder / "config.json", config)
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
) -> dict[str, Any]:
    """Run the experiment `config` in `folder` to its end, from wherever it stands; returns its result.

    The result has `run`, `metrics` (by split), `monitor` (name, direction, best validation value), `weights_sha256`, `best_step`,
    `steps`, `seconds`. It is said before the figures are drawn, which takes a few seconds (`draw=False` leaves them out).
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
                prepared = prepare_data(config, settings, tell=tell)
                _check_same_data(said, prepared)
                journal.event("data", name=prepared.name, fingerprint=prepared.fingerprint, card=prepared.card)
            if result is None:
                with _stage(journal, tell, "fit"):
                    training = _fit(config, folder, prepared, settings, journal, tell, stopping)
                with _stage(journal, tell, "evaluate"):
                    metrics = _evaluate_splits(folder, prepared, training, journal)
                    result = _result(folder, training, metrics, seconds=time.perf_counter() - began)
                    journal.event("result", **result)
                    tell({"kind": "result", **result})
            if draw:
                with _stage(journal, tell, "draw"):
                    _draw(config, folder, prepared, journal, step=result["steps"])
                journal.event("drawn")
        except Interrupted as error:
            journal.event("interrupted", reason=str(error))
            raise
        except RunError as error:
            journal.event("failed", reason=str(error))
            raise
        Checkpoints(folder / "checkpoints").clear()
        return dict(result)


def data_section(overrides: Sequence[str]) -> dict[str, Any]:
    """The validated `data` section of a request that is about data alone: `["data=mnist", "data.split_seed=1"]`."""
    for text in overrides:
        if not text.startswith(("data=", "data.")):
            raise RequestError(f"{text!r}: preparing data takes only data=NAME and data.KEY=VALUE")
    section: dict[str, Any] = validate(compose(["model=mlp", *overrides]))["data"]  # any model: it is not built
    return section


def prepared_folder(section: Mapping[str, Any], settings: Settings) -> Path:
    """Where the data set is, or will be, prepared; known before any work is done."""
    dataset: DataSet = build(section)
    return settings.data / dataset.name / fingerprint(dataset.recipe())


def prepare_data(config: Mapping[str, Any], settings: Settings, *, tell: Tell = lambda _: None) -> Prepared:
    """The experiment's data set, prepared now or found prepared."""
    dataset = build(config["data"])
    sources = Sources(settings.downloads, settings.data_mirror, progress=lambda text: tell({"kind": "note", "text": text}))
    return prepare(dataset, settings.data, sources, progress=lambda text: tell({"kind": "note", "text": text}))


def build_model(config: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[nn.Module, Objective]:
    """The model, initialised from the experiment's seed alone, and its objective."""
    activation = build(config["activation"])
    model: nn.Module = build(config["model"], activation=activation, **facts)
    generator = torch.Generator().manual_seed(config["seed"])
    build(config["initializer"]).initialize(model, activation=activation(), generator=generator)
    return model, build(config["objective"], **facts)


@dataclass(frozen=True)
class Loaded:
    """A trained model with what it needs to be used: nothing of the training data but its facts."""

    model: nn.Module
    objective: Objective
    config: dict[str, Any]
    data: dict[str, Any]
    """`name`, `fingerprint` and `facts` of the data it was trained on."""


def load_model(folder: Path) -> Loaded:
    """The model saved in a run's `model` folder, in evaluation mode on the CPU."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        model, objective = build_model(config, data["facts"])
    model.load_state_dict(read_tensors(folder / "model.safetensors").tensors)
    return Loaded(model.eval(), objective, config, data)


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
class _Trained:
    fitted: Fitted
    model: nn.Module
    objective: Objective
    device: torch.device
    precision: str


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


def _fit(  # noqa: PLR0917 — one caller, which has all of them
    config: dict[str, Any],
    folder: Path,
    prepared: Prepared,
    settings: Settings,
    journal: Journal,
    tell: Tell,
    stopping: Callable[[], bool],
) -> _Trained:
    trainer: Trainer = build(config["trainer"])
    device = _configure(trainer)
    randomness.seed_everything(config["seed"])
    model, objective = build_model(config, prepared.facts)
    if config.get("pretrained"):
        from flows.pretrained import load_pretrained

        journal.event("pretrained", **load_pretrained(model, config["pretrained"], settings))
    journal.event("model", device=str(device), parameters=sum(p.numel() for p in model.parameters()), text=str(model))

    def progress(now: Progress) -> None:
        tell(
            {"kind": "progress", "step": now.step, "total": now.total, "epoch": now.epoch, "epochs": now.epochs, "values": dict(now.values)}
        )

    tell({"kind": "progress", "step": 0, "total": 0, "epoch": 0, "epochs": trainer.epochs, "values": {}})
    validation = prepared.splits.get("validation")
    fitted = fit(
        model,
        objective,
        Batches(prepared.splits["train"], batch_size=trainer.batch_size, seed=config["seed"], shuffle=True),
        Batches(validation, batch_size=EVALUATION_BATCH, seed=0, shuffle=False) if validation is not None else None,
        optimizer=build(config["optimizer"]),
        schedule=build(config["schedule"]),
        settings=trainer,
        device=device,
        recorder=journal,
        checkpoints=Checkpoints(folder / "checkpoints"),
        progress=progress,
        stopping=stopping,
    )
    _save_model(folder / "model", fitted.weights, config, prepared)
    return _Trained(fitted, model, objective, device, trainer.precision)


def _evaluate_splits(folder: Path, prepared: Prepared, training: _Trained, journal: Journal) -> dict[str, float]:
    """Metrics of the best weights on validation and test, with every example's outcome kept. The test split decides nothing."""
    training.model.load_state_dict(training.fitted.weights)
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        if name in prepared.splits:
            batches = Batches(prepared.splits[name], batch_size=EVALUATION_BATCH, seed=0, shuffle=False)
            outcomes = evaluate(training.model, training.objective, batches, device=training.device, precision=training.precision)
            save_outcomes(folder / "outcomes" / name, outcomes)
            metrics |= {f"{name}/{key}": value for key, value in training.objective.metrics(outcomes).items()}
    state = training.fitted.state
    # The point stands where the weights are from, which is not where the training ended.
    step, epoch = (state.best_step, state.best_epoch + 1) if state.best_step else (state.step, state.epoch)
    journal.metrics({key: value for key, value in metrics.items() if key.startswith("test/")}, step=step, epoch=epoch)
    return metrics


def _result(folder: Path, training: _Trained, metrics: Mapping[str, float], *, seconds: float) -> dict[str, Any]:
    state = training.fitted.state
    return {
        "run": folder.name,
        "metrics": dict(metrics),
        "monitor": [*training.objective.monitor, state.best_value],
        "weights_sha256": weights_sha256(training.fitted.weights),
        "best_step": state.best_step,
        "steps": state.step,
        "stopped_early": training.fitted.stopped_early,
        "seconds": round(seconds, 3),
    }


def _draw(config: Mapping[str, Any], folder: Path, prepared: Prepared, journal: Journal, *, step: int) -> None:
    """The run's pictures, from what is already on disk: curves and layers from the journal, the rest from the test outcomes."""
    from components.figures.curves import curves
    from components.figures.gradients import activation_saturation, gradient_flow

    series, trainer = history(folder), build(config["trainer"])
    objective: Objective = build(config["objective"], **prepared.facts)
    batches = math.ceil(len(prepared.splits["train"]) / trainer.batch_size)
    steps_per_epoch = math.ceil(batches / trainer.accumulate)
    journal.figure("curves", curves(series, monitor=objective.monitor, steps_per_epoch=steps_per_epoch), step=step)
    for name, prefix, figure in (("gradient_flow", "gradients/", gradient_flow), ("saturation", "saturation/", activation_saturation)):
        if any(key.startswith(prefix) for key in series):
            journal.figure(name, figure(series), step=step)
    if "test" in prepared.splits:
        for title, drawn in objective.figures(load_outcomes(folder / "outcomes" / "test"), prepared.splits["test"]).items():
            journal.figure(f"test/{title}", drawn, step=step)


def save_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write per-example outcomes: tensors as PATH.safetensors, lists as PATH.json."""
    write_tensors(path.with_suffix(".safetensors"), {k: v for k, v in outcomes.items() if isinstance(v, Tensor)}, {})
    lists = {key: value for key, value in outcomes.items() if not isinstance(value, Tensor)}
    if lists:
        _write_json(path.with_suffix(".json"), lists)


def load_outcomes(path: Path) -> Outcomes:
    """What `save_outcomes` wrote."""
    lists = path.with_suffix(".json")
    return {**read_tensors(path.with_suffix(".safetensors")).tensors, **(json.loads(lists.read_text("utf-8")) if lists.exists() else {})}


def _save_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], prepared: Prepared) -> None:
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_tensors(unfinished / "model.safetensors", weights, {})
    _write_json(unfinished / "config.json", config)
    _write_json(unfinished / "data.json", {"name": prepared.name, "fingerprint": prepared.fingerprint, "facts": dict(prepared.facts)})
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _write_json(path: Path, value: Any) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _check_same_data(said: list[dict[str, Any]], prepared: Prepared) -> None:
    for line in said:
        if line["event"] == "data" and line["facts"]["fingerprint"] != prepared.fingerprint:
            raise RunError(f"{prepared.name} has changed since this run began: it cannot be resumed exactly; start a new one")
