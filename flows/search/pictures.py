"""The figures of a report: which numbers of a sweep go into which picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.search.findings import Report
from flows.search.outcomes import Floats, gather, has_value, token
from flows.search.paired import t_interval
from flows.search.quantity import Quantity, is_point
from flows.search.results import Results, Trial
from flows.search.statistics import Factor, level_name
from flows.search.wording import seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.figures.searches import Axis, Band

LARGEST = 1e100
"""What is larger than this (a loss, shortly before it is infinite) is drawn as no value: figures cannot hold it."""
LECTURE = ("initializer", "activation", "optimizer")
"""Rows, columns and panels of the heat map, where the sweep has these factors."""


def figures(results: Results, report: Report) -> dict[str, Figure]:
    """Every figure that the sweep has something for, by name: `sweep/levels`, `sweep/heatmap`, `sweep/curves_FACTOR`, …"""
    quantity = Quantity(results.objectives[0].metric, results.objectives[0].direction)
    drawn: dict[str, Figure | None] = {
        "sweep/levels": _levels(report, quantity),
        "sweep/heatmap": _heat_map(results, report, quantity),
        "sweep/importance": _importance(report),
    }
    if any(trial.curve for trial in results.trials):
        drawn |= {f"sweep/curves_{factor.key}": _curves(results, factor, quantity) for factor in report.factors}
    if report.cost.complete or report.cost.pruned:
        drawn |= {"sweep/history": _history(results, quantity), "sweep/parallel": _parallel(results, quantity)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _levels(report: Report, quantity: Quantity) -> Figure | None:
    from components.figures.sweeps import LevelMeans, level_means

    drawn = {
        factor.key: LevelMeans(
            [level.name for level in factor.levels],
            _drawable(quantity, [math.nan if level.mean is None else level.mean for level in factor.levels]),
            _drawable(quantity, _intervals([level.interval for level in factor.levels], quantity)),
            _drawable(quantity, _ends([level.spread for level in factor.levels])),
        )
        for factor in report.factors
    }
    if not any(np.isfinite(levels.mean).any() for levels in drawn.values()):
        return None
    fresh = [factor.key for factor in report.factors if factor.basis == "confirmed"]
    note = f"{seeds(report.fresh_seeds).replace(' ', ' fresh ')} for {', '.join(fresh)}" if fresh else seeds(report.seeds)
    barred = [factor.levels[0].name for factor in report.factors if factor.levels and not factor.levels[0].allowed]
    if barred:
        note += f"; breaking a constraint: {', '.join(barred)}"
    return level_means(drawn, quantity=quantity.axis, note=note)


def _heat_map(results: Results, report: Report, quantity: Quantity) -> Figure | None:
    """Two factors, or three: the lecture's where the sweep has them, else those with most levels."""
    from components.figures.sweeps import Side, heat_maps

    factors = {factor.key: factor for factor in report.factors if len(factor.levels) > 1}
    if len(factors) < 2 or report.ranking.chosen is None:
        return None
    by_size = sorted(factors, key=lambda key: -len(factors[key].levels))
    chosen = [key for key in LECTURE if key in factors]
    chosen = (chosen + [key for key in by_size if key not in chosen])[:3]
    sides = [
        Side(key, [level_name(level) for level in levels]) for key, levels in ((key, _in_order(results, factors[key])) for key in chosen)
    ]
    outcomes = gather(results).phase("search")
    place = [outcomes.levels(key, _in_order(results, factors[key])) for key in chosen]
    mean, count = outcomes.means()
    there = (count > 0) & np.all([codes >= 0 for codes in place], axis=0)
    shape = tuple(len(side.levels) for side in sides)
    flat = np.ravel_multi_index(tuple(codes[there] for codes in place), shape)
    number = np.bincount(flat, minlength=math.prod(shape))
    total = np.bincount(flat, mean[there], minlength=math.prod(shape))
    cells = np.where(number > 0, total / np.maximum(number, 1), np.nan).reshape(shape)
    allowed = np.bincount(flat, outcomes.feasible[there], minlength=math.prod(shape)).reshape(shape)
    values, barred = (np.moveaxis(each, 2, 0) if len(sides) == 3 else each[None] for each in (cells, (allowed == 0) & ~np.isnan(cells)))
    rest = "" if number.max(initial=0) < 2 else "; mean over whatever else was varied"
    return heat_maps(
        _drawable(quantity, values),
        rows=sides[0],
        columns=sides[1],
        panels=sides[2] if len(sides) == 3 else None,
        quantity=quantity.axis,
        largest=quantity.sign > 0,
        barred=barred,
        note=f"{'one seed' if report.seeds == 1 else f'mean over {report.seeds} seeds'}{rest}",
    )


def _in_order(results: Results, factor: Factor) -> list[Any]:
    """The factor's levels as the space has them, then any others."""
    place = {token(level): i for i, level in enumerate(results.factors[factor.key])}
    return sorted((level.value for level in factor.levels), key=lambda value: place.get(token(value), len(place)))


def _importance(report: Report) -> Figure | None:
    from components.figures.sweeps import importance_chart

    found = report.importance
    if found is None:
        return None
    what = "share of the variance of all trials (ANOVA)" if found.method == "ANOVA" else "for being among the best tenth (PED-ANOVA)"
    return importance_chart(
        [share.key for share in found.shares],
        np.array([share.share for share in found.shares]),
        _ends([share.interval for share in found.shares]),
        rest=found.rest,
        note=f"{what};\nintervals of 95 % from {found.samples} bootstrap samples of the {found.resampled}",
    )


