"""The parts that an experiment is made of and leaves behind: its data, its model, its outcomes.

runs/RUN/model/      model.safetensors, config.json, data.json: enough to build the model again without the data
runs/RUN/outcomes/   one file a split: what happened to every example
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.data.prepared import CARD, Prepared, fingerprint, prepare
from components.data.sources import Sources
from components.errors import CheckpointError, ConfigError, RequestError, RunError
from components.protocols import DataSet, Objective, Outcomes
from components.training.checkpoint import read_tensors, write_tensors
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.config.words import one_line
from flows.lab import limits
from flows.lab.settings import Settings

Tell = Callable[[dict[str, Any]], None]
"""Told of progress as it happens: small JSON-able dicts with a `kind`."""

SHOWN = 20
"""How many unreadable files and faults are named in the terminal."""


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
    """The experiment's data set, prepared now or found prepared.

    Raises:
        RequestError: it would have to be prepared, and LAB_HOME is full.
        RunError: a file that it is made from will not fit, or cannot be had.
    """
    dataset = build(config["data"])

    def room() -> None:
        if full := limits.warning(settings):
            tell({"kind": "note", "text": full})

    def room_for(name: str, size: int) -> None:
        limits.refuse_what_will_not_fit(settings, size, f"the data will not fit: {name} needs")

    sources = Sources(settings.downloads, settings.data_mirror, progress=lambda text: tell({"kind": "note", "text": text}), room=room_for)
    prepared = prepare(
        dataset,
        settings.data,
        sources,
        progress=lambda text: tell({"kind": "note", "text": text}),
        first=room,
    )
    for line in _left_out(prepared.card, prepared.folder / CARD):
        tell({"kind": "note", "text": line})
    return prepared


def _left_out(card: Mapping[str, Any], file: Path) -> Iterator[str]:
    """What of a user's files could not be read, one by one up to SHOWN of them, and how many rows could not be used.

    Args:
        card: the data card.
        file: where it is.
    """
    unreadable = card.get("unreadable", [])
    for item in unreadable[:SHOWN]:
        yield f"left out: {item['file']}: {item['reason']}"
    if len(unreadable) > SHOWN:
        yield f"left out: {len(unreadable) - SHOWN:,} more; all are in {file}"
    yield from card.get("notes", [])
    rows, reason = card.get("left_out", 0), card.get("left_out_reason")
    if rows and reason:  # without a reason it is what the data set's own settings ask for
        yield f"left out: {rows:,} {'row' if rows == 1 else 'rows'} {reason}"


def build_model(config: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[nn.Module, Objective]:
    """The model, initialised from the experiment's seed alone, and its objective; ConfigError where they or the data do not go together."""
    activation = build(config["activation"])
    model: nn.Module = build(config["model"], "model", activation=activation, **facts)
    generator = torch.Generator().manual_seed(config["seed"])
    build(config["initializer"]).initialize(model, activation=activation(), generator=generator)
    objective: Objective = build(config["objective"], "objective", **facts)
    _refuse_misfit(model, objective, facts)
    return model, objective


def outline(config: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
    """The model's names and shapes without its numbers (on the `meta` device); ConfigError as above."""
    with torch.device("meta"):
        model: nn.Module = build(config["model"], "model", activation=build(config["activation"]), **facts)
    _refuse_misfit(model, build(config["objective"], "objective", **facts), facts)
    return model


def _refuse_misfit(model: nn.Module, objective: Objective, facts: Mapping[str, Any]) -> None:
    """Raise ConfigError where a detector meets what is for no detector; `needs` is what a detection objective asks of its model."""
    needs, boxes = getattr(objective, "needs", ()), facts.get("predicts") == "boxes"
    missing = [name for name in needs if not hasattr(model, name)]
    name, learner = type(model).__name__, type(objective).__name__
    if missing:
        raise ConfigError(
            f"model: {name} cannot learn by {learner}, which needs a detector with {', '.join(missing)}; choose another of the two"
        )
    if needs and not boxes:
        raise ConfigError(f"data: {learner} learns from boxes, which these data do not have (scenes, bccd, trees, voc and coco do)")
    if not needs and (boxes or hasattr(model, "candidates")):
        raise ConfigError(
            f"objective: {learner} is not for detection ({'the data have boxes' if boxes else f'{name} finds boxes'}): "
            "multibox goes with ssd, grid with yolo"
        )


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
    try:
        model.load_state_dict(read_tensors(folder / "model.safetensors").tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: these weights are not of the model as it is now ({one_line(str(error), 160)})") from None
    return Loaded(model.eval(), objective, config, data)


def save_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write per-example outcomes: tensors as PATH.safetensors, lists as PATH.json."""
    write_tensors(path.with_suffix(".safetensors"), {k: v for k, v in outcomes.items() if isinstance(v, Tensor)}, {})
    lists = {key: value for key, value in outcomes.items() if not isinstance(value, Tensor)}
    if lists:
        write_json(path.with_suffix(".json"), lists)


def load_outcomes(path: Path) -> Outcomes:
    """What `save_outcomes` wrote."""
    lists = path.with_suffix(".json")
    return {**read_tensors(path.with_suffix(".safetensors")).tensors, **(json.loads(lists.read_text("utf-8")) if lists.exists() else {})}


def save_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], prepared: Prepared) -> None:
    """Write a run's model folder, whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_tensors(unfinished / "model.safetensors", weights, {})
    write_json(unfinished / "config.json", config)
    write_json(unfinished / "data.json", {"name": prepared.name, "fingerprint": prepared.fingerprint, "facts": dict(prepared.facts)})
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; RunError when the disk does not take it."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
