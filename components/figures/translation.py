"""What a translation does: where the decoder looked for each word, and how good long sentences are."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from components.figures import style
from components.figures.sequences import LINES, SHARE, visible


def alignment(source: Sequence[str], target: Sequence[str], weights: Tensor) -> Figure:
    """The weights of attention: a row for each token written, a column for each token read; a row's sum is 1.

    Args:
        source: S tokens.
        target: T tokens.
        weights: (T, S).
    """
    read, wrote = (style.short_names([visible(token) for token in tokens], 14) for tokens in (source, target))
    figure = style.new_figure(1.9 + min(0.28 * len(target), 6.0))
    axes = figure.add_subplot()
    image = axes.imshow(weights.float().cpu().numpy(), cmap=SHARE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    style.dress(axes, x="read", y="written")
    axes.spines[:].set_visible(False)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    style.name_ticks(axes, "x", read, most=40, rotate=style.longest(read) > 2)
    style.name_ticks(axes, "y", wrote, most=40)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.set_label("weight", fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.NOTE)
    peak = weights.amax(1)
    surest = int(peak.argmax())
    seen = read[int(weights[surest].argmax())]
    style.headline(figure, f"It wrote “{wrote[surest]}” looking at “{seen}” ({100 * float(peak[surest]):.0f} % of the weight)")
    return style.finish(figure)


def cross_attention(source: Sequence[str], target: Sequence[str], weights: Tensor) -> Figure:
    """The weights of attention by layer (down) and head (across), as `alignment` shows their mean.

    Args:
        source: S tokens.
        target: T tokens.
        weights: (N, H, T, S).
    """
    layers, heads = weights.shape[:2]
    figure = style.new_figure(1.2 + 1.9 * layers)
    grid = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            axes.imshow(weights[layer, head].float().cpu().numpy(), cmap=SHARE, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            style.dress(axes)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(style.FAINT)
            axes.spines[:].set_visible(True)
            if layer == 0:
                axes.set_title(f"head {head + 1}", fontsize=style.TICK, color=style.INK)
            if head == 0:
                axes.set_ylabel(f"layer {layer + 1}", fontsize=style.TICK, color=style.INK)
    peak = weights.amax(-1).mean(-1)
    best = divmod(int(peak.argmax()), heads)
    read, wrote = (style.isolated(" ".join(visible(token) for token in tokens)) for tokens in (source, target))
    note = f"read (across): {read}\nwritten (down): {wrote}"
    figure.supxlabel(
        "\n".join(part for line in note.replace("$", r"\$").split("\n") for part in style.lines(line, 110)),
        fontsize=style.NOTE,
        color=style.GREY,
    )
    style.headline(
        figure,
        f"Head {best[1] + 1} of layer {best[0] + 1} looks most sharply: "
        f"{100 * float(peak.max()):.0f} % of its weight on one token, in the mean",
    )
    return style.finish(figure)


def score_by_length(models: Mapping[str, Sequence[tuple[int, int, int, float]]]) -> Figure:
    """BLEU of sentences of like length, a line for each model.

    Args:
        models: name → groups (shortest, longest, sentences, BLEU), of the same sentences for each model.
    """
    groups = next(iter(models.values()))
    places = np.arange(len(groups))
    figure = style.new_figure(4.2)
    axes = figure.add_subplot()
    for (name, found), (colour, line) in zip(models.items(), LINES, strict=False):
        axes.plot(places, [score for *_, score in found], color=colour, linestyle=line, marker="o", linewidth=2, label=name)
    labels = [f"{first}–{last}\n({count:,})" if first < last else f"{first}\n({count:,})" for first, last, count, _ in groups]
    axes.set_xticks(places, labels)
    axes.set_ylim(bottom=0)
    style.dress(axes, x="tokens of the source (sentences)", y="BLEU", grid="y")
    if len(models) > 1:
        style.legend_below(figure)
    style.headline(figure, _what_length_does(models))
    return style.finish(figure)


def _what_length_does(models: Mapping[str, Sequence[tuple[int, int, int, float]]]) -> str:
    parts = [f"{name} {found[0][3]:.1f} on the shortest, {found[-1][3]:.1f} on the longest" for name, found in models.items()]
    return "; ".join(parts)
