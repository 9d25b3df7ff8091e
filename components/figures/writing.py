"""What a model writes: its summaries' scores beside the lead sentence's, and texts while it is still learning."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from components.figures import style

NAMES = {"rouge1": "ROUGE-1\nwords", "rouge2": "ROUGE-2\npairs of words", "rougeL": "ROUGE-L\nlongest common subsequence"}
LETTERS = 96
"""A line of a text that is shown."""
SHOWN_LETTERS = 280
"""Of a longer text the beginning is shown."""


def rouge_beside_lead(metrics: Mapping[str, float]) -> Figure:
    """ROUGE of the model and of the lead sentence, side by side.

    Args:
        metrics: `rouge1`, `rouge2`, `rougeL` and each with `lead_` in front, 0 … 100.
    """
    places = np.arange(len(NAMES))
    figure = style.new_figure(3.9)
    axes = figure.add_subplot()
    for offset, prefix, label, colour in ((-0.2, "", "the model", style.BLUE), (0.2, "lead_", "the lead sentence", style.ORANGE)):
        values = [metrics[f"{prefix}{name}"] for name in NAMES]
        axes.bar(places + offset, values, 0.38, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (place + offset, value),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=style.TICK,
                color=style.INK,
            )
    axes.set_xticks(places, list(NAMES.values()))
    style.dress(axes, y="F-measure, 0 … 100", grid="y")
    style.legend_below(figure)
    own, lead = metrics["rougeL"], metrics["lead_rougeL"]
    verdict = "above" if own > lead else "below" if own < lead else "equal to"
    style.headline(figure, f"ROUGE-L {own:.1f}, {verdict} the lead sentence's {lead:.1f}")
    return style.finish(figure)


def written_texts(rows: Sequence[tuple[str, str, str]]) -> Figure:
    """Texts that a model wrote, under what it read and above what a person wrote.

    Args:
        rows: for each (read, written, what a person wrote or "").
    """
    lines: list[tuple[str, str, str]] = []
    for read, written, reference in rows:
        told = (("read", read, style.GREY), ("wrote", written or "(nothing)", style.INK), ("person", reference, style.GREEN))
        for label, text, colour in told:
            shown = " ".join(text.split())
            shown = shown if len(shown) <= SHOWN_LETTERS else f"{shown[: SHOWN_LETTERS - 1]}…"
            for place, line in enumerate(style.lines(style.isolated(shown), LETTERS)):
                lines.append((label if place == 0 else "", line.replace("$", r"\$"), colour))
        lines.append(("", "", style.INK))
    height = 0.19 * len(lines)
    figure = style.new_figure(0.7 + height)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, style.WIDTH)
    axes.set_ylim(len(lines), 0)
    for place, (label, line, colour) in enumerate(lines):
        axes.text(0, place + 0.5, label, fontsize=style.NOTE, color=style.GREY, va="center")
        axes.text(0.62, place + 0.5, line, fontsize=style.NOTE, color=colour, va="center")
    style.headline(figure, "What the model writes now")
    return style.finish(figure)
