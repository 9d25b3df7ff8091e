"""Which trials of a factor's levels met the same conditions: the same **combination** (setting of everything else) and the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flows.search.outcomes import ABSENT, Floats, Outcomes, Truths, Whole, token
from flows.search.paired import t_interval
from flows.search.results import Results

Basis = Literal["same conditions", "confirmed", "best of tuned", "own conditions"]
"""What the means of a factor's levels are made of: trials under the same conditions; fresh seeds of each level's best configuration; those
values of each level's best configuration that selected it; or, where levels share no conditions, whatever each was run with."""


@dataclass(frozen=True)
class Cells:
    """The trials of one factor by level, combination and seed: L levels, B combinations that two levels or more were run in, S seeds.

    Attributes:
        basis: what the trials are.
        levels: all levels.
        values: (L, B, S) NaN without a value. Larger is better, whatever the direction.
        attempted: (L, B, S) whether there was a trial.
        own: for each level its values, their combinations and their seeds, (n,) each; also in combinations without a second level.
        alone: (L,) how many trials were in combinations that no other level was run in.
        combinations: how many there were in all.
        settings: what else each level's configuration has, where one stands for the level.
    """

    basis: Basis
    levels: tuple[Any, ...]
    values: Floats
    attempted: Truths
    own: tuple[tuple[Floats, Whole, Whole], ...]
    alone: Whole
    combinations: int
    settings: tuple[Mapping[str, Any] | None, ...]


@dataclass(frozen=True)
class Mean:
    """The mean of one level.

    Attributes:
        mean: over seeds, of each seed's mean over combinations; None without a value.
        interval: 95 %, over seeds; None for fewer than two.
        spread: the middle half of the combinations' means over seeds; None for fewer than two.
        seeds, combinations: how many the mean is of.
        matched: whether all matched levels' means are of the same combinations and seeds.
    """

    mean: float | None
    interval: tuple[float, float] | None
    spread: tuple[float, float] | None
    seeds: int
    combinations: int
    matched: bool


def cells(results: Results, outcomes: Outcomes, key: str, sign: float) -> Cells:
    """The trials that the levels of `key` are judged by; `sign` makes larger values better ones."""
    levels = _levels(results, key)
    level = outcomes.levels(key, levels)
    search, confirmed = outcomes.phase("search"), outcomes.phase("confirm")
    if key != results.balance:
        return _arrange("same conditions", levels, search, level, _combinations(search, key, level, results), sign=sign)
    fresh = bool(np.isfinite(confirmed.values[:, 0]).any())
    source = confirmed if fresh else search
    best = _best_of_each(search, source, level, sign=sign, seeds=results.seeds)
    one = np.where(np.isin(np.arange(len(level)), list(best.values())), level, ABSENT)
    settings = tuple(
        {name: value for name, value in outcomes.configurations[best[code]].items() if name != key} if code in best else None
        for code in range(len(levels))
    )
    return _arrange("confirmed" if fresh else "best of tuned", levels, source, one, np.zeros_like(level), sign=sign, settings=settings)


def means(cells: Cells, sign: float) -> tuple[Basis, list[Mean]]:
    """The mean of each level, under the same conditions as far as there are such, and whether there are."""
    of_own = [_mean(*own, matched=False) for own in cells.own]
    matched = _matched(cells)
    if matched is None:
        alone = sum(mean.mean is not None for mean in of_own) == 1
        basis: Basis = cells.basis if alone or cells.basis in ("confirmed", "best of tuned") else "own conditions"
        return basis, [_signed(mean, sign) for mean in of_own]
    live, used = matched
    found = []
    for values, is_live, own in zip(cells.values, live, of_own, strict=True):
        combination, seed = np.nonzero(used)
        found.append(_mean(values[used], combination, seed, matched=True) if is_live else own)
    return cells.basis, [_signed(mean, sign) for mean in found]


def _levels(results: Results, key: str) -> tuple[Any, ...]:
    """The factor's levels in their order, then any that only trials have."""
    known = {token(level): level for level in results.factors[key]}
    for trial in results.trials:
        if key in trial.params:
            known.setdefault(token(trial.params[key]), trial.params[key])
    return tuple(known.values())


