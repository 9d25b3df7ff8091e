"""Pictures of regions: proposals, anchors and regions that answer for objects."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from components.figures import style
from components.figures.detection import TRUE, draw_boxes, show
from components.layers.boxes import iou

COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.INK)
SHOWN = (10, 50, 300)
"""How many of the most probable proposals each panel shows."""
NEAR = 0.5


def proposals_figure(picture: Any, regions: Tensor, objects: Tensor) -> Figure:
    """One picture three times, with more and more of its proposals, and how many of its objects some of them overlaps by half.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        regions: (R, 4) proposals, the most probable first.
        objects: (n, 4) what is really there.
    """
    figure = style.new_figure(3.4)
    for axes, count in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        some = regions[:count]
        show(axes, picture)
        draw_boxes(axes, some, colour=style.BLUE, width=1.0 if count < 100 else 0.4)
        draw_boxes(axes, objects, colour=TRUE, dashed=True, width=1.8)
        found = int((iou(objects, some) >= NEAR).any(dim=1).sum()) if len(some) else 0
        axes.set_title(f"the first {len(some)}: {found} of {len(objects)} objects", fontsize=style.NOTE, color=style.INK)
    style.headline(figure, f"Proposals, the most probable first; an object is met from IoU {NEAR:g} on")
    keys = [Line2D([], [], color=style.BLUE, label="proposal"), Line2D([], [], color=TRUE, linestyle="--", label="really there")]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, fontsize=style.TICK)
    return style.finish(figure)


def matched_figure(picture: Any, boxes: Tensor, matched: Tensor, objects: Tensor, *, what: str) -> Figure:
    """One picture with the anchors or regions that answer for its objects, each in its object's colour.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        boxes: (M, 4) those that answer for an object.
        matched: (M,) int64, the object.
        objects: (n, 4) what is really there.
        what: what the boxes are called, in the plural.
    """
    figure = style.new_figure(4.6)
    plain, marked = figure.subplots(1, 2)
    show(plain, picture)
    draw_boxes(plain, objects, colour=TRUE, dashed=True, width=1.8)
    plain.set_title(f"{len(objects)} objects", fontsize=style.LABEL, color=style.INK)
    show(marked, picture)
    for place in range(len(objects)):
        draw_boxes(marked, boxes[matched == place], colour=COLOURS[place % len(COLOURS)], width=0.9)
    met = len(set(matched.tolist()))
    marked.set_title(f"{len(boxes)} {what} for {met} of them", fontsize=style.LABEL, color=style.INK)
    style.headline(figure, f"Which {what} answer for which object")
    return style.finish(figure)
