"""Boxes over pictures, with labels that stay inside the picture and off each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from torch import Tensor

from components.figures import style

PAD = 1.5
"""Pixels of its coloured ground that a label has on each side."""


@dataclass(frozen=True)
class Label:
    """A short text that belongs to a box (left, top, right, bottom) in pixels of the picture."""

    axes: Axes
    text: Text
    box: tuple[float, float, float, float]


def draw_boxes(
    axes: Axes, boxes: Tensor, *, colour: str, texts: Sequence[str] = (), dashed: bool = False, width: float = 1.4
) -> list[Label]:
    """Outline boxes (N, 4) in pixels, with a rim of white so that they are seen on any ground, each with a short text where there are any.

    Returns:
        The labels, which `place_labels` brings to where there is room, once the figure's layout is settled.
    """
    labels = []
    for place, (left, top, right, bottom) in enumerate(boxes.tolist()):
        corner, line = (left - 0.5, top - 0.5), "--" if dashed else "-"
        rim = [withStroke(linewidth=width + 1.2, foreground=style.PAPER, alpha=0.5)]
        axes.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, color=colour, linewidth=width, linestyle=line, path_effects=rim)
        )
        if texts:
            ground = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
            text = axes.text(left, top, texts[place], fontsize=style.NOTE - 2.5, color=style.PAPER, va="bottom", bbox=ground)
            labels.append(Label(axes, text, (left, top, right, bottom)))
    return labels


def place_labels(labels: Sequence[Label]) -> None:
    """Put each label above its box, or inside or below it, where it is in the picture and free; one that has no such place is not shown.

    The first have the choice, so let these be the most probable. The figure's layout must be settled (`style.finish`).
    """
    taken: dict[Axes, list[Bbox]] = {}
    for label in labels:
        axes = label.axes
        if axes not in taken:
            axes.apply_aspect()  # otherwise done only when it is drawn
        room, others = axes.get_window_extent(), taken.setdefault(axes, [])
        own = label.text.get_window_extent()
        wide, high = own.width + 2 * PAD, own.height + 2 * PAD
        (left, top), (right, bottom) = (axes.transData.transform(corner) for corner in (label.box[:2], label.box[2:]))
        last = max(room.x1 - wide, room.x0)
        corners = [
            (min(max(x, room.x0), last), y)
            for y in (top, top - high, bottom - high, bottom)  # above, inside, below; the picture's y grows downwards, the screen's upwards
            for x in (left, right - wide)
        ]
        free = (Bbox.from_bounds(x, y, wide, high) for x, y in corners if room.y0 - 1 <= y and y + high <= room.y1 + 1)
        place = next((each for each in free if not any(_overlap(each, other) for other in others)), None)
        if place is None:
            label.text.set_visible(False)
            continue
        others.append(place)
        x, y = axes.transData.inverted().transform((place.x0 + PAD, place.y0 + PAD))
        label.text.set_position((float(x), float(y)))


def _overlap(one: Bbox, other: Bbox) -> bool:
    return bool(one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1)


def finish(figure: Figure, labels: Sequence[Label] = ()) -> Figure:
    """The figure, settled as all are, with its labels where there is room for them."""
    style.finish(figure)
    place_labels(labels)
    return figure


def show(axes: Axes, picture: Any) -> None:
    """A picture (H, W) or (H, W, 3) uint8 without ticks."""
    pixels = np.asarray(picture)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if max(pixels.shape[:2]) < 200 else "antialiased")
    axes.set_axis_off()
    axes.set(xticks=[], yticks=[])


def row_height(picture: Any, columns: int) -> float:
    """Inches that a row of so many pictures like this one is high."""
    high, wide = np.asarray(picture).shape[:2]
    return float(min((style.WIDTH - 0.4) / columns * high / wide, style.WIDTH))
