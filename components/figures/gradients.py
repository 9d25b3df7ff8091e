"""The vanishing gradient as a picture: how much of it reaches each layer, and how many activations are on the flat part of their curve.

Layers stand one below the other in the order in which the model runs them, input on top. On the left the first, the middle and the last
recorded step; on the right every recorded step.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from components.figures import style

History = Mapping[str, Sequence[tuple[int, float]]]
"""Series name → (step, value), steps rising."""

MOST_COLUMNS = 200
"""More recorded steps than this are thinned before they are drawn."""
STAGES = ((style.ORANGE, "o", ":", 12.0), (style.GREEN, "s", "--", 9.0), (style.BLUE, "D", "-", 6.0))
"""Colour, marker, line and marker's size of the first, the middle and the last step: equal values are seen one in the other."""
SMALL = 4.5
"""Every marker's size where layers are many."""


def gradient_flow(history: History) -> Figure:
    """Gradient norm of each layer's weights on a logarithmic scale; a norm of exactly 0 (a dead layer) is marked with a cross.

    Args:
        history: the series `gradients/LAYER` are drawn, in the order of the mapping (that of depth); others are passed over.

    Raises:
        ValueError: there is no such series.
    """
    layers, steps, norms = _table(history, "gradients/")
    alive = np.isfinite(norms) & (norms > 0)
    low, high = (norms[alive].min(), norms[alive].max()) if alive.any() else (0.1, 1.0)
    figure = _by_layer(layers, steps, norms, dead=norms == 0, scale=LogNorm(low, max(high, 2 * low)), quantity="gradient norm (L2)")
    figure.axes[0].set_xscale("log")
    # Whole decades, so that the ends have labels; and room on the left for crosses.
    left, right = math.floor(math.log10(low)) - (1 if (norms == 0).any() else 0), math.ceil(math.log10(high))
    figure.axes[0].set_xlim(10.0**left / 1.5, 10.0**right * 1.5)
    figure.axes[0].xaxis.set_minor_locator(NullLocator())
    style.headline(figure, f"Step {steps[-1]:,}: {_where_it_goes(layers, norms[:, -1])}")
    return style.finish(figure)


def activation_saturation(history: History) -> Figure:
    """Share of each activation's outputs that are saturated (for ReLU: 0), in percent.

    Args:
        history: the series `saturation/LAYER` (0 … 1) are drawn, in the order of the mapping (that of depth); others are passed over.

    Raises:
        ValueError: there is no such series.
    """
    layers, steps, shares = _table(history, "saturation/")
    figure = _by_layer(layers, steps, 100 * shares, dead=shares < 0, scale=Normalize(0, 100), quantity="saturated outputs (%)")
    figure.axes[0].set_xlim(-2, 102)
    worst = int(np.nan_to_num(shares[:, -1], nan=-1.0).argmax())
    most = float(shares[worst, -1])
    if most >= 0.05:
        title = f"Step {steps[-1]:,}: “{layers[worst]}” is saturated most: {100 * most:.0f} % of its outputs"
    else:
        title = f"Step {steps[-1]:,}: hardly any output is saturated (at most {style.percent(most)})"
    style.headline(figure, title)
    return style.finish(figure)


def _table(history: History, prefix: str) -> tuple[list[str], list[int], np.ndarray]:
    """Layers (shortened), steps and the (layers, steps) values of the series that begin with `prefix`; NaN where a layer has none."""
    series = {name.removeprefix(prefix): dict(points) for name, points in history.items() if name.startswith(prefix) and points}
    if not series:
        raise ValueError(f"the history has no {prefix}… series to draw")
    steps = sorted({step for points in series.values() for step in points})
    kept = [steps[i] for i in sorted({*style.thin(len(steps), MOST_COLUMNS), len(steps) - 1})]
    return (
        style.short_names(list(series), 20),
        kept,
        np.array([[points.get(step, math.nan) for step in kept] for points in series.values()], dtype=np.float64),
    )