def _curves(results: Results, factor: Factor, quantity: Quantity) -> Figure | None:
    from components.figures.searches import learning_bands

    trials = [
        trial for trial in results.trials if has_value(trial) and trial.phase == "search" and factor.key in trial.params and trial.curve
    ]
    by_level: dict[str, list[Trial]] = {}
    for trial in trials:
        by_level.setdefault(token(trial.params[factor.key]), []).append(trial)
    bands = [_band(level.name, by_level[token(level.value)], quantity) for level in factor.levels if token(level.value) in by_level]
    bands = [band for band in bands if len(band.epochs)]
    if not bands:
        return None
    several = len({trial.seed for trial in trials}) > 1
    band = "bands of 95 % for the mean over seeds" if several else "no bands: one seed says nothing about chance"
    return learning_bands(
        bands, factor=factor.key, quantity=quantity.axis, largest=quantity.sign > 0, note=f"finished trials of the search; {band}"
    )


def _band(name: str, trials: Sequence[Trial], quantity: Quantity) -> Band:
    """One level's mean curve over seeds, at the epochs that all its trials have."""
    from components.figures.searches import Band

    curves = [{epoch: value for epoch, value in trial.curve if abs(value) < LARGEST} for trial in trials]
    epochs = sorted(set.intersection(*map(set, curves)))
    values = np.array([[curve[epoch] for epoch in epochs] for curve in curves]).reshape(len(trials), len(epochs))
    seed = np.array([trial.seed for trial in trials])
    of_seed = np.stack([values[seed == each].mean(0) for each in np.unique(seed)])
    ends = quantity.scale * _intervals([t_interval(column) for column in of_seed.T], quantity)
    return Band(name, np.array(epochs), quantity.scale * of_seed.mean(0), ends[:, 0], ends[:, 1])


def _history(results: Results, quantity: Quantity) -> Figure:
    from components.figures.searches import optimization_history

    trials = sorted(results.trials, key=lambda trial: trial.number)
    values = [
        trial.values[0]
        if has_value(trial) and trial.values
        else trial.curve[-1][1]
        if trial.state == "pruned" and trial.curve
        else math.nan
        for trial in trials
    ]
    return optimization_history(
        np.array([trial.number for trial in trials], dtype=float),
        _drawable(quantity, values),
        [trial.state for trial in trials],
        quantity=quantity.axis,
        largest=quantity.sign > 0,
        barred=np.array([not trial.feasible for trial in trials], dtype=bool),
    )


def _parallel(results: Results, quantity: Quantity) -> Figure | None:
    from components.figures.searches import parallel_coordinates

    trials = [trial for trial in results.trials if has_value(trial)]
    varied = [key for key, group in groupby(sorted(_choices(trials))) if len(list(group)) > 1]
    keys = [key for key in (*results.factors, *results.ranges) if key in varied]
    values = _drawable(quantity, [trial.values[0] for trial in trials if trial.values])
    if not keys or not np.isfinite(values).any():
        return None
    return parallel_coordinates(
        [_axis(results, key, trials) for key in keys],
        values,
        quantity=quantity.axis,
        largest=quantity.sign > 0,
        barred=np.array([not trial.feasible for trial in trials], dtype=bool),
    )


def _choices(trials: Sequence[Trial]) -> list[str]:
    """The key of every different choice of a key."""
    return [key for key, _ in {(key, token(value)) for trial in trials for key, value in trial.params.items()}]


def _axis(results: Results, key: str, trials: Sequence[Trial]) -> Axis:
    from components.figures.searches import Axis

    if key in results.ranges:
        numbers = np.array([trial.params.get(key, math.nan) for trial in trials], dtype=float)
        return Axis(key, numbers, log=results.ranges[key].log and bool((numbers[np.isfinite(numbers)] > 0).all()))
    place = {token(level): i for i, level in enumerate(results.factors[key])}
    names = [level_name(level) for level in results.factors[key]]
    for trial in trials:
        if key in trial.params and token(trial.params[key]) not in place:
            place[token(trial.params[key])] = len(place)
            names.append(level_name(trial.params[key]))
    values = [place[token(trial.params[key])] if key in trial.params else math.nan for trial in trials]
    return Axis(key, np.array(values, dtype=float), names)


def _drawable(quantity: Quantity, values: Sequence[float] | Floats) -> Floats:
    """As it is read, NaN where it is too large."""
    array = np.array(values, dtype=float)
    return quantity.scale * np.where(np.abs(array) < LARGEST, array, np.nan)


def _intervals(intervals: Sequence[tuple[float, float] | None], quantity: Quantity) -> Floats:
    """(n, 2) of means, within what the quantity can be; NaN where there is none, or a point that would look like certainty."""
    return _ends([None if each is None or is_point(each) else quantity.possible(each) for each in intervals])


def _ends(intervals: Sequence[tuple[float, float] | None]) -> Floats:
    """(n, 2); NaN for None."""
    return np.array([(math.nan, math.nan) if each is None else each for each in intervals], dtype=float).reshape(-1, 2)
