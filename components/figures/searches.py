"""A search as it went: each trial in its turn, its way through the space, and how the trials of each level learned."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.figures import style
from components.figures.sweeps import GOOD

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

LINES = (
    (style.BLUE, "-"),
    (style.VERMILION, "-"),
    (style.GREEN, "-"),
    (style.ORANGE, "-"),
    (style.PURPLE, "-"),
    ("#56B4E9", "--"),
    (style.INK, "--"),
    (style.GREY, ":"),
)
"""Colour and line of each of eight levels; of more, the best eight are shown."""
MOST_LINES, BEST_LINES = 500, 100
"""Of more than 500 trials, parallel coordinates show the best hundred and an even choice of the others."""
MOST_POINTS = 2000
ABSENT = -0.13
"""Where lines run below an axis that their trial does not have."""


@dataclass(frozen=True)
class Band:
    """The learning curve of one level: (E,) epochs, mean, and the ends of its band (NaN where there is none)."""

    name: str
    epochs: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates.

    Attributes:
        label: the key.
        values: (N,) numbers, or places in `names`; NaN for a trial that does not have the key.
        names: of a choice; None for numbers.
        log: whether numbers stand on a logarithmic scale.
    """

    label: str
    values: Floats
    names: Sequence[str] | None = None
    log: bool = False


