"""Finished runs side by side on one split: their metrics in one table, and the pictures that only several runs together make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import RequestError
from components.protocols import Outcomes
from flows.experiment import read_config
from flows.lab.settings import Settings
from flows.parts import Loaded, load_model, load_outcomes, prepare_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = "test"


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
    first = next(iter(runs.values()))[0]
    for name, (loaded, _) in runs.items():
        if loaded.data["name"] != first.data["name"] or type(loaded.objective) is not type(first.objective):
            raise RequestError(
                f"{name} is about {loaded.data['name']} ({type(loaded.objective).__name__}), the first run about {first.data['name']} "
                f"({type(first.objective).__name__}): they cannot be compared"
            )
    metrics = {name: loaded.objective.metrics(outcomes) for name, (loaded, outcomes) in runs.items()}
    draw = getattr(first.objective, "compare", None)
    if draw is None:
        return metrics, {}
    given = {name: (loaded.model, outcomes) for name, (loaded, outcomes) in runs.items()}
    return metrics, draw(given, prepare_data(first.config, settings).splits[SPLIT])


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