def _combinations(search: Outcomes, key: str, level: Whole, results: Results) -> Whole:
    """(K,) which setting of everything else a configuration has.

    Choices that only some levels have (their condition asks for these levels) do not count: a level is averaged over its own.
    """
    there = [level == code for code in np.unique(level[level != ABSENT])]
    others = []
    for column, name in enumerate(search.keys):
        has = [bool((search.codes[place, column] != ABSENT).any()) for place in there]
        if name != key and (name not in results.factors or all(has) or not any(has)):
            others.append(column)
    if not others:
        return np.zeros_like(level)
    return np.unique(search.codes[:, others], axis=0, return_inverse=True)[1].reshape(-1)


def _best_of_each(search: Outcomes, source: Outcomes, level: Whole, *, sign: float, seeds: int) -> dict[int, int]:
    """Level → its best configuration in the search among those that `source` has: with all seeds first, the earliest of equals."""
    mean, count = search.means()
    order = np.lexsort((search.first, np.where(np.isnan(mean), np.inf, -sign * mean), count < seeds))
    present = np.isin(order, source.configuration)
    best = {}
    for code in np.unique(level[level != ABSENT]):
        mine = order[present & (level[order] == code)]
        if len(mine):
            best[int(code)] = int(mine[0])
    return best


def _arrange(
    basis: Basis,
    levels: tuple[Any, ...],
    outcomes: Outcomes,
    level: Whole,
    combination: Whole,
    *,
    sign: float,
    settings: Sequence[Mapping[str, Any] | None] | None = None,
) -> Cells:
    """Rows into their cells. Several configurations of one cell are averaged; where one of them has no value, the cell has none."""
    rows = level[outcomes.configuration] != ABSENT
    configuration, seed = outcomes.configuration[rows], outcomes.seed[rows]
    at, block, value = level[configuration], combination[configuration], sign * outcomes.values[rows, 0]
    blocks, block = np.unique(block, return_inverse=True)
    met = np.zeros((len(levels), len(blocks)), dtype=bool)
    met[at, block] = True
    shared = met.sum(0) > 1
    kept = shared[block]
    shape = (len(levels), int(shared.sum()), len(outcomes.seeds))
    flat = np.ravel_multi_index((at[kept], np.cumsum(shared)[block[kept]] - 1, seed[kept]), shape) if kept.any() else np.zeros(0, dtype=int)
    count = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
    total = np.bincount(flat, value[kept], minlength=int(np.prod(shape))).reshape(shape)
    has = np.isfinite(value)
    return Cells(
        basis,
        levels,
        np.where(count > 0, total / np.maximum(count, 1), np.nan),
        count > 0,
        tuple((value[mine], block[mine], seed[mine]) for mine in (has & (at == code) for code in range(len(levels)))),
        np.bincount(at[~kept], minlength=len(levels)),
        len(blocks),
        tuple(settings or (None,) * len(levels)),
    )


def _matched(cells: Cells) -> tuple[Truths, Truths] | None:
    """The levels (L,) that have values in the same cells, and these cells (B, S); None when no two have.

    A level with less than half the values of the fullest would take most cells away from all others; so would, one after the other,
    levels without which the rest shares cells at last. These are set aside.
    """
    there = np.isfinite(cells.values)
    filled = there.sum((1, 2))
    live = (filled > 0) & (2 * filled >= filled.max(initial=0))
    while live.sum() > 1:
        used: Truths = there[live].all(axis=0)
        if used.any():
            # Combinations that have every seed: each seed's mean is then of the same ones.
            whole: Truths = np.asarray(used.all(axis=1))
            return live, used & whole[:, None] if whole.any() else used
        live[np.nonzero(live)[0][filled[live].argmin()]] = False
    return None


def _mean(value: Floats, combination: Whole, seed: Whole, *, matched: bool) -> Mean:
    if not len(value):
        return Mean(None, None, None, 0, 0, matched)
    of_seed, of_combination = _group_means(value, seed), _group_means(value, combination)
    spread = (float(np.quantile(of_combination, 0.25)), float(np.quantile(of_combination, 0.75))) if len(of_combination) > 1 else None
    return Mean(float(of_seed.mean()), t_interval(of_seed), spread, len(of_seed), len(of_combination), matched)


def _group_means(value: Floats, group: Whole) -> Floats:
    count = np.bincount(group)
    total = np.bincount(group, value)
    mean: Floats = total[count > 0] / count[count > 0]
    return mean


def _signed(mean: Mean, sign: float) -> Mean:
    """The mean in the metric's own direction again."""
    if sign > 0 or mean.mean is None:
        return mean

    def turned(ends: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if ends is None else (-ends[1], -ends[0])

    return Mean(-mean.mean, turned(mean.interval), turned(mean.spread), mean.seeds, mean.combinations, mean.matched)
