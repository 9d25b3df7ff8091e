"""A request for a sweep, judged before anything is made: the experiment, what is searched, and for what."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import ConfigError, RequestError
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.config.overrides import parse
from flows.config.words import shown
from flows.judgement import refuse_misfits
from flows.search import crew
from flows.search import plan as plans
from flows.search import space as spaces
from flows.search.plan import Plan, Source
from flows.search.results import Objective
from flows.search.space import Space

_NAME = re.compile(r"[^\W_][\w .-]{0,78}[\w-]|[^\W_]")

BUDGET = ("trials", "hours", "samples", "seeds", "confirm", "workers", "backend")
"""What of a plan can change when a sweep goes on."""


OWN_METRICS = ("seconds", "parameters", "samples")
"""What a trial can be judged by beside its metrics on validation."""


@dataclass(frozen=True)
class Request:
    """What `lab sweep experiment=… search=…` asks for.

    Attributes:
        overrides: what all trials have in common, without seed.
        config: the experiment's configuration as it is without the space.
        plan, space, objectives: what is searched, and for what.
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]
    plan: Plan
    space: Space
    objectives: tuple[Objective, ...]


def read(overrides: Sequence[str]) -> Request:
    """Judge a request.

    Raises:
        ConfigError: one line about the first thing that is wrong, with the line of the YAML where it stands in one.
    """
    own, search = plans.split(overrides)
    plan, source = plans.read(search)
    config = validate(compose(own))
    if config["trainer"].get("processes", 1) * config["trainer"].get("nodes", 1) > 1:
        raise ConfigError("trainer.processes: a trial trains in one process; more workers run more trials at once (search.workers=…)")
    space = spaces.read(plan, source, own)
    if not {key.partition(".")[0] for key in space.keys} & {"experiment", "data", "objective", "model"}:
        refuse_misfits(config)
    if config["trainer"].get("threads", 0) == 0 and "trainer.threads" not in space.keys:
        threads = 1 if plan.backend in ("vectorised", "auto") else crew.threads(plan.workers or 1)
        own = [*own, f"trainer.threads={threads}"]  # said openly: sums, and so results, depend on it
        config = validate(compose(own))
    common = tuple(text for text in own if parse(text)[0] != "seed")
    return Request(common, config, plan, space, _objectives(plan, source, config))


def check_request(overrides: Sequence[str]) -> None:
    """Raise ConfigError when `overrides` are no request for a sweep."""
    read(overrides)


def changes(overrides: Sequence[str]) -> dict[str, Any]:
    """What of its budget a sweep that goes on shall have otherwise: `["search.trials=60"]` → `{"trials": 60}`. ConfigError for the rest."""
    found: dict[str, Any] = {}
    for text in overrides:
        key, value = parse(text)
        name = key.removeprefix("search.")
        if not key.startswith("search.") or name not in BUDGET:
            allowed = ", ".join(f"search.{each}" for each in BUDGET)
            raise ConfigError(f"{key}: a sweep goes on as it was, but for its budget (allowed: {allowed})")
        found[name] = plans.check_key(name, value)
    return found


def _objectives(plan: Plan, source: Source, config: dict[str, Any]) -> tuple[Objective, ...]:
    for metric in (*plan.objectives, *plan.constraints):
        if metric.startswith("test/"):
            raise source.error(["objectives", metric], f"{metric}: the test split never decides; take validation/{metric[5:]}")
        if not metric.startswith("validation/") and metric not in OWN_METRICS:
            raise source.error(["objectives", metric], f"{metric}: no such metric (allowed: validation/…, {', '.join(OWN_METRICS)})")
    if plan.objectives:
        return tuple(Objective(metric, direction) for metric, direction in plan.objectives.items())
    metric, direction = build(config["objective"], **_STAND_INS).monitor
    return (Objective(f"validation/{metric}", direction),)


_STAND_INS: dict[str, Any] = {"classes": 2, "class_names": ["a", "b"]}
"""Facts of the data that an objective may want; what it monitors does not depend on them."""


def checked_name(name: str) -> str:
    """A name that somebody gives a sweep. RequestError when it could not be a folder's, or means something else."""
    if name and (not _NAME.fullmatch(name) or name == "last"):
        allowed = "at most 80 letters, digits, spaces, '_', '-' and '.', beginning with a letter or digit, and not 'last'"
        raise RequestError(f"--name: {shown(name)} is not allowed (allowed: {allowed})")
    return name


def new_name(config: Mapping[str, Any], plan: Plan) -> str:
    """A name that is not taken: `mlp_mnist-initializers-20261125-134512-3f9a`; without the experiment where that is what is searched."""
    what = plan.name if "experiment" in plan.space else f"{config['name']}-{plan.name}"
    return f"{what}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
