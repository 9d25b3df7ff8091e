"""Finding runs by what people have at hand: the lab's name for it, the beginning of that name, or MLflow's id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import RequestError, closest
from flows.lab.settings import Settings

_MADE = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}")
"""What a run's name has behind its experiment's."""


def find(run: str, settings: Settings) -> Path:
    """The folder of the run called `run` (its name, its experiment's, its name's beginning, an MLflow run id, `last`).

    Trials of sweeps are found by their whole name and their id.

    Raises:
        RequestError: there is no such run, or several; names the nearest.
    """
    known = [path.parent for path in settings.runs.glob("*/config.json")]
    folders = sorted(known, key=lambda folder: (folder / "config.json").stat().st_mtime_ns)
    if run == "last" and folders:
        return folders[-1]
    by_name = {folder.name: folder for folder in (*folders, *trials(settings))}
    if run in by_name:
        return by_name[run]
    starting = [folder for folder in folders if run and folder.name.startswith(run)]
    starting = [folder for folder in starting if _MADE.fullmatch(folder.name.removeprefix(run))] or starting
    if len(starting) == 1:
        return starting[0]
    if len(starting) > 1:
        raise RequestError(f"{run!r} may be any of {len(starting)} runs: {', '.join(folder.name for folder in starting[-5:])}")
    for folder in by_name.values():
        if mlflow_run_id(folder) == run:
            return folder
    if (settings.sweeps / run / "trials").is_dir():
        raise RequestError(f"{run} is a sweep, not a run; its report names its best run: lab report {run}")
    near = closest(run, by_name) or (f" (the newest is {folders[-1].name})" if folders else " (there are none yet: lab train …)")
    raise RequestError(f"there is no run {run!r} in {settings.runs}{near}")


def model_folder(address: str, settings: Settings) -> tuple[str, Path]:
    """A trained model's name and folder: of a run as `find` takes it, of `registry:NAME@ALIAS`, or of `experiment:NAME`, its best run.

    Raises:
        RequestError: there is none.
    """
    kind, _, name = address.partition(":")
    if kind == "registry":
        from flows.records.registry import resolve
        from flows.records.tracking import tracking_uri

        folder = resolve(address, tracking_uri(settings), home=settings.home)
        return f"{folder.parent.name} version {folder.name}", folder
    if kind == "experiment":
        found = trained(name, settings)
        if found is None:
            raise RequestError(f"{name} has not been trained here yet: lab train experiment={name}")
        return (found.parent.name if found.name == "model" else name), found
    run = find(address.removeprefix("run:"), settings)
    if not (run / "model").is_dir():
        raise RequestError(f"{run.name} has no model yet: finish it first (lab train --resume {run.name})")
    return run.name, run / "model"


def trials(settings: Settings) -> list[Path]:
    """The run folders of all sweeps' trials."""
    return sorted(path.parent for path in settings.sweeps.glob("*/trials/*/config.json"))


def mlflow_run_id(folder: Path) -> str | None:
    """The MLflow run that a run folder was delivered to; None while it has not been."""
    return _delivered(folder, "mlflow_run_id")


def mlflow_experiment_id(folder: Path) -> str | None:
    """The MLflow experiment of that run."""
    return _delivered(folder, "experiment_id")


def _delivered(folder: Path, key: str) -> str | None:
    try:
        found = json.loads((folder / "delivery.json").read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError):
        return None
    return str(found) if found else None


def config(folder: Path) -> dict[str, Any]:
    """A run's resolved configuration; empty when it cannot be read."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def result(folder: Path) -> dict[str, Any]:
    """A run's result (`metrics`, `monitor`, `seconds` …) as its journal has it; empty while there is none."""
    from flows.records import journal

    results = [line["facts"] for line in journal.read(folder) if line.get("event") == "result"]
    return dict(results[-1]) if results else {}


STAGES_SHARE = ("data", "model", "activation")
"""Sections that the stages of one training agree in; a model's `stage` is what tells them apart."""


def same_task(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations can be stages of one training: weights fit, and what one learns from the other is not tested on."""
    return all(_without_stage(one.get(name)) == _without_stage(other.get(name)) for name in STAGES_SHARE)


def _without_stage(section: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (section or {}).items() if key != "stage"}


def trained(experiment: str, settings: Settings, *, before: Mapping[str, Any] | None = None) -> Path | None:
    """The model folder that stands for `experiment`, None while there is none.

    Of its finished runs here it is the one with the best monitored validation metric; where there is none, the newest version in the
    registry that one of its runs earned, fetched. As the stage `before` a configuration only those of the same task count.
    """
    best: tuple[float, Path] | None = None
    for path in settings.runs.glob("*/config.json"):
        folder = path.parent
        found = result(folder)
        its = config(folder)
        if not found or its.get("name") != experiment or not (folder / "model").is_dir():
            continue
        if before is not None and not same_task(before, its):
            continue
        _, direction, value = found["monitor"]
        score = value if direction == "max" else -value
        if best is None or score > best[0]:
            best = (score, folder)
    if best is not None:
        return best[1] / "model"
    versions = registered(experiment, settings)
    return next((path for path in versions if before is None or same_task(before, config(path))), None)


def registered(experiment: str, settings: Settings) -> Iterator[Path]:
    """The model folders of the registry's versions that runs of `experiment` earned, the newest first, each fetched when asked for."""
    if not settings.remote_mlflow and not settings.mlflow_database.is_file():
        return  # and no database is made for asking
    from flows.records.registry import from_experiment
    from flows.records.tracking import tracking_uri

    yield from from_experiment(experiment, tracking_uri(settings), home=settings.home)


def finished_like(wanted: dict[str, Any], settings: Settings) -> Path | None:
    """The newest finished run with exactly this configuration that has been delivered to MLflow; None if there is none."""
    for folder in sorted((path.parent for path in settings.runs.glob("*/config.json")), reverse=True):
        if config(folder) == wanted and result(folder) and mlflow_run_id(folder):
            return folder
    return None
