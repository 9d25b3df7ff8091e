"""What a benchmark says: rows with a measured number, what it is compared with, and the goal."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured, in words.
        ours: our number, in `unit`.
        reference: what it is compared with, in `unit`; None where the number stands for itself.
        value: what the goal is about: a ratio or a difference.
        spread: the middle half of `value` over the repetitions (25 % and 75 % quantile).
        unit: of `ours` and `reference`.
        kind: `ratio` (×) or `seconds`.
        goal: the largest `value` that is good; None where nothing was promised.
    """

    what: str
    ours: float
    reference: float | None
    value: float
    spread: tuple[float, float]
    unit: str
    kind: str
    goal: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is reached; true where there is none."""
        return self.goal is None or self.value <= self.goal


def ratio(what: str, ours: Sequence[float], reference: Sequence[float], *, unit: str, scale: float = 1.0, goal: float | None = None) -> Row:
    """A row of `ours` over `reference`, measured in pairs one after the other: medians, and the median of the pairs' ratios."""
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    middle = (statistics.median(ours) * scale, statistics.median(reference) * scale)
    return Row(what, *middle, statistics.median(ratios), quartiles(ratios), unit, "ratio", goal)


def difference(what: str, ours: Sequence[float], reference: Sequence[float], *, goal: float | None = None) -> Row:
    """A row of `ours` minus `reference` in seconds, measured in pairs one after the other."""
    differences = [mine - theirs for mine, theirs in zip(ours, reference, strict=True)]
    middle = (statistics.median(ours), statistics.median(reference))
    return Row(what, *middle, statistics.median(differences), quartiles(differences), "s", "seconds", goal)


def seconds(what: str, measured: Sequence[float], *, goal: float | None = None) -> Row:
    """A row of seconds that stand for themselves."""
    middle = statistics.median(measured)
    return Row(what, middle, None, middle, quartiles(measured), "s", "seconds", goal)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The 25 % and the 75 % quantile; of one value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | ours | reference | | middle half | goal |", "|---|---|---|---|---|---|"]
    for row in rows:
        mark, digits = ("×", 3) if row.kind == "ratio" else (" s", 2)
        reference = "" if row.reference is None else f"{row.reference:.4g} {row.unit}"
        goal = "" if row.goal is None else f"≤ {row.goal:g}{mark}{'' if row.met else ' **missed**'}"
        spread = f"{row.spread[0]:.{digits}f} … {row.spread[1]:.{digits}f}"
        lines.append(f"| {row.what} | {row.ours:.4g} {row.unit} | {reference} | {row.value:.{digits}f}{mark} | {spread} | {goal} |")
    return "\n".join(lines)


def machine() -> str:
    """One line on when and where: date, processor, torch, and how busy the machine was already."""
    import torch

    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    now = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{now}, {_processor()}, {os.cpu_count()} cores, {versions}, load average {load}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def highest_memory() -> int:
    """Kilobytes of memory that this process has had at most; the system's `ru_maxrss` begins with what the parent had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
