"""What a model that answers questions is good at, and what it says."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from components.figures import style

COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)
HATCHES = ("", "//", "..", "xx")


def score_by_group(models: Mapping[str, Mapping[str, tuple[float, int]]], *, what: str, ordered: bool = False) -> Figure:
    """Mean F1 of questions of a kind, a bar for each model; how many they are stands beside the kind.

    Args:
        models: name → kind → (mean F1 in 0 … 1, questions). One without a name needs no key.
        what: what the kinds are of.
        ordered: whether kinds stand in their names' order; otherwise the most frequent first.
    """
    counts = {kind: count for found in models.values() for kind, (_, count) in found.items()}
    kinds = sorted(counts, key=lambda kind: (not kind[:1].isdigit(), kind) if ordered else (-counts[kind], kind))
    figure = style.new_figure(1.7 + (0.25 + 0.25 * len(models)) * len(kinds))
    axes = figure.add_subplot()
    thick = 0.8 / len(models)
    for number, ((name, found), colour, hatch) in enumerate(zip(models.items(), COLOURS, HATCHES, strict=False)):
        rows = np.arange(len(kinds)) - 0.4 + thick * (number + 0.5)
        values = [found.get(kind, (0.0, 0))[0] for kind in kinds]
        axes.barh(rows, values, height=0.92 * thick, color=colour, hatch=hatch, edgecolor=style.PAPER, linewidth=0, label=name or None)
        for row, value in zip(rows, values, strict=True):
            axes.text(value + 0.01, row, f"{value:.2f}", va="center", fontsize=style.NOTE, color=style.INK)
    style.dress(axes, x="F1 (mean, 0 … 1)", y=f"{what} (questions)", grid="x")
    axes.set_yticks(range(len(kinds)), [f"{style.isolated(kind)} ({counts[kind]:,})" for kind in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    if any(models):
        style.legend_below(figure)
    style.headline(figure, "; ".join(_extremes(name, found) for name, found in models.items()))
    return style.finish(figure)


def answers_table(rows: Sequence[tuple[str, Sequence[str], str, float]]) -> Figure:
    """A row a question: the question, the answer given, and what the model said: blue where it is right, light blue partly, orange not.

    Args:
        rows: question, answers given, what the model said, F1.
    """
    height = 0.62
    figure = style.new_figure(1.2 + height * len(rows))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.4, -1.0)
    columns = ((0.0, "question", 46), (0.47, "given", 24), (0.73, "the model's answer", 26))
    for place, name, _ in columns:
        axes.text(place, -0.75, name, fontsize=style.NOTE, color=style.GREY, va="center")
    for row, (question, given, said, f1) in enumerate(rows):
        colour = style.BLUE if f1 == 1 else "#cfe4f1" if f1 > 0 else "#f7d3bd"
        texts = (question, given[0] if given else "(none)", said or "(none)")
        for number, ((place, _, wide), text) in enumerate(zip(columns, texts, strict=True)):
            plain = "".join(letter if letter.isprintable() else " " for letter in text).replace("$", r"\$")
            lines = style.lines(style.isolated(plain), wide, most=2) or [""]
            ink = style.PAPER if number == 2 and f1 == 1 else style.INK
            written = axes.text(place, row, "\n".join(lines), fontsize=style.NOTE, color=ink, va="center")
            if number == 2:
                written.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 2.5})
    right = sum(f1 == 1 for *_, f1 in rows)
    style.headline(figure, f"{right} of {len(rows)} questions are answered as people did")
    return style.finish(figure)


def _extremes(name: str, found: Mapping[str, tuple[float, int]]) -> str:
    enough = {kind: score for kind, (score, count) in found.items() if count >= 5} or {kind: score for kind, (score, _) in found.items()}
    parts = []
    for where, kind in (("best", max(enough, key=lambda kind: enough[kind])), ("worst", min(enough, key=lambda kind: enough[kind]))):
        parts.append(f"{where} at “{style.isolated(kind)}” ({enough[kind]:.2f})")
    return f"{name + ': ' if name else ''}{', '.join(parts)}"
