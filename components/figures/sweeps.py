"""What the levels of a sweep's factors come to: alone, two or three at a time, and how much each factor matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from components.figures import style

Floats = npt.NDArray[np.float64]

GOOD = LinearSegmentedColormap.from_list("good", ["#eef5fa", style.BLUE])
BAD_END = 0.1
"""Of many cells the worst tenth is as light as can be, so that those worth a look differ in colour."""
MOST_ROWS, MOST_COLUMNS = 24, 16
ROWS_IN_ALL = 64
"""Panels, two beside each other, go on below each other until there are so many rows; the first levels are shown."""
MOST_LEVELS = 12
"""Of more levels of one factor the best twelve are shown."""
SMALLEST_NUMBER, LARGEST_NUMBER = 5.5, 10.0
"""Font sizes in points; numbers that would have to be smaller are left out."""


@dataclass(frozen=True)
class Side:
    """One direction of a heat map: a factor and its levels."""

    factor: str
    levels: Sequence[str]


@dataclass(frozen=True)
class LevelMeans:
    """The levels of one factor, best first.

    Attributes:
        names: L of them.
        mean: (L,); NaN for a level without a value.
        interval: (L, 2) of 95 % over seeds; NaN where there is none.
        spread: (L, 2) the middle half of the combinations of everything else; NaN where there is none.
    """

    names: Sequence[str]
    mean: Floats
    interval: Floats
    spread: Floats


def heat_maps(
    values: Floats,
    *,
    rows: Side,
    columns: Side,
    panels: Side | None,
    quantity: str,
    largest: bool,
    note: str,
    barred: npt.NDArray[np.bool_] | None = None,
) -> Figure:
    """The mean for each pair of levels of two factors, one panel for each level of a third; darker is better, the best is framed.

    Args:
        values: (panels, rows, columns); NaN where there is no value, which stays white with a dash.
        rows, columns, panels: the factors; of very many levels the first are shown. No panels: values are (1, rows, columns).
        quantity: what is averaged, with its unit.
        largest: whether the largest value is the best.
        note: what a cell is the mean of.
        barred: as values, which cells break a constraint; none of these is the best.
    """
    shown = values[:, :MOST_ROWS, :MOST_COLUMNS]
    _, height, width = shown.shape
    across = 1 if len(shown) == 1 else 2
    down = min(-(-len(shown) // across), max(ROWS_IN_ALL // height, 1))
    shown = shown[: down * across]
    count = len(shown)
    row_names, column_names = style.short_names(list(rows.levels)[:height]), style.short_names(list(columns.levels)[:width], 14)
    upright = max(map(len, column_names)) * width * across > 62
    cell = 0.26 if height <= 10 else 0.2
    figure = style.new_figure(1.8 + down * (height * cell + 0.35) + (0.075 * max(map(len, column_names)) if upright else 0.2))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    scale = _scale(shown, largest)
    texts = _numbers(shown)
    room = (style.WIDTH - 0.09 * max(map(len, row_names)) - 0.6) / across / width * 72
    size = min(room / max(map(len, texts.flat)) / 0.68, cell * 72 * 0.62, LARGEST_NUMBER)
    forbidden = np.zeros(shown.shape, dtype=bool) if barred is None else barred[: len(shown), :MOST_ROWS, :MOST_COLUMNS]
    best = _best(np.where(forbidden, np.nan, shown), largest)
    image = None
    for place, axes in enumerate(grid.flat):
        if place >= count:
            axes.set_axis_off()
            continue
        image = axes.imshow(
            np.ma.masked_invalid(shown[place]),
            cmap=GOOD if largest else GOOD.reversed(),
            norm=scale,
            aspect="auto",
            interpolation="nearest",
        )
        if size >= SMALLEST_NUMBER:
            _write(axes, shown[place], texts[place], size=size, scale=scale, largest=largest)
        if best is not None and best[0] == place:
            axes.add_patch(Rectangle((best[2] - 0.5, best[1] - 0.5), 1, 1, fill=False, edgecolor=style.VERMILION, linewidth=2.5, zorder=3))
        bottom = place + across >= count
        style.dress(axes, x=columns.factor if bottom else "", y=rows.factor if place % across == 0 else "")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelbottom=bottom, labelsize=style.NOTE)
        axes.set_xticks(range(width), column_names, rotation=90 if upright else 0)
        axes.set_yticks(range(height), row_names, fontsize=style.NOTE)
        if panels is not None:
            (panel,) = style.short_names([f"{panels.factor}: {panels.levels[place]}"], 40)
            axes.set_title(panel, fontsize=style.LABEL, color=style.INK, loc="left")
    assert image is not None
    bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.6, aspect=50, pad=0.02, extend=_extended(shown, scale))
    bar.set_label(f"{quantity}; {note}", fontsize=style.NOTE, color=style.INK)
    bar.ax.tick_params(labelsize=style.NOTE)
    cell_in_words = "cell that keeps the constraints" if forbidden.any() else "cell"
    style.headline(figure, _what_is_best(best, texts, row_names, column_names, panels, cell=cell_in_words))
    return style.finish(figure)


def level_means(factors: Mapping[str, LevelMeans], *, quantity: str, note: str) -> Figure:
    """The mean of each level with its interval over seeds, best on top, a panel for each factor.

    Args:
        factors: name of the factor → its levels.
        quantity: what is averaged, with its unit.
        note: what the means are of.

    Raises:
        ValueError: no level has a value.
    """
    shown = {name: levels for name, levels in factors.items() if np.isfinite(levels.mean).any()}
    if not shown:
        raise ValueError("no level has a value to draw")
    counts = [min(len(levels.names), MOST_LEVELS) for levels in shown.values()]
    figure = style.new_figure(1.7 + 0.27 * sum(counts) + 0.35 * len(counts))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=[count + 1.2 for count in counts])[:, 0]
    for (name, levels), axes, count in zip(shown.items(), panels, counts, strict=True):
        rows = np.arange(count)
        mean, interval, spread = (part[:count] for part in (levels.mean, levels.interval, levels.spread))
        axes.hlines(rows, *spread.T, color=style.FAINT, linewidth=7, label="middle half of the combinations (no interval)")
        axes.hlines(rows, *interval.T, color=style.BLUE, linewidth=2, label="95 % interval over seeds")
        for end in interval.T:
            axes.plot(end, rows, linestyle="none", marker="|", ms=8, mew=2, color=style.BLUE)
        axes.plot(mean, rows, linestyle="none", marker="o", ms=6, color=style.INK, label="mean")
        style.dress(axes, grid="x")
        names = style.short_names(levels.names, 24)
        axes.set_yticks(rows, [label if np.isfinite(value) else f"{label} (no value)" for label, value in zip(names, mean, strict=False)])
        axes.set_ylim(count - 0.4, -0.6)
        more = f" (best {count} of {len(levels.names)} levels)" if len(levels.names) > count else ""
        axes.set_title(name + more, fontsize=style.LABEL, color=style.INK, loc="left")
    panels[-1].set_xlabel(quantity, fontsize=style.LABEL, color=style.INK)
    known = np.concatenate([levels.mean[np.isfinite(levels.mean)] for levels in shown.values()])
    if known.min() > 0 and known.max() > 50 * known.min():
        panels[-1].set_xscale("log")
    else:
        panels[-1].xaxis.set_major_locator(MaxNLocator(8))
    _legend_of_drawn(figure, shown)
    style.headline(figure, _what_leads(shown, note))
    return style.finish(figure)


def importance_chart(names: Sequence[str], shares: Floats, intervals: Floats, *, rest: float | None, note: str) -> Figure:
    """How much each key matters, in percent, the most important on top.

    Args:
        names: K keys.
        shares: (K,) 0 … 1, descending; intervals: (K, 2), NaN where there is none.
        rest: share of interactions and chance, where there is one.
        note: how it was computed.
    """
    bars = [*style.short_names(list(names), 28), *([] if rest is None else ["interactions and chance"])]
    lengths = 100 * np.array([*shares, *([] if rest is None else [rest])])
    rows = np.arange(len(bars))
    figure = style.new_figure(1.5 + 0.34 * len(bars))
    axes = figure.add_subplot()
    colours = [style.BLUE] * len(names) + [style.FAINT] * (rest is not None)
    axes.barh(rows, lengths, height=0.62, color=colours)
    axes.hlines(rows[: len(names)], *(100 * intervals.T), color=style.INK, linewidth=1.6)
    for end in 100 * intervals.T:
        axes.plot(end, rows[: len(names)], linestyle="none", marker="|", ms=9, mew=1.6, color=style.INK, clip_on=False)
    reach = np.nanmax(np.concatenate([lengths, 100 * intervals.ravel()]))
    for row, length in enumerate(lengths):
        end = np.nanmax([length, 100 * intervals[row, 1] if row < len(names) else length])
        axes.text(end + 0.02 * reach, row, style.percent(length / 100), va="center", fontsize=style.TICK, color=style.INK)
    style.dress(axes, x="importance (%)", grid="x")
    axes.set_yticks(rows, bars)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * reach)
    first = int(np.argmax(lengths))
    name = f"“{bars[first]}”" if first < len(names) else bars[first]
    style.headline(figure, f"The largest share: {name}, {style.percent(float(lengths[first]) / 100)}", note)
    return style.finish(figure)


def _scale(values: Floats, largest: bool) -> Normalize:
    known = values[np.isfinite(values)]
    if not len(known):
        return Normalize(0, 1)
    low, high = float(known.min()), float(known.max())
    if len(known) >= 20:
        low, high = (float(np.quantile(known, BAD_END)), high) if largest else (low, float(np.quantile(known, 1 - BAD_END)))
    return Normalize(low, high if high > low else low + 1e-9 + 1e-9 * abs(low))


def _extended(values: Floats, scale: Normalize) -> str:
    assert scale.vmin is not None and scale.vmax is not None
    return (
        "min" if np.nanmin(values, initial=np.inf) < scale.vmin else "max" if np.nanmax(values, initial=-np.inf) > scale.vmax else "neither"
    )


def _numbers(values: Floats) -> npt.NDArray[np.str_]:
    """Each value with three digits where values are alike, two where they are not; a dash where there is none."""
    size = np.abs(values[np.isfinite(values)])
    top = float(size.max(initial=0.0))
    decimals = int(np.clip(2 - np.floor(np.log10(top)), 0, 3)) if top > 0 else 0
    plain = 1e-2 <= top < 1e5
    texts = ["–" if not np.isfinite(value) else f"{value:.{decimals}f}" if plain else f"{value:.1e}" for value in values.flat]
    return np.array(texts).reshape(values.shape)


def _write(axes: Axes, values: Floats, texts: npt.NDArray[np.str_], *, size: float, scale: Normalize, largest: bool) -> None:
    for (row, column), text in np.ndenumerate(texts):
        value = values[row, column]
        depth = float(scale(value)) if np.isfinite(value) else 0.0
        dark = np.isfinite(value) and (depth if largest else 1 - depth) > 0.6
        axes.text(
            column, row, str(text), ha="center", va="center", fontsize=size, color=style.PAPER if dark else style.INK, in_layout=False
        )


def _best(values: Floats, largest: bool) -> tuple[int, int, int] | None:
    if not np.isfinite(values).any():
        return None
    place = np.nanargmax(values) if largest else np.nanargmin(values)
    panel, row, column = np.unravel_index(place, values.shape)
    return int(panel), int(row), int(column)


def _what_is_best(
    best: tuple[int, int, int] | None,
    texts: npt.NDArray[np.str_],
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Side | None,
    *,
    cell: str,
) -> str:
    if best is None:
        return f"No {cell} has a value"
    with_panel = f" ({style.short_names([f'{panels.factor}: {panels.levels[best[0]]}'], 40)[0]})" if panels is not None else ""
    return f"The best {cell} is {rows[best[1]]} × {columns[best[2]]}{with_panel}: {texts[best]}"


def _what_leads(factors: Mapping[str, LevelMeans], note: str) -> str:
    leading = [f"{style.short_names(levels.names, 24)[0]} ({name})" for name, levels in factors.items() if len(levels.names) > 1]
    named = f"Best mean: {', '.join(leading)}; {note}"
    if leading and len(named) <= 70:
        return named
    return f"{len(leading)} factors, each with its levels by their mean; {note}" if len(leading) > 1 else f"Levels by their mean; {note}"


def _legend_of_drawn(figure: Figure, factors: Mapping[str, LevelMeans]) -> None:
    """Keys for what is really there: no spread where there is one combination, no interval where there is one seed."""
    drawn = {
        "mean": True,
        "95 % interval over seeds": any(np.isfinite(levels.interval).any() for levels in factors.values()),
        "middle half of the combinations (no interval)": any(np.isfinite(levels.spread).any() for levels in factors.values()),
    }
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if not drawn[label]:
                handle.set_label("_")
    style.legend_below(figure)
