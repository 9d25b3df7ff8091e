"""What several detectors cost in time, and what they are worth: medians, and the middle half of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from components.figures import style
from components.metrics.times import Spent

PHASES = {
    "proposals": style.VERMILION,
    "features": style.BLUE,
    "heads": style.GREEN,
    "decoding": style.ORANGE,
    "suppression": style.PURPLE,
}
"""What a detector's time goes to, in order, and each one's colour."""

MARKER, GAP = 7.0, 4.0
"""Points that a detector's mark is wide, and between it and its name."""
NAMED = 3
"""More detectors than that are counted in the title."""
LINE = {"arrowstyle": "-", "color": style.GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8)
"""Where a name may stand beside its mark, in lines of text above it: the nearest first."""


def times_figure(pictures: Mapping[str, Sequence[Mapping[str, float]]], precision: Mapping[str, float]) -> Figure:
    """Several detectors: average precision over milliseconds a picture, and where the time goes; bars are the middle half.

    Args:
        pictures: detector → for each picture phase → seconds. Measured in turns, or whatever else the machine did decides.
        precision: detector → mean average precision at IoU 0.50.
    """
    times = {name: Spent.of(of) for name, of in pictures.items()}
    names = sorted(times, key=lambda name: times[name].median)
    phases = [phase for phase in PHASES if any(phase in each.phases for each in times.values())]
    figure = style.new_figure(2.9 + 0.45 * len(names) + 1.2)
    above, below = figure.subplots(2, 1, height_ratios=(2.6, 0.45 * len(names) + 0.6))
    beside = []
    for place, (name, short) in enumerate(zip(names, style.short_names(names, 26), strict=True)):
        spent = times[name]
        half = [[spent.median - spent.low], [spent.high - spent.median]]
        above.errorbar(spent.median, precision[name], xerr=half, fmt="o", color=style.BLUE, markersize=MARKER, capsize=3)
        at = (spent.median, precision[name])
        beside.append(above.annotate(short, at, xytext=(8, 0), textcoords="offset points", fontsize=style.NOTE, va="bottom"))
        left = 0.0
        for phase in phases:
            below.barh(place, spent.phases.get(phase, 0.0), left=left, color=PHASES[phase], height=0.65)
            left += spent.phases.get(phase, 0.0)
        below.errorbar(spent.median, place, xerr=half, fmt="none", color=style.INK, capsize=3, linewidth=1.2)
    above.set_xscale("log")
    above.set_xlim(above.get_xlim()[0] * 0.55, above.get_xlim()[1] * 2.2)
    above.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    above.xaxis.set_major_formatter("{x:g}")
    above.xaxis.set_minor_formatter(NullFormatter())
    above.set_ylim(0, 1.02)
    style.dress(above, x="milliseconds a picture (logarithmic)", y="mAP at IoU 0.5", grid="both")
    style.dress(below, x="milliseconds a picture (medians; black: the middle half)", grid="x")
    below.set_yticks(range(len(names)), style.short_names(names, 24))
    below.invert_yaxis()
    figure.legend(
        handles=[Patch(color=PHASES[phase], label=phase) for phase in phases], loc="outside lower center", ncols=len(phases), frameon=False
    )
    style.headline(figure, verdict(times, precision))
    style.finish(figure)
    _place(above, beside, [(times[name].low, times[name].high, precision[name]) for name in names])
    return figure


def verdict(times: Mapping[str, Spent], precision: Mapping[str, float]) -> str:
    """Which detector is the fastest, as far as the middle halves tell them apart, and which the most accurate."""
    first, *others = sorted(times, key=lambda name: times[name].median)
    close = [name for name in others if times[name].low <= times[first].high]
    best = [name for name in times if precision[name] == max(precision.values())]
    most = f"{_listed(best)} {'are' if len(best) > 1 else 'is'} the most accurate"
    if close:
        return f"{_listed([first, *close])} are too close to call as the fastest; {most}"
    if best == [first]:
        return f"{first} is the fastest and the most accurate"
    return f"{first} is the fastest; {most}"


def _listed(names: Sequence[str]) -> str:
    """One name, `a and b`, `a, b and c`, or `a and 3 others`."""
    if len(names) > NAMED:
        return f"{names[0]} and {len(names) - 1} others"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _place(axes: Axes, names: Sequence[Annotation], marks: Sequence[tuple[float, float, float]]) -> None:
    """Put each name beside its mark, off the others, their lines and the marks (low, high, precision), as near as there is room.

    A line leads to a name that is not right beside its mark. The layout must be settled.
    """
    dots = axes.figure.dpi / 72
    radius = MARKER / 2 * dots + 1
    taken: list[Bbox] = []
    written: list[Bbox] = []
    for low, high, precision in marks:
        (left, y), (right, _) = axes.transData.transform([(low, precision), (high, precision)])
        taken.append(Bbox.from_extents(left - radius, y - radius, right + radius, y + radius))
    room = axes.get_window_extent()
    within = room.padded(0.5)
    for name, own in sorted(zip(names, list(taken), strict=True), key=lambda pair: (-pair[0].xy[1], -pair[0].xy[0])):
        extent = name.get_window_extent()
        mark = axes.transData.transform(name.xy)
        wide, high = extent.width, extent.height
        apart = radius + GAP * dots
        level = [(own.x1 + GAP * dots, 0.0), (own.x0 - GAP * dots - wide, 1.0)]  # left edge of the name, and where on it its line begins
        other = [(min(mark[0] + apart, room.x1 - wide), 0.0), (max(mark[0] - apart - wide, room.x0), 1.0)]
        steps = [(step, *side) for step in STEPS for side in (other if step else level)]
        places = [(Bbox.from_bounds(left, mark[1] + (step - 0.5) * high, wide, high), edge, step) for step, left, edge in steps]
        inside = [each for each in places if all(within.contains(*corner) for corner in (each[0].min, each[0].max))]
        free = [each for each in inside if not any(each[0].overlaps(one) for one in taken)]
        clear = [each for each in free if each[2] == 0 or not any(_meet(_line(*each[:2], mark), one) for one in written)]
        place, edge, step = (clear or free or inside or places)[0]
        written.append(place)
        taken += [place, *(_line(place, edge, mark) if step else ())]
        name.set_position(((place.x0 - mark[0]) / dots, (place.y0 - mark[1]) / dots))
        if step:
            end = ((place.x0 + edge * wide - mark[0]) / dots, (place.y0 + high / 2 - mark[1]) / dots)
            axes.annotate("", name.xy, xytext=end, textcoords="offset points", arrowprops=LINE, zorder=1)


def _line(name: Bbox, edge: float, mark: NDArray[np.float64]) -> list[Bbox]:
    """The line from an edge of a name (0 left, 1 right) to its mark, as small boxes."""
    points = np.linspace(mark, (name.x0 + edge * name.width, (name.y0 + name.y1) / 2), 40)
    return [Bbox.from_bounds(left - 1, low - 1, 2, 2) for left, low in points]


def _meet(line: Sequence[Bbox], name: Bbox) -> bool:
    return any(point.overlaps(name) for point in line)
