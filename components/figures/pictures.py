"""Examples that the model got wrong, most confident first: often they show what is wrong with the data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from components.figures import style

COLUMNS, ROWS = 5, 3


def mistakes(
    picture: Callable[[int], Any],
    *,
    index: Tensor,
    targets: Tensor,
    predictions: Tensor,
    confidence: Tensor,
    class_names: Sequence[str],
) -> Figure:
    """Up to 15 pictures that were taken for another class, most confident first; where all are right, the least confident ones.

    Args:
        picture: gives the picture of the example with an index: (H, W), (C, H, W) or (H, W, C) with C of 1, 3 or 4; uint8 or any numbers.
        index: (N,) the examples' indices, N ≥ 1.
        targets, predictions: (N,) class numbers.
        confidence: (N,) probability of the predicted class.
        class_names: a name for each class.
    """
    names = style.short_names(class_names, 11)
    wrong = targets != predictions
    count = int(wrong.sum())
    if count:
        chosen = wrong.nonzero().flatten()
        chosen = chosen[confidence[chosen].argsort(descending=True, stable=True)]
        title = f"{count:,} of {len(index):,} examples are wrong; the most confident mistakes"
    else:
        chosen = confidence.argsort(stable=True)
        title = f"No mistake among {len(index):,} examples; the least confident answers"
    chosen = chosen[: COLUMNS * ROWS]
    rows = -(-len(chosen) // COLUMNS)
    figure = style.new_figure(0.8 + 2.0 * rows)
    for axes, place in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, [*chosen.tolist(), *[None] * COLUMNS], strict=False):
        axes.set_axis_off()
        axes.set(xticks=[], yticks=[])  # hidden ticks would still be laid out, at half of the figure's time
        if place is not None:
            _show(axes, picture(int(index[place])))
            given, taken = (names[int(numbers[place])] for numbers in (targets, predictions))
            axes.set_title(
                f"given {given}\nseen as {taken}\n{style.percent(float(confidence[place]))}",
                fontsize=style.NOTE,
                color=style.VERMILION if wrong[place] else style.INK,
            )
    style.headline(figure, title)
    return style.finish(figure)


def _show(axes: Axes, picture: Any) -> None:
    """Draw a picture: bytes as they are, other numbers over their own range (which one a data set uses is its own matter)."""
    pixels = np.asarray(picture)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    low, high = (0.0, 255.0) if pixels.dtype == np.uint8 else (float(np.nanmin(pixels)), float(np.nanmax(pixels)))
    pixels = (pixels - low) / (high - low if high > low else 1.0)
    axes.imshow(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
