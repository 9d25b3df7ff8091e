"""Finished runs side by side on one split: their metrics in one table, and the pictures that only several runs together make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.errors import RequestError
from components.protocols import Objective, Outcomes, Split
from flows.experiment import read_config
from flows.lab.settings import Settings
from flows.parts import Loaded, load_model, load_outcomes, prepare_data
from flows.records import journal, translate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = "test"
TRUTH = ("true_boxes", "true_labels", "targets", "references")
"""Where outcomes keep what was to be found."""


def compare(folders: Sequence[Path], settings: Settings) -> tuple[dict[str, dict[str, float]], dict[str, Figure]]:
    """Compare runs of one kind of problem on the same test examples.

    Args:
        folders: two or more finished runs, named in the tables and pictures by their experiment (by their run where that is not enough).
        settings: where the prepared data are.

    Returns:
        name → the test metrics, and the pictures: those of the objective's `compare`, where it has any.

    Raises:
        RequestError: a run has no model yet, or they are about different data or problems.
    """
    runs = dict(zip(_names(folders), [_finished(folder) for folder in folders], strict=True))
    contents = dict(zip(runs, [_content(folder) for folder in folders], strict=True))
    first = next(iter(runs.values()))[0]
    for name, (loaded, outcomes) in runs.items():
        same = _same_examples(outcomes, next(iter(runs.values()))[1])
        if _kind(loaded.objective) is not _kind(first.objective) or (loaded.data["name"] != first.data["name"] and same is not True):
            raise RequestError(
                f"{name} is about {loaded.data['name']} ({type(loaded.objective).__name__}), the first run about {first.data['name']} "
                f"({type(first.objective).__name__}): they cannot be compared"
            )
        if same is False or not _same_data(loaded, first, contents[name], next(iter(contents.values()))):
            raise RequestError(f"{name} was tested on other examples of {loaded.data['name']} than the first run: they cannot be compared")
    metrics = {name: loaded.objective.metrics(outcomes) for name, (loaded, outcomes) in runs.items()}
    draw = getattr(first.objective, "compare", None)
    if draw is None:
        return metrics, {}
    splits = {name: prepare_data(loaded.config, settings).splits[SPLIT] for name, (loaded, _) in runs.items()}
    examined = in_turns({name: (loaded, splits[name]) for name, (loaded, _) in runs.items()})
    given = {name: (loaded.model, outcomes | {"examined": examined[name]}) for name, (loaded, outcomes) in runs.items()}
    return metrics, draw(given, next(iter(splits.values())))


def _same_examples(one: Outcomes, other: Outcomes) -> bool | None:
    """Whether two runs were tested on the same examples, by what is true of them; None where outcomes do not say what that is."""
    if len(one["index"]) != len(other["index"]):
        return False
    known = [key for key in TRUTH if key in one and key in other]
    same = all(bool(torch.equal(one[key], other[key])) if isinstance(one[key], Tensor) else one[key] == other[key] for key in known)
    return same if known else None


def _same_data(one: Loaded, other: Loaded, content: Any, others: Any) -> bool:
    """Whether what is true of two runs' examples means the same: classes of the same names; of the user's own files, the same files."""
    names = [each.data["facts"].get("class_names") for each in (one, other)]
    own = translate.is_own(one.config["data"]) and translate.is_own(other.config["data"])
    return names[0] == names[1] and not (own and None not in (content, others) and content != others)


def _content(folder: Path) -> Any:
    """The hashes of the files that a run's data were made of; None where its journal does not say."""
    recipes = [(line["facts"].get("card") or {}).get("recipe") for line in journal.read(folder) if line.get("event") == "data"]
    recipe = recipes[-1] if recipes else None
    while recipe and "of" in recipe:
        recipe = recipe["of"]
    return (recipe or {}).get("sources")


def _finished(folder: Path) -> tuple[Loaded, Outcomes]:
    outcomes = folder / "outcomes" / SPLIT
    if not (folder / "model").is_dir() or not outcomes.with_suffix(".safetensors").exists():
        raise RequestError(f"{folder.name} is not finished: finish it first (lab train --resume {folder.name})")
    return load_model(folder / "model"), load_outcomes(outcomes)


def _names(folders: Sequence[Path]) -> list[str]:
    """What each run is called: its experiment's name, or its own where several are of one experiment."""
    experiments = [str(read_config(folder)["name"]) for folder in folders]
    return [
        experiment if experiments.count(experiment) == 1 else folder.name for experiment, folder in zip(experiments, folders, strict=True)
    ]


def in_turns(runs: Mapping[str, tuple[Loaded, Split]]) -> dict[str, list[Any]]:
    """What each run's own objective finds out about its model, example by example; nothing where it does not.

    The runs take turns at each example, so that whatever the machine does meanwhile happens to all of them.
    """
    asked = {name: getattr(loaded.objective, "examine", None) for name, (loaded, _) in runs.items()}
    examining = {name: examine(runs[name][0].model, runs[name][1]) for name, examine in asked.items() if examine is not None}
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for turn in zip(*examining.values(), strict=True):
        for name, each in zip(examining, turn, strict=True):
            found[name].append(each)
    return found


def _kind(objective: Objective) -> type:
    """The class whose `compare` an objective has (all detectors share one), or its own."""
    return next((each for each in type(objective).__mro__ if "compare" in vars(each)), type(objective))
