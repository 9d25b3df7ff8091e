"""What `pretrained=experiment:NAME` stands for: a run of the experiment as conf/experiment has it now, not one that only has its name.

A run counts where its configuration and the content of its data are what they would be today; and, where NAME itself begins with an
experiment's weights, where these were such a run's, and so on. Where it was computed and what was shown meanwhile does not matter.

Of `pretrained=stage:NAME`, the stage before on the same task, any run of that task counts: see `runs.same_task`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.data.prepared import fingerprint
from components.errors import RequestError, closest
from flows import runs
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.config.names import names
from flows.lab.settings import Settings
from flows.records import journal

BESIDE = frozenset({"description", "tags", "data", "trainer"})
"""Of a configuration, what is not compared as it stands: data are compared by their content, and of the trainer only what it computes."""
HOW = frozenset(
    {"device", "compile", "threads", "deterministic", "processes", "nodes", "sharding"}
    | {"log_every", "diagnose_every", "sample_every", "checkpoint_seconds"}
)
"""Settings of the trainer that change nothing of what is computed but for rounding (components/training/settings.py)."""


def ancestors(config: Mapping[str, Any]) -> list[str]:
    """The experiments whose weights a run of `config` begins with: the one that it names, the one that this one names, and so on.

    Raises:
        RequestError: one of them does not exist, names itself, or they go round in a circle; said without looking at any run.
    """
    found: list[str] = []
    name = ancestor(config)
    if name is not None and name == config.get("name"):
        raise RequestError(
            f"pretrained: {name} would begin with its own weights: give this run another name (name=…), or name a run (pretrained=run:RUN)"
        )
    while name is not None:
        known = names("experiment")
        if name not in known:
            near = closest(name, known)
            raise RequestError(f"pretrained: there is no experiment {name!r} in conf/experiment{near}; a run is pretrained=run:RUN")
        if name in found:
            raise RequestError(f"pretrained: {' ← '.join([*found, name])} begin with each other's weights")
        found.append(name)
        name = ancestor(now(name))
    return found


def ancestor(config: Mapping[str, Any]) -> str | None:
    """The experiment that a configuration names to begin with."""
    kind, _, name = str(config.get("pretrained") or "").partition(":")
    return name if kind in ("experiment", "stage") else None


def begins_with(config: Mapping[str, Any], settings: Settings) -> Path | None:
    """The model folder that stands for the experiment that `config` names to begin with, None while there is none."""
    kind, _, name = config["pretrained"].partition(":")
    return standing(name, settings) if kind == "experiment" else runs.trained(name, settings, before=config)


def now(experiment: str) -> dict[str, Any]:
    """The experiment's configuration as it stands in conf/experiment."""
    return validate(compose([f"experiment={experiment}"]))


def standing(experiment: str, settings: Settings) -> Path | None:
    """The model folder that stands for `experiment` as it is now, None while there is none.

    Of such runs here it is the one with the best monitored validation metric; where there is none, the newest such version in the registry,
    fetched. Of a version it is not known what it began with: its configuration and its data have to do.

    Raises:
        RequestError: there is no such experiment, or its data are nowhere.
    """
    config = now(experiment)
    if found := _runs(config, settings):
        return max(found, key=_score) / "model"
    return next((path for path in runs.registered(experiment, settings) if _is_of(config, _data(config), path)), None)


def _runs(config: Mapping[str, Any], settings: Settings) -> list[Path]:
    """The folders of the finished runs here that are what `config` says."""
    data, before = _data(config), ancestor(config)
    earlier = (_runs(now(before), settings) if _names_experiment(config) else _stages(before, config, settings)) if before else []
    begun = {runs.result(folder)["weights_sha256"] for folder in earlier} if before else None
    return [
        folder
        for path in sorted(settings.runs.glob("*/model/config.json"))
        for folder in [path.parent.parent]
        if _is_of(config, data, path.parent) and runs.result(folder) and (begun is None or _began_with(folder) in begun)
    ]


def _names_experiment(config: Mapping[str, Any]) -> bool:
    return str(config["pretrained"]).startswith("experiment:")


def _stages(name: str, later: Mapping[str, Any], settings: Settings) -> list[Path]:
    """The folders of the finished runs here that can be the stage `name` before `later`."""
    kept = [path.parent for path in settings.runs.glob("*/config.json")]
    same = [folder for folder in kept if (its := runs.config(folder)).get("name") == name and runs.same_task(later, its)]
    return [folder for folder in same if runs.result(folder)]


def _data(config: Mapping[str, Any]) -> str:
    """What the content of a configuration's data is known by, before any of it is prepared."""
    return fingerprint(build(config["data"]).recipe())


def _is_of(config: Mapping[str, Any], data: str, model: Path) -> bool:
    """Whether the model in this folder was trained as `config` says, on `data`."""
    try:
        kept = json.loads((model / "data.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(kept == data) and _compared(runs.config(model)) == _compared(config)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides what comes out, but for the data."""
    trainer = {key: value for key, value in config.get("trainer", {}).items() if key not in HOW}
    return {key: value for key, value in config.items() if key not in BESIDE} | {"trainer": trainer}


def _began_with(folder: Path) -> str | None:
    """The hash of the weights that a run began with."""
    begun = [line["facts"]["weights_sha256"] for line in journal.read(folder) if line.get("event") == "pretrained"]
    return begun[-1] if begun else None


def _score(folder: Path) -> float:
    _, direction, value = runs.result(folder)["monitor"]
    return float(value if direction == "max" else -value)