def learning_bands(levels: Sequence[Band], *, factor: str, quantity: str, largest: bool, note: str) -> Figure:
    """The mean learning curve of each level with its band, the best at the end first.

    Args:
        levels: with at least one epoch each.
        factor: whose levels these are.
        quantity: what is learned, with its unit.
        largest: whether large values are good.
        note: what the curves are means of, and what the bands are.

    Raises:
        ValueError: there is no curve.
    """
    if not levels:
        raise ValueError("no trial has a learning curve to draw")
    ranked = sorted(levels, key=lambda band: -band.mean[-1] if largest else band.mean[-1])
    figure = style.new_figure(4.6)
    axes = figure.add_subplot()
    drawn = []
    for band, (colour, line) in zip(ranked, LINES, strict=False):
        axes.fill_between(band.epochs, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
        drawn += axes.plot(band.epochs, band.mean, color=colour, linestyle=line, marker="o", ms=3.5, linewidth=1.7)
    _log_where_wide(axes, np.concatenate([band.mean for band in ranked]))
    style.dress(axes, x="epoch", y=quantity, grid="both")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len({float(epoch) for band in ranked for epoch in band.epochs}) == 1:
        axes.set_xlim(ranked[0].epochs[0] - 0.6, ranked[0].epochs[0] + 0.6)
    more = f"the best {len(LINES)} of {len(ranked)} levels; " if len(ranked) > len(LINES) else ""
    names = style.short_names([band.name for band in ranked[: len(LINES)]], 24)
    legend = figure.legend(drawn, names, loc="outside right center", frameon=False, fontsize=style.TICK, title=textwrap.fill(factor, 24))
    legend.get_title().set_fontsize(style.TICK)
    (named,) = style.short_names([factor], 60)
    style.headline(figure, f"Learning curves by {named}", textwrap.fill(more + note, 88))
    return style.finish(figure)


def optimization_history(
    numbers: Floats,
    values: Floats,
    states: Sequence[Literal["complete", "pruned", "failed"]],
    *,
    quantity: str,
    largest: bool,
    barred: Truths | None = None,
) -> Figure:
    """The value of each trial in its turn, and the best so far.

    Args:
        numbers: (N,) of the trials, ascending.
        values: (N,) final value, for a pruned trial its last; NaN where there is none.
        states: N of them; what failed, or ended without a number, is a cross at the foot.
        quantity: the value, with its unit.
        largest: whether large values are good.
        barred: (N,) which trials break a constraint; none of these is the best.

    Raises:
        ValueError: there is no trial.
    """
    if not len(numbers):
        raise ValueError("no trial has ended: there is no history to draw")
    state = np.array(states)
    known = np.isfinite(values)
    complete, pruned = (state == "complete") & known, (state == "pruned") & known
    forbidden = complete & (np.zeros(len(numbers), dtype=bool) if barred is None else barred)
    allowed = complete & ~forbidden
    figure = style.new_figure(4.6)
    axes = figure.add_subplot()
    size = 5.0 if len(numbers) <= 400 else 2.5
    if allowed.any():
        best = (np.fmax if largest else np.fmin).accumulate(np.where(allowed, values, np.nan))
        axes.plot(numbers[allowed], values[allowed], "o", ms=size, color=style.BLUE, alpha=0.55, mew=0, label="finished")
        axes.step(numbers, best, where="post", color=style.VERMILION, linewidth=1.8, label="best so far")
    if forbidden.any():
        axes.plot(numbers[forbidden], values[forbidden], "o", ms=size, mfc="none", color=style.BLUE, label="breaks a constraint")
    if pruned.any():
        axes.plot(numbers[pruned], values[pruned], "v", ms=size, mfc="none", color=style.GREY, label="pruned, last value")
    lost = ~complete & ~pruned
    if lost.any():
        axes.plot(
            numbers[lost],
            np.full(lost.sum(), 0.02),
            "x",
            ms=size + 1,
            color=style.INK,
            transform=axes.get_xaxis_transform(),
            label="no value",
        )
    _log_where_wide(axes, values[known])
    style.dress(axes, x="trial", y=quantity, grid="y")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    style.legend_below(figure)
    trials = "1 trial" if len(numbers) == 1 else f"{len(numbers):,} trials"
    counts = f"{trials}: {complete.sum():,} finished, {pruned.sum():,} pruned, {lost.sum():,} without a value"
    which = "that keeps the constraints " if forbidden.any() else ""
    style.headline(figure, _when_best(numbers, np.where(allowed, values, np.nan), largest, which), counts)
    return style.finish(figure)


def parallel_coordinates(axes_of: Sequence[Axis], value: Floats, *, quantity: str, largest: bool, barred: Truths | None = None) -> Figure:
    """Each trial as a line through what was chosen for it, on to its value; darker is better, the best one is marked.

    Args:
        axes_of: K ≥ 1 keys.
        value: (N,) of finished trials; quantity: what it is, with its unit.
        largest: whether large values are good.
        barred: (N,) which trials break a constraint; none of these is the best.

    Raises:
        ValueError: no trial has a value.
    """
    there = np.isfinite(value)
    if not there.any():
        raise ValueError("no trial has a value to draw")
    order = np.argsort(-value[there] if largest else value[there], kind="stable")
    shown = np.nonzero(there)[0][order]
    count = len(shown)
    forbidden = np.zeros(len(value), dtype=bool) if barred is None else barred
    allowed = np.flatnonzero(~forbidden[shown])
    if count > MOST_LINES:
        others = np.linspace(BEST_LINES, count - 1, MOST_LINES - BEST_LINES).astype(int)
        shown = shown[np.unique(np.concatenate([np.arange(BEST_LINES), others, allowed[:1]]))]
    best = np.flatnonzero(~forbidden[shown])[:1]
    rank = np.linspace(0, 1, len(shown)) if len(shown) > 1 else np.zeros(1)  # 0 is the best
    figure = style.new_figure(5.2)
    axes = figure.add_subplot()
    columns = [*axes_of, Axis(quantity, value)]
    places = np.stack([_along(axis, shown, rank) for axis in columns], axis=1)
    lines = np.stack([np.broadcast_to(np.arange(len(columns)), places.shape), places], axis=2)
    # The worst first, so that good lines are seen.
    axes.add_collection(LineCollection(list(lines[::-1]), colors=GOOD(0.1 + 0.9 * (1 - rank[::-1])), linewidths=0.9, alpha=0.8))
    for line in places[best]:
        axes.plot(np.arange(len(columns)), line, color=style.VERMILION, linewidth=2.4, zorder=4)
    for place, axis in enumerate(columns):
        axes.axvline(place, color=style.GREY, linewidth=0.9, zorder=3)
        for where, text in _marks(axis, longest=min(max(110 // len(columns), 6), 14)):
            axes.text(
                place + 0.005 * len(columns),
                where,
                text,
                va="center",
                fontsize=style.NOTE - 1,
                color=style.INK,
                zorder=5,
                bbox={"facecolor": style.PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
            )
    style.dress(axes)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    labels = style.short_names([axis.label for axis in columns], 40)
    axes.set_xticks(
        range(len(columns)),
        [_folded(label, int(96 / len(columns))) for label in labels],
        fontsize=min(max(80 / len(columns), 6), style.NOTE),
    )
    axes.tick_params(length=0)
    axes.set_xlim(-0.1, len(columns) - 1 + 0.08 * len(columns))
    axes.set_ylim((ABSENT if any(np.isnan(axis.values).any() for axis in axes_of) else 0.0) - 0.06, 1.06)
    part = f";\ndrawn are the best {BEST_LINES} and an even choice of the others, {len(shown)} in all" if count > len(shown) else ""
    which = "" if len(allowed) == count else " that keeps the constraints" if len(allowed) == 1 else " that keep the constraints"
    of = f"the best of {len(allowed):,} trials" if len(allowed) > 1 else "the only trial"
    title = (
        f"The way of {of}{which} through the space"
        if len(allowed)
        else "The way of each trial through the space; none keeps the constraints"
    )
    style.headline(figure, title, f"darker is better{', the best in orange' if len(allowed) else ''}{part}")
    return style.finish(figure)


def _along(axis: Axis, shown: npt.NDArray[np.int_], rank: Floats) -> Floats:
    """Where lines cross the axis, 0 … 1. Lines through one choice fan out, the best on top."""
    values = axis.values[shown]
    if axis.names is not None:
        step = 1 / max(len(axis.names) - 1, 1)
        place = 1 - values * step if len(axis.names) > 1 else np.full(len(values), 0.5)
        place = place + 0.25 * min(step, 0.2) * (1 - 2 * rank)
    else:
        low, high = _ends(axis)
        numbers = np.log(values) if axis.log else values
        place = (numbers - low) / (high - low) if high > low else np.full(len(values), 0.5)
    return np.where(np.isfinite(values), place, ABSENT)


def _ends(axis: Axis) -> tuple[float, float]:
    known = axis.values[np.isfinite(axis.values)]
    numbers = np.log(known) if axis.log else known
    return (float(numbers.min()), float(numbers.max())) if len(known) else (0.0, 0.0)


def _marks(axis: Axis, longest: int) -> list[tuple[float, str]]:
    """What is written beside the axis: each choice, or the ends and the middle of numbers; "none" for trials without the key."""
    absent = [(ABSENT, "none")] if np.isnan(axis.values).any() else []
    if axis.names is not None:
        names = style.short_names(list(axis.names), longest)
        shown = style.thin(len(names), 16)
        return [*absent, *((1 - i / max(len(names) - 1, 1) if len(names) > 1 else 0.5, names[i]) for i in shown)]
    low, high = _ends(axis)
    places = (0.0, 0.5, 1.0) if high > low else (0.5,)
    numbers = [low + place * (high - low) for place in places]
    return [*absent, *((place, f"{np.exp(number) if axis.log else number:.3g}") for place, number in zip(places, numbers, strict=True))]


def _folded(label: str, width: int) -> str:
    """A key over several lines, broken at its dots and lines where it is too long."""
    lines = [""]
    for part in label.replace(".", ".\0").replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _log_where_wide(axes: Axes, values: Floats) -> None:
    """A logarithmic axis where values span more than a factor of 50."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 50 * known.min():
        axes.set_yscale("log")


def _when_best(numbers: Floats, values: Floats, largest: bool, which: str) -> str:
    if not np.isfinite(values).any():
        return f"No trial {which}finished with a value"
    place = np.nanargmax(values) if largest else np.nanargmin(values)
    return f"The best single trial {which}is number {int(numbers[place])}: {values[place]:.4g}"
