"""What a sweep is asked to do: `conf/search/NAME.yaml` with the overrides `search.KEY=VALUE`, checked as strictly as an experiment.

    space:
      initializer: all                                     # every choice of the group
      optimizer: [adam, momentum, nesterov]                # these
      trainer.batch_size: [32, 128]                        # any key, any values
      optimizer.learning_rate: {low: 1.0e-4, high: 1.0, log: true}
      optimizer.momentum: {low: 0.5, high: 0.99, when: {optimizer: [momentum, nesterov]}}

Each key may also have a list of such mappings with different `when`; the first whose condition holds counts. What is wrong is said with
the line of the YAML that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Le, MinLen

from components.errors import ConfigError, closest
from flows.config.names import CONF, SEARCH, names, not_one_of
from flows.config.overrides import parse
from flows.config.sections import check, plain
from flows.config.words import one_line, quote, shown

Sampler = Literal["grid", "random", "tpe", "gp", "cmaes", "qmc", "nsga2"]
Pruner = Literal["none", "median", "asha", "hyperband", "wilcoxon"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The keys of a search and what they may be.

    Attributes:
        name: the choice in conf/search.
        space: what may vary (this module's docstring).
        sampler: who chooses the next configuration; `grid` takes every combination, seed after seed.
        pruner: who stops hopeless trials early; none for comparisons, which need every trial to its end.
        objectives: metric → max or min; empty takes the metric that the experiment's objective monitors on validation.
        trials: how many trials in all, seeds counted; 0 is the whole grid once for each seed, and for other samplers 30 configurations.
        hours: no new trial begins after so many hours of trials, added up over the workers; 0 is no limit.
        samples: no new trial begins after so many training examples seen in all; 0 is no limit.
        seeds: every configuration is run with this many seeds, the same for all configurations.
        confirm: when the search is over, the best configuration of each level of `balance` (without it: the best one) is run with so
            many fresh seeds, so that no value that is compared has also been selected by.
        balance: a key of the space whose levels get the same number of configurations each; every other key is searched for each level
            separately.
        exclude: combinations that are left out: each a mapping of key → value or list of values.
        constraints: metric (`parameters`, `seconds`, `validation/…`) → {at_most: number} or {at_least: number}; trials that break one
            never become the chosen configuration.
        workers: processes, each with its share of the cores or its GPU; 0 is one, and for `vectorised` and `auto` one for each core or
            GPU.
        backend: `processes` on this machine; `pool`: workers are flow runs of the work pool, wherever it has machines; `vectorised`: many
            trials are trained together as one program, in every worker; `auto`: whichever of processes and vectorised is quicker here.
        seed: start of the sampler's own random numbers; those of the trainings are the experiment's `seed` and those after it.
    """

    name: str = ""
    space: Annotated[dict[str, Any], MinLen(1)]
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    objectives: dict[str, Literal["max", "min"]] = field(default_factory=dict)
    trials: Annotated[int, Ge(0), Le(100_000)] = 0
    hours: Annotated[float, Ge(0)] = 0.0
    samples: Annotated[int, Ge(0)] = 0
    seeds: Annotated[int, Ge(1), Le(1000)] = 1
    confirm: Annotated[int, Ge(0), Le(1000)] = 0
    balance: str | None = None
    exclude: list[dict[str, Any]] = field(default_factory=list)
    constraints: dict[str, dict[Literal["at_most", "at_least"], float]] = field(default_factory=dict)
    workers: Annotated[int, Ge(0), Le(1000)] = 0
    backend: Literal["processes", "pool", "vectorised", "auto"] = "processes"
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    def as_said(self) -> dict[str, Any]:
        """What is not left at nothing, as MLflow's parameters show it."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {key: value for key, value in found.items() if value not in (None, "", 0, 0.0, [], {})}


KEYS = tuple(each.name for each in fields(Plan) if each.name != "name")
Lines = dict[tuple[str, ...], int]
"""Where a key stands in the YAML: path of keys → line, from 1."""


@dataclass(frozen=True)
class Source:
    """A search as it was written, for messages."""

    file: str
    lines: Lines

    def error(self, path: Sequence[str], message: str) -> ConfigError:
        """`conf/search/mine.yaml:7: space.optimizer: …`, with the line of the innermost key that the file has."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(tuple(path[:length]))
            if line is not None:
                return ConfigError(f"{self.file}:{line}: {message}")
        return ConfigError(f"search.{message}")


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The experiment's overrides and the search's (`search=…`, `search.KEY=…`)."""
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise ConfigError(f"overrides: {shown(overrides)} is not a list of texts such as 'trainer.epochs=3'")
    own = [text for text in overrides if isinstance(text, str) and text.startswith((f"{SEARCH}=", f"{SEARCH}."))]
    return [text for text in overrides if text not in own], own


def read(overrides: Sequence[str], *, conf: Path = CONF) -> tuple[Plan, Source]:
    """The plan that `search=NAME search.KEY=VALUE …` ask for, each key of its type and in its range; the space is not judged here.

    Raises:
        ConfigError: one line with the place in the YAML, or the override, that is wrong.
    """
    parsed: dict[str, Any] = {}
    for text in overrides:
        key, value = parse(text)
        if key in parsed:
            raise ConfigError(f"{quote(key)}: given twice ({shown(parsed[key])} and {shown(value)})")
        parsed[key] = value
    name = parsed.pop(SEARCH, None)
    known = names(SEARCH, conf=conf)
    if name is None:
        raise ConfigError(f"search: missing; choose one with search=… ({', '.join(known)})")
    name = str(name)
    if name not in known:
        raise not_one_of(SEARCH, name, known)
    values, source = _load(conf / SEARCH / f"{name}.yaml")
    for key, value in parsed.items():
        _set(values, source.lines, key.removeprefix(f"{SEARCH}."), value)
    return _plan(name, values, source), source


def check_key(key: str, value: Any) -> Any:
    """One key's value in its type. Raises ConfigError."""
    return check(value, get_type_hints(Plan, include_extras=True)[key], f"{SEARCH}.{key}")


