"""What each factor of a sweep does: its levels one by one, and against each other under the same conditions.

Levels are only compared where both were run in the same combination (setting of everything else) with the same seed; what has no such
partner is left out and counted. The mean of a level's own trials would compare the company it keeps.

With three seeds or more, the seed is the unit: differences are averaged over combinations first, and what is left to chance is what
another seed does. With fewer, only combinations are there to count, and nothing is said about chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from flows.search.conditions import Basis, Cells, cells, means
from flows.search.outcomes import Outcomes, gather, has_value, token
from flows.search.paired import ERROR, SEEDS_FOR_T, Test, holm, paired_t, signed_rank
from flows.search.quantity import Quantity
from flows.search.results import Results, Trial

TOO_CLOSE = "too close to call"

OVER_SEEDS, OVER_COMBINATIONS, NO_TEST = "paired t over seeds", "signed rank over combinations", "none"


@dataclass(frozen=True)
class Level:
    """One level of a factor.

    Attributes:
        name: as it stands in tables; `value` as in the configuration.
        mean: over seeds, of each seed's mean over combinations; None without a single value.
        interval: 95 %, over seeds; None for fewer than two: one seed says nothing about chance.
        spread: the middle half of the combinations' means. It says how much the rest matters, not how sure the mean is.
        seeds, combinations: how many the mean is of.
        matched: whether the mean is of the same combinations and seeds as the other matched levels'.
        settings: what else the level's one configuration has, where each level was tuned for itself.
        complete, pruned, failed: trials; `lost` ended without a number.
        configurations: how many different ones were run.
        allowed: whether any configuration behind the mean keeps the search's constraints.
    """

    name: str
    value: Any
    mean: float | None
    interval: tuple[float, float] | None
    spread: tuple[float, float] | None
    seeds: int
    combinations: int
    matched: bool
    settings: Mapping[str, Any] | None
    complete: int
    pruned: int
    failed: int
    lost: int
    configurations: int
    allowed: bool


@dataclass(frozen=True)
class Comparison:
    """Two levels under the same conditions.

    Attributes:
        factor, better, worse: names; the better one by the estimate.
        difference: how much better, ≥ 0 whatever the direction; None where nothing could be compared.
        interval: 95 %, for this comparison alone.
        test: `OVER_SEEDS`, `OVER_COMBINATIONS` or `NO_TEST`.
        units: how many seeds or combinations the test counts.
        pairs: of trials that both ended with a number.
        left_out: places (combination and seed) where one of the two is missing or has no number.
        p: of no difference; `adjusted` after Holm for all comparisons of the report.
        verdict: "X beats Y by …", or "too close to call".
    """

    factor: str
    better: str
    worse: str
    difference: float | None
    interval: tuple[float, float] | None
    test: str
    units: int
    pairs: int
    left_out: int
    p: float | None
    adjusted: float | None = None
    verdict: str = TOO_CLOSE

    @property
    def beats(self) -> bool:
        """Whether there is a winner."""
        return self.verdict != TOO_CLOSE


@dataclass(frozen=True)
class Factor:
    """A key with levels.

    Attributes:
        key: of the space.
        basis: what the means are made of.
        levels: the best mean first, those without a value last.
        comparisons: every pair of levels that have values.
        combinations: that the factor was run in, in all.
    """

    key: str
    basis: Basis
    levels: tuple[Level, ...]
    comparisons: tuple[Comparison, ...]
    combinations: int


def factors(results: Results, outcomes: Outcomes | None = None) -> tuple[Factor, ...]:
    """Every factor of the sweep with its levels and comparisons, these corrected for all comparisons together."""
    outcomes = outcomes or gather(results)
    quantity = Quantity(results.objectives[0].metric, results.objectives[0].direction)
    with np.errstate(over="ignore", invalid="ignore"):
        found = [_factor(results, outcomes, key, quantity.sign) for key in results.factors]
    p = [comparison.p for factor in found for comparison in factor.comparisons if comparison.p is not None]
    adjusted = iter(holm(p))
    return tuple(
        replace(
            factor,
            comparisons=tuple(
                comparison if comparison.p is None else _judged(replace(comparison, adjusted=next(adjusted)), quantity)
                for comparison in factor.comparisons
            ),
        )
        for factor in found
    )


def level_name(value: Any) -> str:
    """A level as it stands in tables: `relu`, `null`, `[256,128]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(level_name, value))}]"
    return str(value) or '""'


def _factor(results: Results, outcomes: Outcomes, key: str, sign: float) -> Factor:
    of_key = cells(results, outcomes, key, sign)
    basis, found = means(of_key, sign)
    trials = Counter((token(trial.params[key]), _ending(trial)) for trial in results.trials if key in trial.params)
    run = Counter(token(each[key]) for each in outcomes.configurations if key in each)
    levels = [
        Level(
            name=level_name(level),
            value=level,
            mean=mean.mean,
            interval=mean.interval,
            spread=mean.spread,
            seeds=mean.seeds,
            combinations=mean.combinations,
            matched=mean.matched,
            settings=settings,
            **{ending: trials[token(level), ending] for ending in ("complete", "pruned", "failed", "lost")},
            configurations=run[token(level)],
            allowed=_allowed(outcomes, key, level, settings),
        )
        for level, mean, settings in zip(of_key.levels, found, of_key.settings, strict=True)
    ]
    ranked = sorted(levels, key=lambda level: (level.mean is None, 0.0 if level.mean is None else -sign * level.mean))
    there = [code for code, level in enumerate(levels) if level.mean is not None]
    compared = [_compare(key, of_key, levels, one, other) for one, other in combinations(there, 2)]
    place = {level.name: i for i, level in enumerate(ranked)}
    compared.sort(key=lambda each: (place[each.better], place[each.worse]))
    return Factor(key, basis, tuple(ranked), tuple(compared), of_key.combinations)


def _allowed(outcomes: Outcomes, key: str, level: Any, settings: Mapping[str, Any] | None) -> bool:
    """Whether a configuration of the level that has a value, the one with these settings where one stands for it, keeps the constraints."""
    mine = np.flatnonzero((outcomes.levels(key, [level]) == 0) & (outcomes.means()[1] > 0))
    if settings is not None:
        mine = np.array([place for place in mine if outcomes.configurations[place] == {key: level, **settings}], dtype=int)
    return not len(mine) or bool(outcomes.feasible[mine].any())


def _ending(trial: Trial) -> str:
    return "lost" if trial.state == "complete" and not has_value(trial) else trial.state


def _compare(key: str, of_key: Cells, levels: Sequence[Level], one: int, other: int) -> Comparison:
    """Two levels in the cells where both have a value; the unit is the seed where there are enough, otherwise the combination."""
    difference = of_key.values[one] - of_key.values[other]
    there = np.isfinite(difference)
    attempted = (of_key.attempted[one] | of_key.attempted[other]).sum() + of_key.alone[one] + of_key.alone[other]
    sums = np.where(there, difference, 0.0)
    in_seed, in_combination = there.sum(0), there.sum(1)
    result, test, units = None, NO_TEST, 0
    if (in_seed > 0).sum() >= SEEDS_FOR_T:
        of_seed = sums.sum(0)[in_seed > 0] / in_seed[in_seed > 0]
        result, test, units = paired_t(of_seed), OVER_SEEDS, len(of_seed)
    elif there.any():
        of_combination = sums.sum(1)[in_combination > 0] / in_combination[in_combination > 0]
        units = len(of_combination)
        if units > 1:
            result, test = signed_rank(of_combination), OVER_COMBINATIONS
        else:
            result = Test(float(of_combination[0]), None, math.nan)
    ahead = result is None or result.estimate >= 0
    better, worse = (levels[one], levels[other]) if ahead else (levels[other], levels[one])
    interval = None if result is None else result.interval
    return Comparison(
        factor=key,
        better=better.name,
        worse=worse.name,
        difference=None if result is None else abs(result.estimate),
        interval=interval if interval is None or ahead else (-interval[1], -interval[0]),
        test=test,
        units=units,
        pairs=int(there.sum()),
        left_out=int(attempted - there.sum()),
        p=None if test == NO_TEST or result is None else result.p,
    )


def _judged(comparison: Comparison, quantity: Quantity) -> Comparison:
    """With its verdict: a winner where the corrected p and the interval both say so."""
    assert comparison.adjusted is not None and comparison.difference is not None
    if comparison.adjusted > ERROR or comparison.interval is None or comparison.interval[0] <= 0:
        return comparison
    lead = quantity.lead(comparison.difference, comparison.interval)
    return replace(comparison, verdict=f"{comparison.better} beats {comparison.worse} by {lead}")
