"""What a model that answers questions is good at, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from components.figures import style

COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)
HATCHES = ("", "//", "..", "xx")
AS_PEOPLE, PARTLY, OTHERWISE = style.BLUE, "#cfe4f1", "#f7d3bd"
KEYS = {"as people did": AS_PEOPLE, "some of the words": PARTLY, "none of them": OTHERWISE}
SHOWN_CONTEXT = 100
"""Characters of a context."""


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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and what became of it.

    Attributes:
        question: as it was asked.
        context: the text that it is about; may be empty.
        given: the answers of people; none where there is none.
        said: what the model said; empty for nothing.
        f1: 0 … 1.
    """

    question: str
    context: str
    given: Sequence[str]
    said: str
    f1: float


def answers_table(rows: Sequence[Asked]) -> Figure:
    """A row a question: the question, the answer given, what the model said, and below them the context around the answer."""
    figure = style.new_figure(1.6 + 0.86 * len(rows))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.4, -0.9)
    columns = ((0.0, "question", 46), (0.47, "given", 24), (0.73, "the model's answer", 26))
    for place, name, _ in columns:
        axes.text(place, -0.7, name, fontsize=style.NOTE, color=style.GREY, va="center")
    for row, asked in enumerate(rows):
        colour = AS_PEOPLE if asked.f1 == 1 else PARTLY if asked.f1 > 0 else OTHERWISE
        texts = (asked.question, asked.given[0] if asked.given else "(none)", asked.said or "(none)")
        for number, ((place, _, wide), text) in enumerate(zip(columns, texts, strict=True)):
            lines = style.lines(style.isolated(shortened(_plain(text), int(1.8 * wide))), wide, most=2) or [""]
            ink = style.PAPER if number == 2 and asked.f1 == 1 else style.INK
            written = axes.text(place, row - 0.12, "\n".join(lines), fontsize=style.NOTE, color=ink, va="center")
            if number == 2:
                written.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 2.5})
        around_it = around(_plain(asked.context), _plain(asked.given[0] if asked.given else asked.said), SHOWN_CONTEXT)
        axes.text(0, row + 0.3, style.isolated(around_it), fontsize=style.NOTE, color=style.GREY, va="center")
    for written in axes.texts:
        written.set_in_layout(False)  # their places are fixed; a long one would make the columns narrower
    keys = [Patch(facecolor=colour, label=name) for name, colour in KEYS.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=style.TICK)
    right = sum(asked.f1 == 1 for asked in rows)
    style.headline(figure, f"{right} of {len(rows)} questions are answered as people did")
    return style.finish(figure)


def shortened(text: str, most: int) -> str:
    """At most `most` characters of a text: its beginning and its end."""
    if len(text) <= most:
        return text
    head, tail = text[: (most - 3) // 2], text[len(text) - (most - 2) // 2 :]
    return f"{head.rpartition(' ')[0] or head} … {tail.partition(' ')[2] or tail}"


def around(context: str, answer: str, most: int) -> str:
    """At most `most` characters of a context, the answer in the middle of them where it stands there."""
    if len(context) <= most:
        return context
    begin = max(context.find(answer), 0)
    first = min(max(begin - max(most - len(answer), 0) // 2, 0), len(context) - most)
    shown = context[first : first + most]
    if first > 0:
        shown = f"… {shown[2:].partition(' ')[2] or shown[2:]}"
    if first + most < len(context):
        shown = f"{shown[:-2].rpartition(' ')[0] or shown[:-2]} …"
    return shown


def _plain(text: str) -> str:
    """A text as it can stand in a figure: one line, nothing taken for mathematics between dollars."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).replace("$", r"\$")


def _extremes(name: str, found: Mapping[str, tuple[float, int]]) -> str:
    enough = {kind: score for kind, (score, count) in found.items() if count >= 5} or {kind: score for kind, (score, _) in found.items()}
    parts = []
    for where, kind in (("best", max(enough, key=lambda kind: enough[kind])), ("worst", min(enough, key=lambda kind: enough[kind]))):
        parts.append(f"{where} at “{style.isolated(kind)}” ({enough[kind]:.2f})")
    return f"{name + ': ' if name else ''}{', '.join(parts)}"
