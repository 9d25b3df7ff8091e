"""The space of a search: which keys may vary, over what, and when; judged against the configuration before the first trial.

A key of the space is any key of a configuration: a group (`optimizer`), a value (`model.hidden`), or `experiment` itself. A number's
range is searched; a list's values are **levels**, which a report compares. A level that is a list (`model.hidden=[64, 64]`) is known to
Optuna by its JSON text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from components.errors import ConfigError, closest
from flows.config.build import validate
from flows.config.compose import compose
from flows.config.names import GROUPS, names
from flows.config.words import shown
from flows.search.plan import Plan, Source
from flows.search.results import Range

REFUSED = ("name", "description", "tags", "seed")
MOST_LEVELS = 1000

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = ("null", "true", "false", "nan", "inf")
"""Bare words that mean something else than their text."""

Assignment = dict[str, Any]
"""Key → value: one configuration of the space."""


@dataclass(frozen=True)
class Parameter:
    """One key with one way of choosing its value.

    Attributes:
        key: the key in the configuration.
        levels: what it may be; None for a range.
        range: the numbers that it may be; None for levels.
        when: key → values that it must have for this to count.
        place: where it stands in the YAML.
    """

    key: str
    levels: tuple[Any, ...] | None = None
    range: Range | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    place: tuple[str, ...] = ()

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the condition holds for what is chosen so far."""
        return all(key in chosen and chosen[key] in values for key, values in self.when.items())

    @property
    def tests(self) -> tuple[Any, ...]:
        """The values that show whether the whole of it is allowed."""
        return self.levels if self.levels is not None else (self.range.low, self.range.high) if self.range else ()


@dataclass(frozen=True)
class Space:
    """All parameters, each behind those that its condition asks for."""

    parameters: tuple[Parameter, ...]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in the order in which they are chosen."""
        return tuple(dict.fromkeys(parameter.key for parameter in self.parameters))

    @property
    def factors(self) -> dict[str, tuple[Any, ...]]:
        """Key → levels, for the keys that have levels."""
        found: dict[str, list[Any]] = {}
        for parameter in self.parameters:
            if parameter.levels is not None:
                known = found.setdefault(parameter.key, [])
                known += [level for level in parameter.levels if level not in known]
        return {key: tuple(levels) for key, levels in found.items()}

    @property
    def ranges(self) -> dict[str, Range]:
        """Key → the widest range that it has, for the keys that have a range."""
        found: dict[str, Range] = {}
        for parameter in self.parameters:
            if (new := parameter.range) is not None:
                old = found.get(parameter.key, new)
                found[parameter.key] = Range(min(old.low, new.low), max(old.high, new.high), old.log and new.log, old.whole and new.whole)
        return found

    def choose(self, decide: Callable[[Parameter], Any]) -> Assignment:
        """One configuration: `decide` is asked for every parameter whose condition holds, in order."""
        chosen: Assignment = {}
        for parameter in self.parameters:
            if parameter.key not in chosen and parameter.holds(chosen):
                chosen[parameter.key] = decide(parameter)
        return chosen

    def excluded(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the plan leaves this configuration out."""
        return any(all(key in chosen and chosen[key] in values for key, values in each.items()) for each in self.exclude)

    def grid(self) -> list[Assignment]:
        """Every configuration, the last key changing fastest. AssertionError where a number has a range."""

        def below(chosen: Assignment, rest: Sequence[Parameter]) -> Iterator[Assignment]:
            for place, parameter in enumerate(rest):
                if parameter.key not in chosen and parameter.holds(chosen):
                    assert parameter.levels is not None, f"{parameter.key} is no choice"
                    for level in parameter.levels:
                        yield from below({**chosen, parameter.key: level}, rest[place + 1 :])
                    return
            yield chosen

        return [chosen for chosen in below({}, self.parameters) if not self.excluded(chosen)]


def label(level: Any) -> bool | int | float | str | None:
    """A level as Optuna can keep it."""
    return json.dumps(level) if isinstance(level, list | dict) else level


def overrides(chosen: Mapping[str, Any]) -> list[str]:
    """A configuration of the space as overrides."""
    return [f"{key}={override_value(value)}" for key, value in chosen.items()]


