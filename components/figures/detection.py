"""Pictures of detections: over what is really there, before and after suppression, and as curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.figures import style
from components.figures.boxes import Label, draw_boxes, finish, row_height, show
from components.layers.boxes import Detections
from components.metrics.detection import Found, average_precision_07, judged, precision_recall

COLUMNS, ROWS = 4, 3
MOST_CURVES = 12
TRUE, RIGHT, WRONG = style.GREEN, style.BLUE, style.VERMILION


def detections_figure(
    picture: Callable[[int], Any], index: Tensor, pictures: Sequence[Found], class_names: Sequence[str], *, threshold: float
) -> Figure:
    """The pictures with the most mistakes and some others: what is there dashed, what was found in blue if right and vermilion if not.

    Of labels that would cover each other the most probable is shown.

    Args:
        picture: gives the picture of the example with an index, (H, W) or (H, W, 3) uint8.
        index: (N,) the examples' indices.
        pictures: N pictures' detections.
        class_names: a name for each class.
        threshold: detections that are no more probable are not shown.
    """
    names = style.short_names(class_names, 11)
    verdicts = [_verdicts(each, threshold) for each in pictures]
    mistakes = [int((right == 0).sum()) + missed for _, right, missed in verdicts]
    worst = sorted(range(len(pictures)), key=lambda place: -mistakes[place])[:COLUMNS]
    others = [place for place in range(len(pictures)) if place not in worst][: COLUMNS * ROWS - len(worst)]
    chosen = others + worst
    rows = max(-(-len(chosen) // COLUMNS), 1)
    figure = style.new_figure(1.1 + rows * (0.3 + row_height(picture(int(index[chosen[0]])), COLUMNS)))
    labels: list[tuple[float, Label]] = []
    for axes, place in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, [*chosen, *[None] * COLUMNS], strict=False):
        axes.set_axis_off()
        if place is None:
            continue
        show(axes, picture(int(index[place])))
        each, (shown, right, missed) = pictures[place], verdicts[place]
        draw_boxes(axes, each.true_boxes, colour=TRUE, dashed=True)
        texts = [
            f"{names[label]} {score:.2f}" for label, score in zip(each.labels[shown].tolist(), each.scores[shown].tolist(), strict=True)
        ]
        for correct, colour in ((True, RIGHT), (False, WRONG)):
            some = (right != 0) == correct
            said = [text for text, is_it in zip(texts, some.tolist(), strict=True) if is_it]
            drawn = draw_boxes(axes, each.boxes[shown][some], colour=colour, texts=said)
            labels += zip(each.scores[shown][some].tolist(), drawn, strict=False)  # nothing is drawn where nothing is said
        note = f"{int((right == 0).sum())} wrong, {missed} missed" if mistakes[place] else "all right"
        axes.set_title(note, fontsize=style.NOTE, color=WRONG if mistakes[place] else style.GREY)
    total = sum(mistake > 0 for mistake in mistakes)
    style.headline(figure, f"Detections above {threshold:g}: mistakes in {total:,} of {len(pictures):,} pictures (last row: most)")
    keys = [
        Line2D([], [], color=TRUE, linestyle="--", label="really there"),
        Line2D([], [], color=RIGHT, label="found, right"),
        Line2D([], [], color=WRONG, label="wrong class, place, or twice"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=style.TICK)
    return finish(figure, [label for _, label in sorted(labels, key=lambda pair: -pair[0])])


def _verdicts(found: Found, threshold: float) -> tuple[Tensor, Tensor, int]:
    """Which detections are shown (D,) bool; which of those are right (1), wrong (0) or do not count (−1); how many objects are missed."""
    shown = found.scores > threshold
    boxes, scores, labels = found.boxes[shown], found.scores[shown], found.labels[shown]
    right = torch.zeros(len(boxes), dtype=torch.int64)
    for label in set(labels.tolist()):
        mine, its = labels == label, found.true_labels == label
        right[mine] = judged(boxes[mine], scores[mine], found.true_boxes[its], found.difficult[its], 0.5)
    return shown, right, int((~found.difficult).sum()) - int((right == 1).sum())


def precision_recall_figure(pictures: Sequence[Found], class_names: Sequence[str]) -> Figure:
    """Precision over recall at IoU 0.5 of each class (of more than a dozen, those that occur most), with VOC07's average precision."""
    labels = torch.cat([each.true_labels[~each.difficult] for each in pictures])
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    chosen = sorted(sorted((label for label, count in enumerate(counts) if count), key=lambda label: -counts[label])[:MOST_CURVES])
    names = style.short_names(class_names)
    figure = style.new_figure(4.8)
    axes = figure.subplots()
    colours = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.INK)
    averages = []
    for place, label in enumerate(chosen):
        precision, recall, _ = precision_recall(pictures, label)
        averages.append(average_precision_07(precision, recall))
        line = ("-", "--", ":")[place // len(colours) % 3]
        axes.step(
            [0, *recall],
            [1, *precision],
            where="post",
            color=colours[place % len(colours)],
            linestyle=line,
            label=f"{names[label]}  {averages[-1]:.2f}",
        )
    style.dress(axes, x="recall (share of the objects that are found)", y="precision (share of the detections that are right)", grid="both")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    mean = float(np.mean(averages)) if averages else math.nan
    style.headline(figure, f"Precision and recall at IoU 0.5; mean of {len(chosen)} AP (VOC07): {mean:.3f}")
    figure.legend(loc="outside right center", frameon=False, fontsize=style.TICK, title="class, AP")
    return style.finish(figure)


def suppression_figure(
    picture: Any, *, before: Detections, after: Detections, objects: int, class_names: Sequence[str], threshold: float
) -> Figure:
    """One picture's candidates more probable than a threshold before, and what class-wise non-maximum suppression leaves of them.

    `objects` is how many are really there, which the title says too: suppression may leave several boxes of one, or none.
    """
    names = style.short_names(class_names, 11)
    figure = style.new_figure(0.9 + row_height(picture, 2))
    labels: list[Label] = []
    for axes, found, title in zip(figure.subplots(1, 2), (before, after), ("before", "after"), strict=True):
        show(axes, picture)
        texts = [f"{names[label]} {score:.2f}" for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]
        width = 0.9 if title == "before" else 1.6
        labels += draw_boxes(axes, found.boxes, colour=style.BLUE, texts=texts if title == "after" else (), width=width)
        axes.set_title(f"{title}: {len(found):,} {'box' if len(found) == 1 else 'boxes'}", fontsize=style.LABEL, color=style.INK)
    boxes = f"{len(after):,} of {len(before):,} {'box' if len(before) == 1 else 'boxes'}"
    there = f"{objects:,} {'object' if objects == 1 else 'objects'}"
    style.headline(figure, f"Non-maximum suppression leaves {boxes} above {threshold:.2g} for {there}")
    return finish(figure, labels)


def matched_figure(
    picture: Any, *, objects: Tensor, labels: Tensor, default_boxes: Tensor, matched: Tensor, class_names: Sequence[str]
) -> Figure:
    """The default boxes that answer for each of up to four objects of a picture, the largest and the smallest among them.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        objects: (n, 4) pixels.
        labels: (n,).
        default_boxes: (A, 4) pixels.
        matched: (A,) place of the object that a default box answers for, negative for background.
        class_names: a name for each class.
    """
    names = style.short_names(class_names, 14)
    sides = (objects[:, 2:] - objects[:, :2]).prod(dim=1)
    ranked = sides.argsort().tolist()
    chosen = [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, min(4, len(ranked)))]
    figure = style.new_figure(2.7)
    for axes, place in zip(np.atleast_1d(figure.subplots(1, max(len(chosen), 1))), chosen, strict=False):
        show(axes, picture)
        mine = default_boxes[matched == place]
        draw_boxes(axes, mine, colour=style.BLUE, width=0.7)
        draw_boxes(axes, objects[place : place + 1], colour=TRUE, dashed=True, width=1.4)
        width, height = (objects[place, 2:] - objects[place, :2]).tolist()
        axes.set_title(f"{names[int(labels[place])]}, {width:.0f}×{height:.0f}: {len(mine)}", fontsize=style.LABEL, color=style.INK)
    style.headline(figure, f"Default boxes (of {len(default_boxes):,}) that answer for an object, small to large")
    return style.finish(figure)


COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE)


def annotated(picture: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A copy of a picture, in its own size, with the boxes of a detector's answer and what each is.

    Args:
        picture: RGB.
        objects: each with `label`, `probability` and `box` [left, top, right, bottom] in pixels.
    """
    drawn = picture.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    thick = max(round(max(picture.size) / 300), 1)
    letters = ImageFont.load_default(max(min(picture.size) / 28, 9))
    labels = sorted({str(each["label"]) for each in objects})
    for each in reversed(objects):  # the most probable on top
        colour = COLOURS[labels.index(str(each["label"])) % len(COLOURS)]
        left, top, right, bottom = each["box"]
        canvas.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=thick)
        text = f"{each['label']} {each['probability']:.2f}"
        x0, y0, x1, y1 = canvas.textbbox((0, 0), text, font=letters)
        wide, high = x1 - x0 + 2 * thick, y1 - y0 + 2 * thick
        x = max(min(left, picture.width - wide), 0)
        y = top - high if top >= high else top  # above the box, or in it at the picture's upper edge
        canvas.rectangle((x, y, x + wide, y + high), fill=colour)
        canvas.text((x + thick - x0, y + thick - y0), text, fill="white", font=letters)
    return drawn
