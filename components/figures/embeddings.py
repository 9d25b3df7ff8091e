"""Texts as points: what lies near what."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from components.figures import style
from components.figures.sequences import visible
from components.metrics.similarity import copies, cosines, nearest, principal_components

COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE)
MARKS = ("o", "s", "^", "D", "v")
LETTERS = 88
"""Of a text the beginning is shown."""
BESIDE: dict[str, Any] = {"fontsize": style.LABEL, "xytext": (4, 4), "textcoords": "offset points"}
NAMED = 5
"""Texts that are named with their nearest neighbour, at most."""


def embedding_map(
    vectors: Tensor,
    texts: Sequence[str],
    *,
    groups: Sequence[int] | None = None,
    names: Sequence[str] = (),
    named: Sequence[int] = (),
    among: int = 0,
    copies_count: bool = False,
    title: str = "",
) -> Figure:
    """Texts in the plane of their vectors' first two principal components, some of them named with their nearest neighbour.

    Neighbours are those by cosine in all channels; a line that is long shows what the plane hides. A named text has a number, its neighbour
    the same with a prime.

    Args:
        vectors: (N, C), N at least 2.
        texts: N texts.
        groups: each text's group, 0, 1 …; None: all the same.
        names: of the groups.
        named: places of the texts to name; none: some, evenly spaced.
        among: the place from which on texts are neighbours.
        copies_count: whether a text that is there again may be its own neighbour, as where the vectors are not the texts' alone.
        title: what is seen, in words; empty: how many texts of a class have a neighbour of their own.
    """
    points, share = principal_components(vectors)
    but = torch.eye(len(texts)).bool() if copies_count else copies(texts, texts)
    but[:, :among] = True
    places, similarity = nearest(cosines(vectors, vectors), 1, but=but)
    chosen = list(named or range(0, len(texts), -(-len(texts) // NAMED)))[:NAMED]
    figure = style.new_figure(4.8 + 0.34 * len(chosen))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.6, 0.2 + 0.34 * len(chosen)]).flat
    axes = upper.add_subplot()
    kinds = list(groups) if groups is not None else [0] * len(texts)
    for group in sorted(set(kinds)):
        own = [place for place, kind in enumerate(kinds) if kind == group]
        colour, mark = COLOURS[group % len(COLOURS)], MARKS[group % len(MARKS)]
        label = names[group] if group < len(names) else None
        # A named text's own copies lie under it.
        above = max(3 - group, 1)
        axes.scatter(*points[own].T.tolist(), s=22, color=colour, marker=mark, alpha=0.6, linewidths=0, label=label, zorder=above)
    rows = []
    for number, place in enumerate(chosen, 1):
        rows.append(f"{number}   {_short(texts[place])}")
        axes.annotate(str(number), points[place].tolist(), **BESIDE)
        if not places.numel() or float(similarity[place, 0]) == -math.inf:  # it has none but copies
            continue
        other, cosine = int(places[place, 0]), float(similarity[place, 0])
        axes.plot(*points[[place, other]].T.tolist(), color=style.INK, linewidth=1)
        axes.annotate(f"{number}′", points[other].tolist(), **BESIDE)
        rows.append(f"{number}′  {_short(texts[other])}  ({cosine:.2f})")
    axes.set_xticks([])
    axes.set_yticks([])
    style.dress(axes, x=f"first component, {style.percent(float(share[0]))} of the variance", y=f"second, {style.percent(_second(share))}")
    lower.text(0.02, 0.98, "\n".join(rows), fontsize=style.NOTE, color=style.INK, va="top", family="DejaVu Sans Mono")
    if len(names) > 1 and groups is not None:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.09), ncols=len(names), frameon=False, fontsize=style.TICK)
    style.headline(figure, title or _what_neighbours_are(places, kinds, grouped=groups is not None and len(set(kinds)) > 1))
    return style.finish(figure)


def _second(share: Tensor) -> float:
    return float(share[1]) if len(share) > 1 else 0.0


def _short(text: str) -> str:
    shown = textwrap.shorten(" ".join(visible(word) for word in text.split()), LETTERS, placeholder="…")
    return style.isolated(shown.replace("$", r"\$"))


def _what_neighbours_are(places: Tensor, kinds: Sequence[int], *, grouped: bool) -> str:
    if not grouped:
        return f"{len(kinds)} texts, and the nearest of some"
    same = sum(kinds[int(other)] == kind for kind, other in zip(kinds, places[:, 0].tolist(), strict=True))
    return f"Of {len(kinds)} texts {100 * same / len(kinds):.0f} % have a nearest neighbour of their own class"
