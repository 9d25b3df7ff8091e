"""What a model that tells masked words does: which it takes for which, and where in what it reads it is good."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from components.figures import style
from components.figures.sequences import LINES, visible

GROUPS = 24
"""Places are drawn in so many groups at most."""


SHOWN_AS = {"[MASK]": "▢", "[CLS]": "", "[SEP]": "¦"}
"""What stands for a mark."""


class Masked(NamedTuple):
    """One masked word among its neighbours."""

    before: Sequence[str]
    truth: str
    behind: Sequence[str]
    guesses: Sequence[tuple[str, float]]
    """Tokens and their probabilities, the likeliest first."""


def masked_words(rows: Sequence[Masked]) -> Figure:
    """A row for each masked word: what stands around it, the word itself, and what the model takes it for, with its probability.

    What is before a word stands on its left, in texts that are read from the right too. The word's box is blue where it is the model's
    first guess, light blue where it is among the others, orange where it is not.
    """
    height = 0.42
    figure = style.new_figure(1.25 + height * len(rows))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.5, -1.2)
    for place, name in ((0.21, "before"), (0.28, "the word"), (0.355, "behind"), (0.57, "the model's guesses")):
        axes.text(
            place,
            -0.9,
            name,
            fontsize=style.NOTE,
            color=style.GREY,
            ha={"before": "right", "the word": "center"}.get(name, "left"),
            va="center",
        )
    right = 0
    for row, (before, truth, behind, guesses) in enumerate(rows):
        words = [word for word, _ in guesses]
        right += words[0] == truth
        colour = style.BLUE if words[0] == truth else "#cfe4f1" if truth in words else "#f7d3bd"
        _write(axes, 0.21, row, _end(_plain(before), 20), side="right", colour=style.GREY)
        written = _write(axes, 0.28, row, _shown(truth, 11), side="center", colour=style.PAPER if words[0] == truth else style.INK)
        written.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 2.0})
        _write(axes, 0.355, row, _begin(_plain(behind), 20), side="left", colour=style.GREY)
        said = "  ".join(f"{_shown(word, 8)} {100 * share:.0f} %" for word, share in guesses)
        _write(axes, 0.57, row, said, side="left", colour=style.INK)
    style.headline(figure, f"{right} of {len(rows)} masked words are the first guess")
    return style.finish(figure)


def loss_by_position(models: Mapping[str, Sequence[tuple[int, float, int]]]) -> Figure:
    """−log p of what is told, against its place in what is read; a dashed line at each model's mean.

    Args:
        models: name → (place, mean nats, words) by place. One without a name needs no key.
    """
    figure = style.new_figure(4.2)
    axes = figure.add_subplot()
    ends = []
    for (name, found), (colour, line) in zip(models.items(), LINES, strict=False):
        places, means, counts = (np.array(column, dtype=float) for column in zip(*found, strict=True))
        groups = np.array_split(np.arange(len(places)), min(GROUPS, len(places)))
        weight = np.array([counts[group].sum() for group in groups])
        heights = np.array([(means[group] * counts[group]).sum() for group in groups]) / weight
        middles = np.array([places[group].mean() for group in groups])
        axes.plot(middles, heights, color=colour, linestyle=line, marker="o", ms=4, linewidth=2, label=name or None)
        mean = float((means * counts).sum() / counts.sum())
        axes.axhline(mean, color=colour, linewidth=1, linestyle=(0, (1, 2)))
        ends.append((name, heights, mean))
    style.dress(axes, x="place in what is read (tokens from the start)", y="−log p of what is told (nats, mean)", grid="y")
    axes.set_ylim(bottom=0)
    if any(models):
        style.legend_below(figure)
    parts = []
    for name, heights, mean in ends:
        parts.append(
            f"{name + ': ' if name else ''}{heights[0]:.2f} nats at the start, {heights[-1]:.2f} at the end, {mean:.2f} in the mean"
        )
    style.headline(figure, "; ".join(parts), "dotted: the mean of all places")
    return style.finish(figure)


def _write(axes: Axes, x: float, row: int, text: str, *, side: Literal["left", "center", "right"], colour: str) -> Text:
    return axes.text(x, row, text, ha=side, va="center", color=colour, fontsize=style.NOTE, family="DejaVu Sans Mono")


def _plain(tokens: Sequence[str]) -> str:
    """Tokens as a text: a WordPiece's continuation joins what it continues."""
    shown = [SHOWN_AS.get(piece, visible(piece)) for piece in tokens]
    return " ".join(piece for piece in shown if piece).replace(" ##", "").replace("$", r"\$")


def _begin(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _end(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def _shown(token: str, longest: int) -> str:
    return style.short_names([visible(token)], longest)[0]
