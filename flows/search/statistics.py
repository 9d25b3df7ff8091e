"""What each factor of a sweep does: its levels one by one, and against each other under the same conditions.

A **combination** is a setting of everything but the factor. Levels are only compared where both were run in the same combination with the
same seed; what has no such partner is left out and counted. Averages over a level's own trials alone would compare the company it keeps.

With three seeds or more, the seed is the unit: a level's differences are averaged over combinations first, and what is left to chance is
what another seed does. With fewer, only combinations are there to count, and nothing is said about chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from flows.search.outcomes import ABSENT, Floats, Outcomes, Truths, Whole, gather, has_value, token
from flows.search.paired import ERROR, SEEDS_FOR_T, Test, holm, paired_t, signed_rank, t_interval
from flows.search.quantity import Quantity
from flows.search.results import Results, Trial

TOO_CLOSE = "too close to call"

Basis = Literal["same conditions", "confirmed", "best of tuned", "own conditions"]
"""What a factor's means are made of: trials under the same conditions; fresh seeds of each level's best configuration; the value of each
level's best configuration that selected it; or, where levels share no conditions, whatever each level was run with."""


@dataclass(frozen=True)
class Level:
    """One level of a factor.

    Attributes:
        name: in words; `value` as in the configuration.
        mean: over seeds, of the mean over combinations of each seed; None without a single value.
        interval: 95 %, over seeds; None for fewer than two: one seed says nothing about chance.
        spread: the middle half of the combinations' means. It says how much the rest matters, not how sure the mean is.
        seeds, combinations: how many the mean is of.
        matched: whether the mean is of the same combinations and seeds as the other matched levels'.
        settings: what else the level's one configuration has, where each level was tuned for itself.
        complete, pruned, failed: trials; `lost` ended without a number.
        tried: configurations that were searched.
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
    tried: int


@dataclass(frozen=True)
class Comparison:
    """Two levels under the same conditions.

    Attributes:
        factor, better, worse: names; the better one by the estimate.
        difference: how much better, ≥ 0 whatever the direction; None where nothing could be compared.
        interval: 95 %, for this comparison alone.
        test: "paired t over seeds", "signed rank over combinations", or "none".
        units: seeds or combinations that the test counts.
        pairs: of trials that both ended with a number.
        left_out: trials' places (combination and seed) where one of the two is missing or ended without a number.
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


@dataclass(frozen=True)
class _Cells:
    """A factor's values (L, B, S): level, combination, seed; NaN without one. Larger is better.

    Attributes:
        attempted: (L, B, S) whether there was a trial.
        missing: (L,) trials in combinations that no other level was run in; they have no cell.
    """

    values: Floats
    attempted: Truths
    missing: Whole


def factors(results: Results) -> tuple[Factor, ...]:
    """Every factor of the sweep with its levels and comparisons, corrected for all comparisons together."""
    quantity = Quantity(results.objectives[0].metric, results.objectives[0].direction)
    search = gather((trial for trial in results.trials if trial.phase == "search"), len(results.objectives))
    confirmed = gather((trial for trial in results.trials if trial.phase == "confirm"), len(results.objectives))
    with np.errstate(over="ignore", invalid="ignore"):
        found = [
            _tuned(results, key, search, confirmed, quantity) if key == results.balance else _untuned(results, key, search, quantity)
            for key in results.factors
        ]
    return _corrected(found, quantity)


def level_name(value: Any) -> str:
    """A level as it stands in tables: `relu`, `null`, `[256,128]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(level_name, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def levels_of(results: Results, key: str) -> list[Any]:
    """The factor's levels in their order, then any that trials have beside these."""
    known = {token(level): level for level in results.factors[key]}
    for trial in results.trials:
        if key in trial.params:
            known.setdefault(token(trial.params[key]), trial.params[key])
    return list(known.values())


def _untuned(results: Results, key: str, search: Outcomes, quantity: Quantity) -> Factor:
    """A factor whose levels met the same settings of everything else, or should have."""
    levels = levels_of(results, key)
    of_configuration = level_codes(search, key, levels)
    block = _blocks(search, key, of_configuration)
    cells = _cells(search, of_configuration, block, len(levels), quantity.sign)
    own = [_own_mean(search, of_configuration == code) for code in range(len(levels))]
    matched = _matched_cells(cells)
    basis: Basis = "own conditions"
    means = own
    if matched is not None:
        basis, (live, used) = "same conditions", matched
        means = [_matched_mean(cells.values[code], used, quantity.sign) if live[code] else own[code] for code in range(len(levels))]
    elif sum(mean.seeds > 0 for mean in own) == 1:
        basis = "same conditions"
    made = [replace(mean, name=level_name(level), value=level) for mean, level in zip(means, levels, strict=True)]
    made = _counted(made, results.trials, key, search, of_configuration)
    combinations = len(np.unique(block[of_configuration >= 0]))
    return Factor(key, basis, _best_first(made, quantity), _comparisons(key, made, cells), combinations)


def _tuned(results: Results, key: str, search: Outcomes, confirmed: Outcomes, quantity: Quantity) -> Factor:
    """A factor each of whose levels was searched for itself: its best configuration stands for it, on fresh seeds where there are any."""
    levels = levels_of(results, key)
    in_search = level_codes(search, key, levels)
    mean, count = search.means()
    rank = np.lexsort((search.first, np.where(np.isnan(mean), np.inf, -quantity.sign * mean), -count * (count < results.seeds)))
    source, basis = (confirmed, "confirmed") if np.isfinite(confirmed.values[:, 0]).any() else (search, "best of tuned")
    places = {_identity(search, int(place)): i for i, place in enumerate(rank)}
    codes = level_codes(source, key, levels)
    order = sorted(range(len(source.configurations)), key=lambda i: (places.get(_identity(source, i), len(rank)), source.first[i]))
    best = [next((i for i in order if codes[i] == code), None) for code in range(len(levels))]
    seeds = np.arange(len(source.seeds))
    values = np.stack([source.table([i], seeds) if i is not None else np.full((1, len(seeds)), np.nan) for i in best])
    attempted = np.stack([np.isin(seeds, source.seed[source.configuration == i])[None] for i in (-1 if i is None else i for i in best)])
    cells = _Cells(quantity.sign * values, attempted, np.zeros(len(levels), dtype=int))
    matched = _matched_cells(cells)
    made = []
    for code, (level, place) in enumerate(zip(levels, best, strict=True)):
        own = np.isfinite(values[code])
        use = matched[1] if matched and matched[0][code] else own
        level_mean = _matched_mean(cells.values[code], use, quantity.sign) if own.any() else _NOTHING
        rest = None if place is None else {name: value for name, value in source.configurations[place].items() if name != key}
        is_matched = bool(matched and matched[0][code]) or own.sum() == own.size
        made.append(replace(level_mean, name=level_name(level), value=level, settings=rest, matched=is_matched, spread=None))
    made = _counted(made, results.trials, key, search, in_search)
    return Factor(key, basis, _best_first(made, quantity), _comparisons(key, made, cells), 1)  # type: ignore[arg-type]
