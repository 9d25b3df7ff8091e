"""The configurations of a sweep from best to worst, the chosen one, and which of the others it cannot be told from.

The mean over seeds of the first objective on validation decides. Only configurations that have a value for each of their seeds compete, as
soon as any has; what breaks a constraint never does. Between equals the following objectives decide, then which was run first. Where the
best were run again with fresh seeds, these decide: values that did not select are not flattered by having been selected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.search.outcomes import Floats, Outcomes, Truths, Whole, gather
from flows.search.paired import ERROR, SEEDS_FOR_T, holm, paired_t_rows, t_interval
from flows.search.results import Phase, Results
from flows.search.statistics import OVER_SEEDS, Factor, level_name

SHOWN = 10
"""So many configurations are kept in the order of their means."""


@dataclass(frozen=True)
class Configuration:
    """One configuration over its seeds.

    Attributes:
        params: space key → value.
        mean: of the first objective over seeds; `interval` its 95 % interval, None for fewer than two seeds.
        means: of every objective; None where a trial has no number.
        seeds: with which it has values.
        complete: whether these are all its seeds.
        phase: whose trials these are.
        selected_by: the mean of the trials of the search that selected it, where `mean` is of fresh seeds; None otherwise.
        first: number of its first trial.
    """

    params: Mapping[str, Any]
    mean: float
    interval: tuple[float, float] | None
    means: tuple[float | None, ...]
    seeds: tuple[int, ...]
    complete: bool
    phase: Phase
    selected_by: float | None
    first: int


@dataclass(frozen=True)
class Rival:
    """A configuration against the chosen one, on the same seeds.

    Attributes:
        lead: how much better the chosen one is on average; `interval` of 95 % for this pair alone.
        adjusted: p after Holm for all pairs, as any configuration might have come out best.
        close: whether it is too close to call.
    """

    params: Mapping[str, Any]
    lead: float
    interval: tuple[float, float] | None
    adjusted: float
    close: bool


@dataclass(frozen=True)
class Ranking:
    """The order of the configurations.

    Attributes:
        best: at most ten, the best first, by the trials that all competitors have.
        competing, incomplete, infeasible: how many configurations competed; lacked a seed; broke a constraint.
        tied: how many share the best mean; `alike`: how many share the best one's mean of every objective.
        chosen: the best one; None without any value.
        rivals: at most ten of the other competitors, the closest first; none where there are fewer than three seeds to judge by.
        judged, close: how many competitors were held against the chosen one, and how many of them are too close to call.
        front: at most ten of the configurations that no other beats in every objective (Pareto), where there are several objectives.
        front_size: how many there are.
    """

    best: tuple[Configuration, ...] = ()
    competing: int = 0
    incomplete: int = 0
    infeasible: int = 0
    tied: int = 0
    alike: int = 0
    chosen: Configuration | None = None
    rivals: tuple[Rival, ...] = ()
    judged: int = 0
    close: int = 0
    front: tuple[Configuration, ...] = ()
    front_size: int = 0


def rank(results: Results, found: Sequence[Factor] = (), outcomes: Outcomes | None = None) -> Ranking:
    """Rank the configurations; `found` are the sweep's factors, whose comparisons count where configurations are nothing but levels."""
    outcomes = outcomes or gather(results)
    with np.errstate(over="ignore", invalid="ignore"):
        return _rank(results, found, outcomes)


def chosen(results: Results) -> Configuration | None:
    """The configuration that the sweep comes to; None without a finished trial."""
    return rank(results).chosen


def _rank(results: Results, found: Sequence[Factor], outcomes: Outcomes) -> Ranking:
    signs = [1.0 if objective.direction == "max" else -1.0 for objective in results.objectives]
    search, confirm = outcomes.phase("search"), outcomes.phase("confirm")
    fresh = _Pool(confirm, len(np.unique(confirm.seed)), signs)
    pool = fresh if len(fresh.order) > 1 else _Pool(search, results.seeds, signs)
    if not len(pool.order):
        pool = fresh
    infeasible = int((np.isfinite(search.means()[0]) & ~outcomes.feasible).sum())
    if not len(pool.order):
        return Ranking(infeasible=infeasible)
    best = fresh.order[0] if len(fresh.order) else pool.order[0]
    rivals = sorted(_rivals(pool, int(best), found), key=lambda rival: (not rival.close, rival.lead))
    front = _front(pool) if len(signs) > 1 else []
    return Ranking(
        best=tuple(_configuration(place, pool, search) for place in pool.order[:SHOWN]),
        competing=len(pool.order),
        incomplete=pool.incomplete,
        infeasible=infeasible,
        tied=int((pool.scores[0, pool.order] == pool.scores[0, pool.order[0]]).sum()),
        alike=int((pool.scores[:, pool.order] == pool.scores[:, pool.order[:1]]).all(0).sum()),
        chosen=_configuration(best, fresh if len(fresh.order) else pool, search),
        rivals=tuple(rivals[:SHOWN]),
        judged=len(rivals),
        close=sum(rival.close for rival in rivals),
        front=tuple(_configuration(place, pool, search) for place in front[:SHOWN]),
        front_size=len(front),
    )


