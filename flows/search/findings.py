"""What a report says, as plain values: all that its text, its tables, its figures and its page are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flows.search.importance import Importance
from flows.search.ranking import Ranking
from flows.search.statistics import Factor


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same reason; `reason` is the first one's, as others differ in numbers only."""

    reason: str
    trials: int


@dataclass(frozen=True)
class Cost:
    """What the sweep took.

    Attributes:
        asked, ended: trials.
        complete, pruned, failed, lost: how they ended: with a value, early, with an error, or at the end without a number.
        seconds: of training and evaluation, added up over trials.
        samples: training examples seen, repetitions counted.
        failures: reasons of failed trials, the most frequent first.
    """

    asked: int
    ended: int
    complete: int
    pruned: int
    failed: int
    lost: int
    seconds: float
    samples: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Tested:
    """A test metric of the chosen configuration: mean and 95 % interval over so many seeds."""

    metric: str
    mean: float
    interval: tuple[float, float] | None
    seeds: int


@dataclass(frozen=True)
class Report:
    """What a sweep comes to.

    Attributes:
        name, description, overrides, sampler, pruner, balance: of the sweep.
        metric, direction: of the first objective, which decides; `objectives` are all of them, (metric, direction).
        configurations: how many different ones were run.
        seeds: how many each was to be run with.
        fresh_seeds: how many confirmed the best of each level.
        verdict: what to remember, a sentence each: first what was chosen, then one for each factor.
        cautions: what has to be known to believe it no further than it goes.
        factors, ranking, importance, cost, test: the numbers.
        tested: how many configurations the test split has been looked at for.
        command: a line that trains the chosen configuration; None without one.
    """

    name: str
    description: str
    overrides: tuple[str, ...]
    sampler: str
    pruner: str
    balance: str | None
    metric: str
    direction: str
    objectives: tuple[tuple[str, str], ...]
    configurations: int
    seeds: int
    fresh_seeds: int
    verdict: tuple[str, ...]
    cautions: tuple[str, ...]
    factors: tuple[Factor, ...]
    ranking: Ranking
    importance: Importance | None
    cost: Cost
    test: tuple[Tested, ...]
    tested: int
    command: str | None

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; numbers that JSON does not know (NaN, infinity) become null."""
        found = _plain(asdict(self))
        assert isinstance(found, dict)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
