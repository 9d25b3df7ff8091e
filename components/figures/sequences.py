"""What a recurrent network does with a text: its gates from word to word, how far back it can learn, which words moved its decision."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from components.figures import style

SIGNED = LinearSegmentedColormap.from_list("signed", [style.VERMILION, "#fdf3ec", style.PAPER, "#eef6fb", style.BLUE])
SHARE = LinearSegmentedColormap.from_list("share", [style.PAPER, style.BLUE])
BOUNDED = ("input", "forget", "output", "reset", "update")
"""Gates: between 0 and 1. The others are signed."""
MOST_UNITS = 40
SIDES = ("forwards", "backwards")
LINES = ((style.BLUE, "-"), (style.VERMILION, "--"), (style.GREEN, "-."), (style.PURPLE, ":"))
LETTER = 0.095
"""Inches that a letter takes in a line of text."""


def gate_traces(words: Sequence[str], directions: Sequence[Mapping[str, Tensor]], *, layers: int = 1) -> Figure:
    """Every gate of the first layer over the words of one text: a row a unit, the busiest units on top; a column each direction.

    Both directions stand over the words in the text's order, the first word on the left: what reads backwards begins on the right.

    Args:
        words: T tokens.
        directions: one or two, forwards and backwards: name → (T, H); gates from 0 to 1, states and candidates signed.
        layers: how many layers there are in all.
    """
    first = directions[0]
    names = [name for name in ("input", "forget", "output", "reset", "update", "candidate", "cell", "state") if name in first]
    shown = style.short_names([visible(word) for word in words], 12)
    busiest = [gates["state"].float().std(0).argsort(descending=True)[:MOST_UNITS] for gates in directions]
    figure = style.new_figure(1.9 + 1.35 * len(names) + (0.3 if len(directions) > 1 else 0))
    grid = figure.subplots(len(names), len(directions), sharex=True, squeeze=False)
    for name, row in zip(names, grid, strict=True):
        values = [gates[name].float()[:, units].T.numpy() for gates, units in zip(directions, busiest, strict=True)]
        bounded = name in BOUNDED
        most = 1.0 if bounded else max(*(float(np.abs(value).max()) for value in values), 1e-9)
        norm = Normalize(0 if bounded else -most, most)
        for axes, value in zip(row, values, strict=True):
            image = axes.imshow(value, aspect="auto", cmap=SHARE if bounded else SIGNED, norm=norm, interpolation="nearest")
            style.dress(axes, y=name if axes is row[0] else "")
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=list(row), pad=0.01, aspect=10)
        bar.ax.tick_params(labelsize=style.NOTE)
    for axes, side in zip(grid[-1], SIDES, strict=False):
        style.name_ticks(axes, "x", shown, most=48 // len(directions), rotate=style.longest(shown) > 1)
        if len(directions) > 1:
            axes.set_xlabel(f"reads {side}", fontsize=style.LABEL, color=style.INK)
    which = f"layer 1 of {layers}; " if layers > 1 else ""
    each = " in each direction" if len(directions) > 1 else ""
    note = f"{which}{len(busiest[0])} of {first['state'].shape[1]} units{each}, a row each: those whose state varies most"
    style.headline(figure, _what_gates_do(directions), note)
    return style.finish(figure)


def gradient_by_distance(models: Mapping[str, Tensor]) -> Figure:
    """How much of the last state's gradient reaches an input, against how many steps back it is.

    Args:
        models: name → (T,) gradient norm at distance 0, 1 … T − 1.
    """
    figure = style.new_figure(4.2)
    axes = figure.add_subplot()
    for (name, norms), (colour, line) in zip(models.items(), LINES, strict=False):
        values = norms.double().numpy()
        alive = values > 0
        axes.plot(
            np.arange(len(values))[alive],
            values[alive],
            color=colour,
            linestyle=line,
            marker=style.marker(int(alive.sum())),
            linewidth=2,
            label=name,
        )
    axes.set_yscale("log")
    style.dress(axes, x="steps back in time", y="gradient norm at that input (L2)", grid="y")
    style.legend_below(figure)
    style.headline(figure, _how_far(models), "how far back the gradient of the last state is at least 1 % of its largest")
    return style.finish(figure)


def reach(norms: Tensor, share: float = 0.01) -> int | None:
    """The first distance from which on the gradient stays below `share` of its largest; None where it never does."""
    enough = (norms >= share * norms.max()).nonzero().flatten()
    place = int(enough[-1]) + 1
    return place if place < len(norms) else None


def moving_words(texts: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> Figure:
    """Texts with each word coloured by how much it spoke for (blue) or against (orange) what the model said.

    Words of a text that is read from right to left are laid out from the right.

    Args:
        texts: for each (what the model said, its words, how much each moved the decision).
    """
    broken = [_lines(words, values) for _, words, values in texts]
    rows = sum(len(lines) for lines in broken)
    figure = style.new_figure(0.9 + 0.32 * rows + 0.45 * len(texts))
    axes = figure.add_subplot()
    axes.set_axis_off()
    height = 0.32 * rows + 0.45 * len(texts)
    axes.set_xlim(0, style.WIDTH - 0.4)
    axes.set_ylim(height, 0)
    down = 0.2
    edge = style.WIDTH - 0.5
    for (title, words, values), lines in zip(texts, broken, strict=True):
        axes.text(0, down, title.replace("$", r"\$"), fontsize=style.TICK, color=style.GREY, va="center")
        most = max(max((abs(value) for value in values), default=0.0), 1e-12)
        mirrored = style.from_the_right(" ".join(words))
        for line in lines:
            down += 0.32
            along = 0.0
            for word, value in line:
                axes.text(
                    edge - along - 0.04 if mirrored else along + 0.04,
                    down,
                    word,
                    ha="right" if mirrored else "left",
                    fontsize=style.LABEL,
                    family="DejaVu Sans Mono",
                    color=style.INK if abs(value) < 0.85 * most else style.PAPER,
                    va="center",
                    bbox={"facecolor": SIGNED(0.5 + 0.5 * value / most), "edgecolor": "none", "pad": 1.5},
                )
                along += _width(word)
        down += 0.45
    strongest = max(((abs(value), visible(word)) for _, words, values in texts for word, value in zip(words, values, strict=True)))
    (named,) = style.short_names([strongest[1]], 24)
    style.headline(figure, f"“{named}” moved a decision most", "blue speaks for what the model said, orange against it")
    return style.finish(figure)


def _width(word: str) -> float:
    return LETTER * style.longest([word]) + 0.16


def _lines(words: Sequence[str], values: Sequence[float]) -> list[list[tuple[str, float]]]:
    """Words and their values, broken into lines that fit."""
    lines: list[list[tuple[str, float]]] = [[]]
    along = 0.0
    for word, value in zip(words, values, strict=True):
        shown = style.short_names([visible(word)], 24)[0]
        if lines[-1] and along + _width(shown) > style.WIDTH - 0.5:
            lines.append([])
            along = 0.0
        lines[-1].append((shown, value))
        along += _width(shown)
    return lines


def visible(word: str) -> str:
    """A token that can be seen: spaces and line ends as signs."""
    return {" ": "␣", "\n": "↵", "\t": "⇥"}.get(word, word.replace("▁", "_"))


def _what_gates_do(directions: Sequence[Mapping[str, Tensor]]) -> str:
    for name in ("forget", "update"):
        if name in directions[0]:
            kept = [f"{100 * float(gates[name].float().mean()):.0f} %" for gates in directions]
            how = f"{kept[0]} forwards and {kept[1]} backwards" if len(kept) > 1 else f"{kept[0]} of the state from step to step"
            return f"The {name} gate keeps {how}, in the mean"
    return "The state of a simple RNN is made anew at every step"


def _how_far(models: Mapping[str, Tensor]) -> str:
    reaches = {name: (reach(norms), len(norms)) for name, norms in models.items()}
    return "; ".join(f"{name} feels {f'{far} steps back' if far else f'all {count} steps'}" for name, (far, count) in reaches.items())