def override_value(value: Any) -> str:
    """A value as Hydra's override grammar reads it back."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    if isinstance(value, list):
        return f"[{','.join(override_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A text in single quotes; a backslash means something only before a quote, the closing one included."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def read(plan: Plan, source: Source, base: Sequence[str]) -> Space:
    """The plan's space, with every value and every condition tried out on the experiment `base` (its overrides).

    Raises:
        ConfigError: a key that is not there, an empty range, an impossible condition …, with the line of the YAML.
    """
    given = {text.partition("=")[0] for text in base}
    found: list[Parameter] = []
    for key, value in plan.space.items():
        place = ("space", key)
        if key in given:
            raise source.error(place, f"space.{key}: is given as an override, too; leave one of them out")
        if key.partition(".")[0] == "data":
            raise source.error(place, f"space.{key}: values on different data cannot be compared; make one sweep for each")
        if key in REFUSED:
            hint = "; search.seeds says how many" if key == "seed" else ""
            raise source.error(place, f"space.{key}: cannot be searched{hint}")
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            found += [_parameter(key, item, (*place, str(i)), source) for i, item in enumerate(value)]
        else:
            found.append(_parameter(key, value, place, source))
    space = Space(_in_order(found, source), tuple(_conditions(each, source, ("exclude", str(i))) for i, each in enumerate(plan.exclude)))
    _check_plan(plan, space, source)
    _try_out(space, source, base)
    if plan.sampler == "grid" and not space.grid():
        raise source.error(["exclude"], "exclude: leaves nothing of the grid")
    return space


def _parameter(key: str, value: Any, place: tuple[str, ...], source: Source) -> Parameter:
    name = f"space.{key}"
    if not isinstance(value, Mapping):
        return Parameter(key, levels=_levels(key, value, place, source), place=place)
    known = ("choices", "low", "high", "log", "when")
    for inner in value:
        if inner not in known:
            raise source.error(
                (*place, inner), f"{name}.{inner}: no such key (allowed: {', '.join(known)}){closest(str(inner)[:60], known)}"
            )
    when = _conditions(value.get("when") or {}, source, (*place, "when"))
    if "choices" in value:
        if value.keys() & {"low", "high", "log"}:
            raise source.error(place, f"{name}: has both choices and a range")
        return Parameter(key, levels=_levels(key, value["choices"], (*place, "choices"), source), when=when, place=place)
    return Parameter(key, range=_range(value, name, place, source), when=when, place=place)


def _levels(key: str, value: Any, place: tuple[str, ...], source: Source) -> tuple[Any, ...]:
    if value == "all":
        if key not in GROUPS:
            raise source.error(place, f"space.{key}: 'all' is for groups ({', '.join(GROUPS)}); list the values")
        return tuple(names(key))
    if not isinstance(value, list) or not value:
        raise source.error(place, f"space.{key}: {shown(value)} is no choice (allowed: a list of values, all, or {{low: …, high: …}})")
    if len(value) > MOST_LEVELS:
        raise source.error(place, f"space.{key}: {len(value)} values are too many (allowed: at most {MOST_LEVELS})")
    for i, level in enumerate(value):
        if any(type(level) is type(other) and level == other for other in value[:i]):
            raise source.error((*place, str(i)), f"space.{key}: {shown(level)} is there twice")
    return tuple(value)


def _range(value: Mapping[str, Any], name: str, place: tuple[str, ...], source: Source) -> Range:
    low: Any = value.get("low")
    high: Any = value.get("high")
    log = value.get("log", False)
    numbers = isinstance(low, int | float) and isinstance(high, int | float) and not isinstance(low, bool) and not isinstance(high, bool)
    if not numbers or not isinstance(log, bool):
        raise source.error(place, f"{name}: a range has numbers low and high, and log: true or false")
    if not low < high:
        raise source.error(place, f"{name}: nothing lies between low {shown(low)} and high {shown(high)}")
    if log and low <= 0:
        raise source.error(place, f"{name}: low {shown(low)} is not allowed with log (allowed: > 0)")
    return Range(low, high, log, whole=type(low) is int and type(high) is int)


def _conditions(value: Any, source: Source, place: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(value, Mapping):
        raise source.error(place, f"{place[-1]}: {shown(value)} is not a mapping of keys to values")
    return {key: tuple(wanted) if isinstance(wanted, list) else (wanted,) for key, wanted in value.items()}


def _in_order(found: Sequence[Parameter], source: Source) -> tuple[Parameter, ...]:
    """Parameters behind those that their conditions name; a condition that can never hold is refused."""
    levels: dict[str, set[Any]] = {}
    for parameter in found:
        for level in parameter.levels or ():
            levels.setdefault(parameter.key, set()).add(label(level))
    for parameter in found:
        for key, wanted in parameter.when.items():
            place, name = (*parameter.place, "when", key), f"space.{parameter.key}.when.{key}"
            if key not in levels:
                raise source.error(place, f"{name}: is no choice of this space{closest(key, levels)}")
            for value in wanted:
                if label(value) not in levels[key]:
                    known = ", ".join(str(each) for each in sorted(levels[key], key=str))
                    raise source.error(place, f"{name}: {shown(value)} never happens (the space has: {known})")
    ordered: list[Parameter] = []
    waiting = list(found)
    while waiting:
        pending = {parameter.key for parameter in waiting}
        ready = [parameter for parameter in waiting if not (parameter.when.keys() & (pending - {parameter.key}))]
        if not ready or any(parameter.key in parameter.when for parameter in ready):
            first = (ready or waiting)[0]
            raise source.error((*first.place, "when"), f"space.{first.key}.when: conditions that wait for each other")
        ordered += ready
        waiting = [parameter for parameter in waiting if parameter not in ready]
    return tuple(ordered)


def _check_plan(plan: Plan, space: Space, source: Source) -> None:
    """What the sampler, the pruner and the rest of the plan ask of the space."""
    if plan.sampler == "grid" and space.ranges:
        key = next(iter(space.ranges))
        raise source.error(["space", key], f"space.{key}: a grid has no ranges; list values, or take another sampler")
    if plan.sampler in ("cmaes", "gp") and not space.ranges:
        raise source.error(
            ["sampler"], f"sampler: {plan.sampler} searches numbers, and this space has only choices (allowed: grid, random, tpe)"
        )
    if plan.balance is not None:
        if plan.balance not in space.factors:
            raise source.error(
                ["balance"], f"balance: {shown(plan.balance)} is no choice of this space{closest(plan.balance, space.factors)}"
            )
        if plan.sampler in ("grid", "qmc", "cmaes"):
            raise source.error(
                ["balance"], f"balance: {plan.sampler} cannot search each level for itself (allowed: random, tpe, gp, nsga2)"
            )
    if plan.pruner != "none" and len(plan.objectives) > 1:
        raise source.error(["pruner"], "pruner: hopeless is defined for one objective only (allowed with several: none)")
    if plan.pruner == "wilcoxon" and plan.seeds < 2:
        raise source.error(["pruner"], "pruner: wilcoxon compares seeds, so search.seeds has to be 2 or more")
    _check_exclude(space, source)
    for metric, bound in plan.constraints.items():
        if len(bound) != 1:
            raise source.error(["constraints", metric], f"constraints.{metric}: one of at_most and at_least")


def _check_exclude(space: Space, source: Source) -> None:
    """What is left out has to be in the space."""
    for i, each in enumerate(space.exclude):
        for key, values in each.items():
            place = ["exclude", str(i), key]
            if key not in space.factors:
                raise source.error(place, f"exclude: {shown(key)} is no choice of this space{closest(key, space.factors)}")
            for value in values:
                if value not in space.factors[key]:
                    known = ", ".join(str(level) for level in space.factors[key])
                    raise source.error(place, f"exclude.{key}: {shown(value)} never happens (the space has: {known})")


def _try_out(space: Space, source: Source, base: Sequence[str]) -> None:
    """Compose every parameter's values, each with all choices that it may meet in its own group; the first that is refused is said."""
    tried: set[tuple[str, ...]] = set()
    data = None
    for parameter in space.parameters:
        group = parameter.key.partition(".")[0]
        others = [
            other for other in dict.fromkeys((group, "experiment", *parameter.when)) if other != parameter.key and other in space.factors
        ]
        for levels in itertools.product(*(parameter.when.get(other, space.factors[other]) for other in others)):
            chosen = dict(zip(others, levels, strict=True))
            for value in parameter.tests:
                texts = tuple(overrides({**chosen, parameter.key: value}))
                if texts in tried:
                    continue
                tried.add(texts)
                try:
                    config = validate(compose([*base, *texts]))
                except ConfigError as error:
                    with_what = f" (with {', '.join(overrides(chosen))})" if chosen else ""
                    raise source.error(parameter.place, f"space.{parameter.key}: {error}{with_what}") from error
                data = data or config["data"]
                if config["data"] != data:
                    raise source.error(
                        parameter.place,
                        f"space.{parameter.key}: {shown(value)} has other data, and values on different data cannot be compared",
                    )


def to_json(space: Space) -> dict[str, Any]:
    """The space as JSON values."""
    return {
        "parameters": [asdict(parameter) for parameter in space.parameters],
        "exclude": [dict(each) for each in space.exclude],
    }


def from_json(kept: Mapping[str, Any]) -> Space:
    """What `to_json` gave, after it was JSON."""
    parameters = [
        Parameter(
            each["key"],
            levels=None if each["levels"] is None else tuple(each["levels"]),
            range=None if each["range"] is None else Range(**each["range"]),
            when={key: tuple(values) for key, values in each["when"].items()},
            place=tuple(each["place"]),
        )
        for each in kept["parameters"]
    ]
    return Space(tuple(parameters), tuple({key: tuple(values) for key, values in each.items()} for each in kept["exclude"]))
