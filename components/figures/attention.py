"""Where a transformer looks, head by head, and what it knows of places."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from components.figures import style
from components.figures.sequences import LINES, SHARE, SIGNED, visible

MOST_HEADS, MOST_LAYERS = 12, 12
SHOWN_PLACES = 64
NEAR = 16
"""Places whose likeness to a place is called far."""


def attention_maps(words: Sequence[str], weights: Tensor) -> Figure:
    """Self-attention by layer (down) and head (across), and below it the sharpest head with its words.

    Where nothing may be read from the future, the upper triangle is hatched: its weights are 0 because they are masked, not learned.

    Args:
        words: T tokens of one text.
        weights: (N, H, T, T), rows ask, columns are read; at most 12 layers and 12 heads are shown.
    """
    weights = weights[:MOST_LAYERS, :MOST_HEADS].float().cpu()
    layers, heads, places = weights.shape[:3]
    future = torch.ones(places, places, dtype=torch.bool).triu(1)
    causal = places > 1 and not bool(weights[..., future].any())
    best, share = sharpest(weights)
    most = float(weights.max())  # one scale for all maps, which a model that has hardly learned would else leave white
    high = 1.4 + 0.2 * max(min(places, 30), 8)
    side = min(1.3, (style.WIDTH - 0.6) / heads)  # a map is as high as it is wide
    figure = style.new_figure(1.1 + side * layers + high)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[side * layers + 0.3, high]).flat
    grid = upper.subplots(layers, heads, squeeze=False)
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            axes.imshow(weights[layer, head].numpy(), cmap=SHARE, vmin=0, vmax=most, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(style.VERMILION if (layer, head) == best else style.FAINT)
            axes.spines[:].set_linewidth(2.0 if (layer, head) == best else 0.8)
            if layer == 0:
                axes.set_title(f"head {head + 1}" if heads <= 8 else str(head + 1), fontsize=style.NOTE, color=style.GREY)
            if head == 0:
                axes.set_ylabel(f"layer {layer + 1}" if layers <= 8 else str(layer + 1), fontsize=style.NOTE, color=style.GREY)
    axes = lower.add_subplot()
    shown = style.short_names([visible(word) for word in words], 14)
    image = axes.imshow(weights[best].numpy(), cmap=SHARE, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    if causal:
        edges = np.arange(places + 1) - 0.5
        axes.fill_between(
            edges, -0.5, np.append(edges[:-1], edges[-2]), step="post", facecolor="none", edgecolor=style.GREY, hatch="///", linewidth=0
        )
    style.dress(axes, x="is read", y="reads")
    axes.spines[:].set_visible(False)
    axes.set_title(f"layer {best[0] + 1}, head {best[1] + 1}", fontsize=style.TICK, color=style.GREY, loc="left")
    turned = style.longest(shown) > 2
    style.name_ticks(axes, "x", shown, most=30 if turned else 40, rotate=turned)
    style.name_ticks(axes, "y", shown, most=30)
    bar = lower.colorbar(image, ax=axes, pad=0.01, aspect=20)
    bar.set_label("weight", fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.NOTE)
    where = _where(weights[best], shown)
    what = "Nothing is read from the future; head" if causal else "Head"
    style.headline(
        figure, f"{what} {best[1] + 1} of layer {best[0] + 1} looks most sharply, {100 * share:.0f} % on one token in the mean{where}"
    )
    return style.finish(figure)


def _where(weights: Tensor, words: Sequence[str]) -> str:
    """In words, where most places of one head (T, T) look; empty where it is no one place."""
    peaks = weights.argmax(-1)
    here = torch.arange(len(peaks))
    places = {"the token before": peaks == here - 1, "itself": peaks == here, "the token after": peaks == here + 1}
    places |= {f"“{words[place]}”": peaks == place for place in (0, len(words) - 1)}
    found = [(int(look.sum()), name) for name, look in places.items()]
    count, name = max(found, key=lambda pair: pair[0])
    return f": at {name}" if count > 0.6 * len(peaks) else ""


def sharpest(weights: Tensor) -> tuple[tuple[int, int], float]:
    """The (layer, head) of weights (N, H, T, T) whose places put most of their weight on one token, and how much, in the mean."""
    peaks = weights.amax(-1).mean(-1)
    place = int(peaks.argmax())
    return divmod(place, weights.shape[1]), float(peaks.flatten()[place])


def positions(tables: dict[str, Tensor]) -> Figure:
    """How like each other places are: the cosine of their vectors, place by place, and against their distance.

    Args:
        tables: name → (T, C) a vector a place; the first 64 places of each are shown.
    """
    likeness = {name: _likeness(table[:SHOWN_PLACES]) for name, table in tables.items()}
    figure = style.new_figure(4.2 if len(tables) == 1 else 6.8)
    maps, under = figure.subfigures(*((1, 2) if len(tables) == 1 else (2, 1)), squeeze=False).flat
    for axes, (name, cosine) in zip(maps.subplots(1, len(tables), squeeze=False)[0], likeness.items(), strict=True):
        image = axes.imshow(cosine.numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        style.dress(axes, x="place", y="place")
        axes.spines[:].set_visible(False)
        axes.set_title(f"cosine, {name}", fontsize=style.TICK, color=style.GREY, loc="left")
        bar = maps.colorbar(image, ax=axes, pad=0.02, aspect=20, shrink=0.8)
        bar.ax.tick_params(labelsize=style.NOTE)
    curves = under.add_subplot()
    for (name, cosine), (colour, line) in zip(likeness.items(), LINES, strict=False):
        distances = range(len(cosine))
        means = [float(cosine.diagonal(distance).mean()) for distance in distances]
        curves.plot(distances, means, color=colour, linestyle=line, marker=style.marker(len(means)), linewidth=2, label=name)
    style.dress(curves, x="distance between two places", y="cosine, in the mean", grid="y")
    if len(tables) > 1:
        curves.legend(frameon=False, fontsize=style.TICK)
    style.headline(figure, _what_places_are_like(likeness))
    return style.finish(figure)


def _likeness(table: Tensor) -> Tensor:
    """(T, C) → (T, T) cosines, about the mean place: what all places share says nothing of any."""
    centred = F.normalize((table.double() - table.double().mean(0)).cpu(), dim=-1)
    return (centred @ centred.T).float()


def _what_places_are_like(likeness: dict[str, Tensor]) -> str:
    parts = []
    for name, cosine in likeness.items():
        far = min(NEAR, len(cosine) - 1)
        near = float(cosine.diagonal(1).mean()) if len(cosine) > 1 else 1.0
        parts.append(f"{name}: neighbours {near:.2f} alike, places {far} apart {float(cosine.diagonal(far).mean()):.2f}".replace("-", "−"))
    return "; ".join(parts)
