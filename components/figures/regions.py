"""Pictures of regions: proposals, anchors and regions that answer for objects."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from components.figures import style
from components.figures.boxes import draw_boxes, row_height, show
from components.figures.detection import TRUE
from components.layers.boxes import iou

COLOURS = (style.BLUE, style.VERMILION, style.ORANGE, style.PURPLE, style.GREEN)
SHOWN = (10, 30)
"""How many of the most probable proposals the first panels show; the last shows those that meet an object best."""
NEAR = 0.5
BEST = 5
"""Boxes that are drawn for an object, of those that answer for it."""


def proposals_figure(picture: Any, regions: Tensor, objects: Tensor) -> Figure:
    """One picture three times, with a few of its proposals, more, and of all of them the best for each object that is met.

    Above each stands how many of the objects some of the proposals overlaps by half.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        regions: (R, 4) proposals, the most probable first.
        objects: (n, 4) what is really there.
    """
    figure = style.new_figure(1.3 + row_height(picture, 1 + len(SHOWN)))
    overlap = iou(objects, regions) if len(regions) else objects.new_zeros(len(objects), 1)
    met = overlap.amax(dim=1) >= NEAR
    panels = [(f"the first {len(regions[:count])}", regions[:count], (overlap[:, :count] >= NEAR).any(dim=1)) for count in SHOWN]
    panels.append((f"the best of all {len(regions)}", regions[overlap.argmax(dim=1)[met]] if len(regions) else regions, met))
    for axes, (title, some, found) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        show(axes, picture)
        draw_boxes(axes, objects, colour=TRUE, dashed=True, width=1.2)
        draw_boxes(axes, some, colour=style.BLUE, width=0.8)
        axes.set_title(f"{title}: {int(found.sum())} of {len(objects)} objects", fontsize=style.NOTE, color=style.INK)
    style.headline(figure, f"Proposals, the most probable first; an object is met from IoU {NEAR:g} on")
    keys = [Line2D([], [], color=style.BLUE, label="proposal"), Line2D([], [], color=TRUE, linestyle="--", label="really there")]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, fontsize=style.TICK)
    return style.finish(figure)


def matched_figure(picture: Any, boxes: Tensor, matched: Tensor, objects: Tensor, *, what: str) -> Figure:
    """One picture with the anchors or regions that answer for its objects, the best few of each in its object's colour.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        boxes: (M, 4) those that answer for an object.
        matched: (M,) int64, the object.
        objects: (n, 4) what is really there.
        what: what the boxes are called, in the plural.
    """
    figure = style.new_figure(0.9 + row_height(picture, 2))
    plain, marked = figure.subplots(1, 2)
    show(plain, picture)
    draw_boxes(plain, objects, colour=TRUE, dashed=True, width=1.8)
    plain.set_title(f"{len(objects)} objects", fontsize=style.NOTE, color=style.INK)
    show(marked, picture)
    most = 0
    for place in range(len(objects)):
        own = boxes[matched == place]
        nearest = iou(objects[place : place + 1], own)[0].argsort(descending=True, stable=True)[:BEST] if len(own) else matched[:0]
        draw_boxes(marked, own[nearest], colour=COLOURS[place % len(COLOURS)], width=1.1)
        most = max(most, len(own))
    met = len(set(matched.tolist()))
    cut = f", the best {BEST} of each shown" if most > BEST else ""
    marked.set_title(f"{len(boxes)} {what} for {met} of them{cut}", fontsize=style.NOTE, color=style.INK)
    style.headline(figure, f"Which {what} answer for which object")
    return style.finish(figure)
