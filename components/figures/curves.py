"""Learning curves: one panel a quantity, training and validation together, the best epoch marked."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.figures import style

History = Mapping[str, Sequence[tuple[int, float]]]
"""Series name → (step, value), steps rising."""

SPLITS = {"train": (style.BLUE, "o"), "validation": (style.VERMILION, "D"), "test": (style.GREEN, "s")}
SIDE_SHOWS = ("learning_rate", "samples_per_second")
"""Series that are not about what was learned."""
MOST_PANELS = 6
FEW_POINTS = 40
"""Series of up to this many points show each of them; longer ones are also shown as a running mean."""


def curves(history: History, *, monitor: tuple[str, Literal["max", "min"]] | None = None, steps_per_epoch: float | None = None) -> Figure:
    """Loss and metrics over the course of training.

    Series are named SPLIT/QUANTITY, SPLIT being train, validation or test; others, the learning rate and the speed are passed over.
    Validation and test NLL stand beside the training loss where their splits have no loss. Values that are NaN or infinite leave a gap
    and a cross at the foot of the panel.

    Args:
        history: the series, in any order.
        monitor: the validation metric that decides what is best, and its direction; None marks nothing.
        steps_per_epoch: optimizer steps an epoch, > 0; None counts the course of training in steps.

    Raises:
        ValueError: there is no series to draw.
    """
    panels = _panels(history)
    if not panels:
        raise ValueError("the history has no train/…, validation/… or test/… series to draw")
    best = _best(history, monitor)
    unit = steps_per_epoch or 1.0
    last = max(points[-1][0] for series in panels.values() for points in series.values()) / unit
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = style.new_figure(1.0 + 2.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for (quantity, series), axes in zip(panels.items(), grid, strict=False):
        for name, points in series.items():
            _line(axes, name, points, unit)
        if best is not None:
            axes.axvline(best[0] / unit, color=style.GREY, linestyle="--", linewidth=1.2, zorder=1)
        axes.set_xlim(0, last * 1.03)
        _scale(axes, [value for points in series.values() for _, value in points])
        style.dress(axes, x="epoch" if steps_per_epoch else "step", y=_in_words(quantity), grid="both")
        _, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            axes.legend(frameon=False, fontsize=style.NOTE)
        else:
            axes.set_ylabel(labels[0])
    for axes in list(grid):
        axes.set_axis_off()
    style.headline(figure, _title(best, monitor, steps_per_epoch))
    return style.finish(figure)


def _panels(history: History) -> dict[str, dict[str, Sequence[tuple[int, float]]]]:
    """Quantity → series name → points; the loss and the monitored quantities in the order they came, at most six."""
    panels: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name, points in history.items():
        split, _, quantity = name.partition("/")
        if split in SPLITS and quantity and quantity not in SIDE_SHOWS and points:
            if quantity == "nll" and split != "train" and f"{split}/loss" not in history:
                quantity = "loss"
            panels.setdefault(quantity, {})[name] = points
    first = {quantity: panels[quantity] for quantity in sorted(panels, key=lambda quantity: quantity != "loss")}
    return dict(list(first.items())[:MOST_PANELS])


def _best(history: History, monitor: tuple[str, Literal["max", "min"]] | None) -> tuple[int, float] | None:
    """Step and value of the best monitored validation point, the earliest of equals; None where there is none."""
    if monitor is None:
        return None
    points = [(step, value) for step, value in history.get(f"validation/{monitor[0]}", ()) if not math.isnan(value)]
    sign = -1 if monitor[1] == "max" else 1
    return min(points, key=lambda point: (sign * point[1], point[0]), default=None)


def _line(axes: Axes, name: str, points: Sequence[tuple[int, float]], unit: float) -> None:
    split = name.partition("/")[0]
    colour, marker = SPLITS[split]
    place = np.array([step for step, _ in points], dtype=np.float64) / unit
    value = np.array([value for _, value in points], dtype=np.float64)
    lost = ~np.isfinite(value)
    value[lost] = np.nan
    label = _in_words(name.replace("/", " "))
    if len(points) <= FEW_POINTS:
        axes.plot(place, value, color=colour, marker=marker, ms=4.5, linewidth=1.6, label=label)
    else:
        axes.plot(place, value, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(place, _running_mean(value, len(points) // FEW_POINTS), color=colour, linewidth=1.8, label=f"{label} (running mean)")
    if lost.any():
        foot = np.full(int(lost.sum()), 0.03)
        axes.plot(place[lost], foot, "x", color=colour, transform=axes.get_xaxis_transform(), label=f"{label} is not a number")


def _running_mean(value: np.ndarray, reach: int) -> np.ndarray:
    """Mean over `reach` points to either side, of those that are numbers; NaN where the point itself is none."""
    kernel = np.ones(2 * reach + 1)
    known = np.isfinite(value)
    total = np.convolve(np.where(known, value, 0.0), kernel, mode="same")
    return np.where(known, total / np.maximum(np.convolve(known.astype(float), kernel, mode="same"), 1.0), np.nan)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where values span more than a factor of 50."""
    known = [value for value in values if math.isfinite(value)]
    if known and min(known) > 0 and max(known) > 50 * min(known):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _title(best: tuple[int, float] | None, monitor: tuple[str, str] | None, steps_per_epoch: float | None) -> str:
    if best is None or monitor is None:
        return "Learning curves"
    step, value = best
    when = f"epoch {step / steps_per_epoch:g}" if steps_per_epoch else f"step {step:,}"
    return f"Validation {_in_words(monitor[0])} is best at {when}: {value:.4g}"


def _in_words(name: str) -> str:
    (name,) = style.short_names([name.replace("_", " ")], 40)
    return {"nll": "NLL (nats)", "f1": "F1 (macro)"}.get(name, name.replace(" nll", " NLL").replace(" f1", " F1"))