def _by_layer(layers: list[str], steps: list[int], values: np.ndarray, *, dead: np.ndarray, scale: Normalize, quantity: str) -> Figure:
    """Lines for three steps and, where there are more than one, a heat map over all of them; crosses where `dead`.

    The values of a single step stand beside their points, where the layers are few.
    """
    height = min(max(0.26 * len(layers), 2.2), 7.0)
    figure = style.new_figure(height + 1.6)
    over_time = len(steps) > 1
    panels = figure.subplots(1, 2 if over_time else 1, sharey=True, squeeze=False)[0]
    lines = panels[0]
    rows = np.arange(len(layers))
    shown = np.ma.masked_array(values, ~np.isfinite(values) | dead)
    few = len(layers) <= style.FEW_POINTS
    stages = {0: STAGES[0], len(steps) // 2: STAGES[1], len(steps) - 1: STAGES[2]}
    for column, (colour, marker, line, large) in stages.items():
        size, label = large if few else SMALL, f"step {steps[column]:,}"
        lines.plot(shown[:, column], rows, color=colour, marker=marker, ms=size, linestyle=line, label=label)
    if few and not over_time:  # next to nothing would be seen but the axes
        for value, row in zip(shown[:, 0], rows, strict=True):
            if value is not np.ma.masked:
                paper = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.0}
                number, place = f"{value:.3g}", (9, 0)
                lines.annotate(
                    number, (value, row), place, textcoords="offset points", va="center", fontsize=style.TICK, color=style.INK, bbox=paper
                )
    crossed = rows[dead[:, list(stages)].any(axis=1)]
    if len(crossed):
        edge = np.full(len(crossed), 0.03)
        lines.plot(edge, crossed, "X", color=style.VERMILION, ms=7, transform=lines.get_yaxis_transform(), label="exactly 0")
    style.dress(lines, x=quantity, y="layer, input on top", grid="x")
    style.name_ticks(lines, "y", layers, most=int(height / 0.2))
    lines.set_ylim(len(layers) - 0.5, -0.5)
    if over_time:
        image = panels[1].imshow(shown, aspect="auto", cmap="cividis", norm=scale, interpolation="nearest")
        lost = np.ma.masked_array(dead, ~dead)
        panels[1].imshow(lost, aspect="auto", cmap=ListedColormap([style.VERMILION]), interpolation="nearest")
        style.dress(panels[1], x="step")
        places = style.thin(len(steps), 5 if steps[-1] < 1000 else 3)
        panels[1].set_xticks(places, [f"{steps[i]:,}" for i in places])
        panels[1].tick_params(axis="y", length=0)
        bar = figure.colorbar(image, ax=panels[1], pad=0.02, aspect=30)
        bar.set_label(quantity, fontsize=style.LABEL, color=style.INK)
        bar.ax.tick_params(labelsize=style.TICK)
    style.legend_below(figure)
    return figure


def _where_it_goes(layers: list[str], norms: np.ndarray) -> str:
    dead = int((norms == 0).sum())
    if dead:
        return f"no gradient at all reaches {dead} of {len(layers)} layers"
    lost = int((~np.isfinite(norms)).sum())
    if lost:
        return f"the gradient of {lost} of {len(layers)} layers is not a number"
    if len(layers) == 1:
        return f"the gradient of the only layer has norm {norms[0]:.2g}"
    ratio = norms[-1] / norms[0]
    if 0.1 <= ratio <= 10:
        return "the gradient is about as large in the first layer as in the last"
    factor = float(f"{max(ratio, 1 / ratio):.1e}")
    size = f"{factor:,.0f}" if factor < 1e7 else f"10^{math.floor(math.log10(factor))}"
    return f"the gradient {'shrinks' if ratio > 1 else 'grows'} {size}-fold from the last layer to the first"
