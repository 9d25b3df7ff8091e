"""Which classes are taken for which, and how well each is told from the rest."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from components.figures import style

RIGHT = LinearSegmentedColormap.from_list("right", ["#e3f0f8", style.BLUE])
WRONG = LinearSegmentedColormap.from_list("wrong", ["#fdebdd", style.VERMILION])
WITH_NUMBERS = 25
"""Matrices of more classes show counts by colour only."""
SMALLEST_NUMBER, LARGEST_NUMBER = 5.5, 14.0
"""Font sizes in points; matrices whose counts would have to be smaller show them by colour only."""
MOST_NAMES = 25
"""Of more classes than this, only every second, third … name stands along an axis."""
LONGEST_NAME = 24
"""Letters of a class's name."""
MOST_CLASSES = 20
"""The chart of scores shows this many classes at most: the hardest."""


def confusion_figure(matrix: Tensor, class_names: Sequence[str]) -> Figure:
    """The confusion matrix: right answers in blue on the diagonal, mistakes in orange off it, each on a scale of its own.

    Args:
        matrix: (C, C) counts; row: class given, column: class predicted.
        class_names: C names.
    """
    counts = matrix.numpy()
    classes = len(counts)
    mistakes = counts - np.diag(np.diag(counts))
    names = style.short_names(class_names, LONGEST_NAME)
    sizes = [_number_size(int(part.max()), classes) for part in (np.diag(counts), mistakes)]
    with_numbers = classes <= WITH_NUMBERS and min(sizes) >= SMALLEST_NUMBER
    figure = style.new_figure(7.5 if with_numbers else 6.6)
    axes = figure.add_subplot()
    off_diagonal = ~np.eye(classes, dtype=bool)
    right = _layer(axes, counts, ~off_diagonal & (counts > 0), RIGHT)
    wrong = _layer(axes, counts, off_diagonal & (counts > 0), WRONG)
    if with_numbers:
        _numbers(axes, counts, sizes)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=style.PAPER, linewidth=1.5)
        axes.tick_params(which="minor", length=0)
    else:
        for image, label in ((right, "right answers"), (wrong, "mistakes")):
            bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.01, ticks=MaxNLocator(5, integer=True))
            bar.set_label(f"{label} (count)", fontsize=style.LABEL, color=style.INK)
            bar.ax.tick_params(labelsize=style.TICK)
    style.dress(axes, x="predicted class", y="given class")
    axes.spines[:].set_visible(False)
    style.name_ticks(axes, "x", names, most=MOST_NAMES, rotate=style.longest(names) * classes > 70)
    style.name_ticks(axes, "y", names, most=MOST_NAMES)
    style.headline(figure, _what_is_confused(mistakes, names), _how_often(int(counts.sum()), int(mistakes.sum())))
    return style.finish(figure)


def class_scores_chart(precision: Tensor, recall: Tensor, f1: Tensor, *, given: Tensor, class_names: Sequence[str]) -> Figure:
    """Precision, recall and, between them, F1 of each class, hardest on top. Of more than 20 classes the hardest 20.

    Args:
        precision, recall, f1: (C,) in 0 … 1.
        given: (C,) examples of each class.
        class_names: C names.
    """
    order = f1.argsort(stable=True)[:MOST_CLASSES].tolist()
    names = style.short_names(class_names, LONGEST_NAME)
    rows = np.arange(len(order))
    scores = [part[order].numpy() for part in (precision, recall, f1)]
    lowest, highest = np.min(scores, axis=0), np.max(scores, axis=0)
    figure = style.new_figure(2.6 + 0.28 * len(order))
    axes = figure.add_subplot()
    axes.hlines(rows, lowest, highest, color=style.FAINT, linewidth=5)
    for score, label, marker, colour, size in zip(
        scores, ("precision", "recall", "F1"), ("<", ">", "D"), (style.VERMILION, style.BLUE, style.INK), (8, 8, 5), strict=True
    ):
        axes.plot(score, rows, linestyle="none", marker=marker, ms=size, color=colour, label=label, clip_on=False)
    style.dress(axes, x="score (0 … 1)", y="class (examples)", grid="x")
    axes.set_yticks(rows, [f"{names[i]} ({int(given[i]):,})" for i in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(max(np.floor(lowest.min() * 20 - 0.5) / 20, 0.0), 1.0)
    style.legend_below(figure)
    style.headline(figure, _what_is_hard(f1, names, hardest=order[0]), _which_are_shown(len(order), len(class_names)))
    return style.finish(figure)


def _layer(axes: Axes, counts: np.ndarray, shown: np.ndarray, colours: LinearSegmentedColormap) -> AxesImage:
    """The cells `shown`, coloured from 0 to their own largest count."""
    most = max(int(counts[shown].max(initial=1)), 1)
    return axes.imshow(np.ma.masked_array(counts, ~shown), cmap=colours, vmin=0, vmax=most, interpolation="nearest")


def _number_size(largest: int, classes: int) -> float:
    """The font size at which the largest count still fits into a cell."""
    return min(LARGEST_NUMBER, 480 / classes / max(len(str(largest)), 2))


def _numbers(axes: Axes, counts: np.ndarray, sizes: Sequence[float]) -> None:
    """Every count that is not 0; `sizes` are those on and off the diagonal. Only dark blue needs white letters."""
    dark = 0.5 * np.diag(counts).max()
    for row, column in np.argwhere(counts):
        count, right = int(counts[row, column]), row == column
        colour = style.PAPER if right and count > dark else style.INK
        axes.text(column, row, str(count), ha="center", va="center", fontsize=sizes[0] if right else sizes[1], color=colour)


def _what_is_confused(mistakes: np.ndarray, names: Sequence[str]) -> str:
    if not mistakes.any():
        return "No class is taken for another"
    given, taken = divmod(int(mistakes.argmax()), len(mistakes))
    often = style.times(int(mistakes[given, taken]))
    return f"“{names[given]}” is taken for “{names[taken]}” {often}"


def _how_often(examples: int, mistakes: int) -> str:
    return f"{examples:,} examples, {mistakes:,} {'mistake' if mistakes == 1 else 'mistakes'} ({style.percent(mistakes / examples)})"


def _what_is_hard(f1: Tensor, names: Sequence[str], *, hardest: int) -> str:
    never = int((f1 == 0).sum())
    if never > 1:
        return f"{never} of {len(names)} classes are never recognised"
    if float(f1[hardest]) == 1:
        return "Every class is recognised without a mistake"
    return f"“{names[hardest]}” is the hardest class: F1 {float(f1[hardest]):.3f}"


def _which_are_shown(shown: int, classes: int) -> str:
    return f"hardest first; the {shown} hardest of {classes} classes" if shown < classes else "hardest first"