class _Pool:
    """The configurations that compete by trials of one phase.

    Attributes:
        sign: what makes a larger value of the first objective a better one.
        scores: (objectives, K) means over seeds, turned so that less is better; infinite where there is none.
        whole: (K,) whether a configuration has as many values of every objective.
        complete: (K,) whether a configuration has a value for each of its seeds.
        order: places of the competitors, the best first.
        incomplete: how many do not compete because they lack a seed.
    """

    def __init__(self, rows: Outcomes, seeds: int, signs: Sequence[float]) -> None:
        self.rows, self.sign = rows, signs[0]
        means, counts = zip(*map(rows.means, range(len(signs))), strict=True)
        count = counts[0]
        self.scores: Floats = np.stack([np.where(np.isfinite(mean), -sign * mean, np.inf) for mean, sign in zip(means, signs, strict=True)])
        self.whole: Truths = (np.stack(counts) == count).all(0)
        self.complete: Truths = count >= seeds
        allowed = (count > 0) & rows.feasible
        competing = allowed & self.complete if (allowed & self.complete).any() else allowed
        self.order: Whole = np.lexsort((rows.first, *self.scores[::-1], ~competing))[: int(competing.sum())]
        self.incomplete = int((allowed & ~competing).sum())


def _configuration(place: int, pool: _Pool, search: Outcomes) -> Configuration:
    rows = pool.rows
    mine = (rows.configuration == place) & np.isfinite(rows.values[:, 0])
    values = rows.values[mine]
    confirming = bool(rows.confirming.any())
    searched = search.values[(search.configuration == place) & np.isfinite(search.values[:, 0]), 0]
    return Configuration(
        params=dict(rows.configurations[place]),
        mean=float(values[:, 0].mean()),
        interval=t_interval(values[:, 0]),
        means=tuple(float(each) if np.isfinite(each) else None for each in values.mean(0)),
        seeds=tuple(sorted(rows.seeds[seed] for seed in rows.seed[mine])),
        complete=bool(pool.complete[place]),
        phase="confirm" if confirming else "search",
        selected_by=float(searched.mean()) if confirming and len(searched) else None,
        first=int(rows.first[place]),
    )


def _rivals(pool: _Pool, best: int, found: Sequence[Factor]) -> list[Rival]:
    """The chosen configuration against every other that competes; those without three seeds in common with it are left out."""
    if best not in pool.order:
        return []
    others = pool.order[pool.order != best]
    levels = _as_levels(pool, best, others, found)
    if levels is not None:
        return levels
    rows = pool.rows
    table = np.full((len(rows.configurations), len(rows.seeds)), np.nan)
    table[rows.configuration, rows.seed] = pool.sign * rows.values[:, 0]
    difference = table[best] - table[others]
    enough = np.isfinite(difference).sum(1) >= SEEDS_FOR_T
    tested = paired_t_rows(difference[enough])
    # Any pair might have been the chosen one and its rival: the correction is for all of them, though only these are shown.
    adjusted = holm([float(p) for p in tested[:, 3]], family=len(pool.order) * (len(pool.order) - 1) // 2)
    return [
        Rival(
            params=dict(rows.configurations[place]),
            lead=float(lead),
            interval=(float(low), float(high)) if np.isfinite([low, high]).all() else None,
            adjusted=p,
            close=not (p <= ERROR and low > 0),
        )
        for place, (lead, low, high, _), p in zip(others[enough], tested, adjusted, strict=True)
    ]


def _as_levels(pool: _Pool, best: int, others: Whole, found: Sequence[Factor]) -> list[Rival] | None:
    """The same from the comparisons of levels, where each competitor is one level of the only factor: one pair has one verdict."""
    if len(found) != 1:
        return None
    (factor,) = found
    confirming = bool(pool.rows.confirming.any())
    of_place = {int(place): pool.rows.configurations[place] for place in pool.order}
    if any(factor.key not in params or (not confirming and len(params) > 1) for params in of_place.values()):
        return None
    names = {place: level_name(params[factor.key]) for place, params in of_place.items()}
    if len(set(names.values())) < len(names) or (factor.basis == "confirmed") != confirming:
        return None
    rivals = []
    for place in others:
        pair = {names[best], names[int(place)]}
        comparison = next((each for each in factor.comparisons if {each.better, each.worse} == pair), None)
        if comparison is None or comparison.test != OVER_SEEDS or comparison.difference is None or comparison.adjusted is None:
            continue
        ahead = comparison.better == names[best]
        interval = comparison.interval if ahead or comparison.interval is None else (-comparison.interval[1], -comparison.interval[0])
        lead = comparison.difference if ahead else -comparison.difference
        rivals.append(Rival(dict(of_place[int(place)]), lead, interval, comparison.adjusted, not (comparison.beats and ahead)))
    return rivals


def _front(pool: _Pool) -> list[int]:
    """The competitors that no other beats in one objective without being beaten in another, best in the first objective first."""
    places = pool.order[pool.whole[pool.order]]
    points = -pool.scores[:, places].T
    turn = 0
    while turn < len(points):
        kept = (points > points[turn]).any(1) | (points == points[turn]).all(1)
        points, places = points[kept], places[kept]
        turn = int(kept[:turn].sum()) + 1
    return [int(place) for place in places]
