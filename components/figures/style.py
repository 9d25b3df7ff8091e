"""One look for every picture: light, readable at 900 pixels wide, and the same without colour vision (palette: Okabe & Ito 2008).

Nothing here touches matplotlib's global settings or pyplot, so figures can be made in any thread and next to anyone else's plots.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Literal

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
INK, GREY, FAINT, PAPER = "#1f2328", "#57606a", "#d8dee4", "#ffffff"

WIDTH, DOTS = 7.5, 120
"""Inches and dots per inch: 900 pixels."""
TITLE, LABEL, TICK, NOTE = 13.0, 11.0, 10.0, 9.0
"""Font sizes in points."""

FEW_POINTS = 12
"""A line through no more points than this shows each of them, for a line through one cannot be seen."""

_LEFT_TO_RIGHT, _RIGHT_TO_LEFT, _END = "\u2066", "\u2067", "\u2069"
"""The marks of Unicode's bidirectional algorithm (UAX 9) around a text that is laid out on its own."""
_DIRECTIONS = dict.fromkeys(map(ord, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))

_OTHER_SCRIPTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Arial Unicode MS",
)


def new_figure(height: float) -> Figure:
    """An empty figure, 7.5 inches wide and `height` inches high, whose axes are laid out so that nothing overlaps."""
    return Figure(figsize=(WIDTH, height), dpi=DOTS, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1), facecolor=PAPER)


def dress(axes: Axes, *, x: str = "", y: str = "", grid: str | None = None) -> None:
    """Label the axes, keep the left and the lower spine only, and draw a faint grid along `grid` ("x", "y" or "both")."""
    axes.set_xlabel(x, fontsize=LABEL, color=INK)
    axes.set_ylabel(y, fontsize=LABEL, color=INK)
    axes.tick_params(labelsize=TICK, colors=GREY, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.8)  # type: ignore[arg-type]


TITLE_WIDTH = 76
"""Letters of a title that fit beside each other."""


def headline(figure: Figure, title: str, note: str = "") -> None:
    """What is seen, in words, above the whole figure; `note` in smaller letters above the first axes."""
    figure.suptitle("\n".join(lines(title, TITLE_WIDTH)), fontsize=TITLE, color=INK, x=0.02, ha="left")
    if note:
        figure.axes[0].set_title(note, fontsize=TICK, color=GREY, loc="left")


def legend_below(figure: Figure) -> None:
    """One row of keys under the figure for everything labelled in its axes, each label once."""
    keys = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(keys.values()), list(keys), loc="outside lower center", ncols=len(keys), frameon=False, fontsize=TICK)


def finish(figure: Figure) -> Figure:
    """The figure with every text in fonts for all scripts this machine has, and its layout settled. Call it last."""
    texts = figure.findobj(Text)
    if any(_is_foreign(letter) for text in texts for letter in text.get_text()):  # several fonts make every text a fifth slower
        families = list(_families())
        for text in texts:
            text.set_fontfamily(families)
        for axes in figure.axes:
            axes.tick_params(labelfontfamily=families)
    engine = figure.get_layout_engine()
    assert engine is not None
    for _ in range(2 if any(axes.get_aspect() != "auto" for axes in figure.axes) else 1):  # square axes settle at the second try
        engine.execute(figure)
    figure.set_layout_engine("none")  # else every draw, and saving draws twice, would lay everything out again
    return figure


def short_names(names: Sequence[str], longest: int = 18) -> list[str]:
    """Names as they can stand in a figure: one line, at most `longest` characters each, nothing taken for mathematics between dollars.

    Names with letters from right to left are `isolated`, whose marks are not seen and not counted. Names that are too long lose the same
    middle part, chosen so that as many as can be still differ.
    """
    names = ["".join(letter if letter.isprintable() else " " for letter in name) for name in names]

    def cut(head: int) -> list[str]:
        tail = longest - 1 - head
        return [name if len(name) <= longest else f"{name[:head]}…{name[len(name) - tail :]}" for name in names]

    shortest = max((cut(head) for head in range(longest - 1, -1, -1)), key=lambda cuts: len(set(cuts)))
    return [isolated(name.replace("$", r"\$")) for name in shortest]


def isolated(text: str) -> str:
    """A text that can stand in a sentence: where it has letters from right to left, marked so that it does not turn what is around it.

    Without the marks a sentence that begins with such a text is laid out from the right as a whole, and says something else.
    """
    text = text.translate(_DIRECTIONS)  # its own marks could end ours
    if not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text):
        return text
    return f"{_RIGHT_TO_LEFT if from_the_right(text) else _LEFT_TO_RIGHT}{text}{_END}"


def from_the_right(text: str) -> bool:
    """Whether a text is read from right to left: so is its first letter that has a direction."""
    kinds = (unicodedata.bidirectional(letter) for letter in text)
    return next((kind != "L" for kind in kinds if kind in ("L", "R", "AL")), False)


def lines(text: str, width: int, *, most: int | None = None) -> list[str]:
    """A text in lines of `width` characters, at most `most` of them; what is `isolated` is so in each line that has a part of it."""
    wrapped, begun = [], ""
    for line in textwrap.wrap(text, width, max_lines=most, placeholder=" …"):
        whole = begun + line
        begin = max(whole.rfind(_LEFT_TO_RIGHT), whole.rfind(_RIGHT_TO_LEFT))
        begun = whole[begin] if begin > whole.rfind(_END) else ""
        wrapped.append(whole + (_END if begun else ""))
    return wrapped


def longest(names: Sequence[str]) -> int:
    """How many letters of the longest name are seen."""
    return max(len(name.translate(_DIRECTIONS)) for name in names)


def marker(points: int) -> str:
    """What marks each point of a line through so many."""
    return "o" if points <= FEW_POINTS else ""


def thin(count: int, most: int) -> list[int]:
    """Evenly spaced places out of 0 … count−1, at most `most` of them, the first included: which ticks get a label."""
    step = -(-count // most)
    return list(range(0, count, step))


def percent(share: float) -> str:
    """0.0316 → "3.2 %"."""
    return f"{100 * share:.1f} %"


def times(count: int) -> str:
    """1 → "once", 2 → "twice", 6 → "six times", 62 → "62 times"."""
    words = ("never", "once", "twice", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    number = words[count] if count < len(words) else f"{count:,}"
    return number if count < 3 else f"{number} times"


def name_ticks(axes: Axes, which: Literal["x", "y"], names: Sequence[str], *, most: int, rotate: bool = False) -> None:
    """Put names at 0, 1, 2 … of an axis; of more than `most` names only every second, third … is shown."""
    places = thin(len(names), most)
    labels = [names[i] for i in places]
    if which == "x":
        axes.set_xticks(places, labels, rotation=90 if rotate else 0)
    else:
        axes.set_yticks(places, labels)


def _is_foreign(letter: str) -> bool:
    """Whether DejaVu Sans may lack it: neither Latin, Greek, Cyrillic, nor punctuation, arrows and symbols."""
    return letter > "\u052f" and not "\u2000" <= letter <= "\u27ff"


@cache
def _families() -> tuple[str, ...]:
    """DejaVu Sans, then what is installed for other scripts, then boxes that name the script rather than a warning for every letter."""
    installed = set(font_manager.fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed), "Last Resort High-Efficiency")