def _plan(name: str, values: dict[str, Any], source: Source) -> Plan:
    hints = get_type_hints(Plan, include_extras=True)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in KEYS:
            raise source.error([key], f"{quote(key)}: no such key (allowed: {', '.join(KEYS)}){closest(key[:60], KEYS)}")
        try:
            plain(value, key)
            given[key] = check(value, hints[key], key)
        except ConfigError as error:
            hint = "; each metric is to be max or min" if key == "objectives" else ""
            raise source.error([key], f"{error}{hint}") from error
    if "space" not in given:
        raise source.error(["space"], "space: missing; it names what may vary")
    return Plan(name=name, **given)


def _load(path: Path) -> tuple[dict[str, Any], Source]:
    """The file's values, and the line of every key in it."""
    import yaml

    file = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: {one_line(str(error))}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file}: is not a mapping of keys to values")
    return values, Source(file, dict(_lines(root, ())))


def _lines(node: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    import yaml

    found: list[tuple[tuple[str, ...], int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            found += [(inner, key.start_mark.line + 1), *_lines(value, inner)]
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            inner = (*path, str(place))
            found += [(inner, value.start_mark.line + 1), *_lines(value, inner)]
    return found


def _set(values: dict[str, Any], lines: Lines, key: str, value: Any) -> None:
    """Put an override in its place; what it covers no longer stands in a line of the file.

    A key of the space has dots itself: `space.optimizer.learning_rate.low` is `low` of `optimizer.learning_rate`.
    """
    path = _path(values, key)
    target = values
    for part in path[:-1]:
        inner = target.get(part)
        inner = dict(inner) if isinstance(inner, Mapping) else {}
        target[part] = inner
        target = inner
    target[path[-1]] = value
    for known in [known for known in lines if known[: len(path)] == path]:
        del lines[known]


def _path(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    first, _, rest = key.partition(".")
    if first not in ("space", "objectives", "constraints") or not rest:
        return tuple(key.split("."))
    inside = values.get(first) or {}
    known = max((name for name in inside if rest == name or rest.startswith(f"{name}.")), key=len, default=rest)
    tail = rest[len(known) + 1 :]
    return (first, known, *(tail.split(".") if tail else ()))
