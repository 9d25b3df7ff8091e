"""What a sweep makes large or small, in words: its name, its unit, and as many digits as mean something."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

SHARES = ("accuracy", "f1", "precision", "recall", "calibration_error")
"""Metrics from 0 to 1 (also as `top5_accuracy`), which people read in per cent and compare in percentage points."""

NOT_NEGATIVE = ("loss", "nll", "squared_error", "absolute_error", "bits_per_character", "seconds", "parameters", "samples")
"""Metrics from 0 upwards (also as `baseline_squared_error`)."""

_SPELLED = {"f1": "F1", "nll": "NLL", "bleu": "BLEU", "iou": "IoU"}


@dataclass(frozen=True)
class Quantity:
    """A metric of a sweep.

    Attributes:
        metric: with its split, as MLflow has it.
        direction: what is better.
    """

    metric: str
    direction: str

    @property
    def name(self) -> str:
        """`validation/accuracy` → "accuracy"."""
        words = self.metric.rpartition("/")[2].replace("_", " ").split()
        return " ".join(_SPELLED.get(word, word) for word in words) or self.metric

    @property
    def split(self) -> str:
        """`validation/accuracy` → "validation"; "" for what belongs to no split (`seconds`)."""
        return self.metric.rpartition("/")[0]

    @property
    def scale(self) -> float:
        """What a value is multiplied with to be read: 100 for shares."""
        return 100.0 if self._is_one_of(SHARES) else 1.0

    @property
    def limits(self) -> tuple[float, float]:
        """Between which ends every value lies: 0 and 1 for shares, 0 and no end for losses and counts, none where nothing is known."""
        if self.scale == 100 or self._is_one_of(("exact_match",)):
            return 0.0, 1.0
        if self._is_one_of(("bleu", "chrf")):
            return 0.0, 100.0
        if self._is_one_of(("perplexity",)):
            return 1.0, math.inf
        return (0.0 if self._is_one_of(NOT_NEGATIVE) else -math.inf), math.inf

    @property
    def sign(self) -> float:
        """What makes a larger value a better one."""
        return 1.0 if self.direction == "max" else -1.0

    @property
    def axis(self) -> str:
        """For the axis of a figure whose values are multiplied with `scale`."""
        return f"{self.split} {self.name}".strip() + (" (%)" if self.scale == 100 else "")

    def value(self, value: float | None, decimals: int = 1) -> str:
        """0.9623 → "96.2 %" for a share, 0.123456 → "0.1235" for any other; None → "–". `decimals` are of a share."""
        if value is None:
            return "–"
        return f"{_fixed(100 * value, decimals)} %" if self.scale == 100 else f"{value:.4g}"

    def possible(self, interval: tuple[float, float]) -> tuple[float, float]:
        """The part of an interval where values can be: t does not know that accuracy ends at 1. Around impossible values it stays."""
        return _within(interval, self.limits)

    def interval(self, interval: tuple[float, float] | None, decimals: int | None = None) -> str:
        """An interval of a mean as `span` has it; "–" for a point: values that were alike are not certain."""
        return "–" if interval is None or is_point(interval) else self.span(interval, decimals)

    def span(self, interval: tuple[float, float] | None, decimals: int | None = None) -> str:
        """What values span: "[95.1, 97.0]", with the decimals that its width asks for where none are given; None → "–"."""
        if interval is None:
            return "–"
        low, high = (self.scale * end for end in self.possible(interval))
        if decimals is None:
            decimals = self.decimals([interval])
        return f"[{_fixed(low, decimals)}, {_fixed(high, decimals)}]"

    def decimals(self, intervals: Iterable[tuple[float, float] | None]) -> int:
        """Decimals that show the narrowest of the intervals; for shares one or two."""
        possible = [self.possible(each) for each in intervals if each is not None and not is_point(each)]
        widths = [self.scale * (high - low) for low, high in possible]
        needed = max((_decimals(width) for width in widths if width > 0), default=1 if self.scale == 100 else 3)
        return min(max(needed, 1), 2) if self.scale == 100 else needed

    def lead(self, difference: float, interval: tuple[float, float] | None, *, unit: bool = True) -> str:
        """How much better: "2.1 points of accuracy [1.2, 3.0]", "0.12 of loss [0.05, 0.19]"; without its unit "2.1 [1.2, 3.0]".

        An interval that is a point is left out.
        """
        if interval is not None and is_point(interval):
            interval = None
        reach = self.limits[1] - self.limits[0]
        low, high = (self.scale * end for end in _within(interval or (difference, difference), (-reach, reach)))
        scaled = self.scale * difference
        digits = _decimals(high - low) if high > low else _decimals(abs(scaled))
        span = f" [{_fixed(low, digits)}, {_fixed(high, digits)}]" if interval else ""
        return f"{_fixed(scaled, digits)}{f' {self._unit}' if unit else ''}{span}"

    def _is_one_of(self, metrics: Iterable[str]) -> bool:
        last = self.metric.rpartition("/")[2]
        return any(last == metric or last.endswith(f"_{metric}") for metric in metrics)

    @property
    def _unit(self) -> str:
        if self.scale == 100:
            return f"points of {self.name}"
        return {"seconds": "s", "parameters": "parameters"}.get(self.name, f"of {self.name}")


def is_point(interval: tuple[float, float]) -> bool:
    """Whether nothing but rounding is between the ends: all values were the same."""
    low, high = interval
    return high - low <= 1e-9 * abs(low / 2 + high / 2)


def _within(interval: tuple[float, float], limits: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not limits[0] <= low / 2 + high / 2 <= limits[1]:
        return interval
    return max(low, limits[0]), min(high, limits[1])


def _decimals(width: float) -> int:
    """Decimals that show two digits of `width`, at most 8."""
    if not math.isfinite(width) or width <= 0:
        return 3
    return min(max(1 - math.floor(math.log10(width)), 0), 8)


def _fixed(number: float, decimals: int) -> str:
    if abs(number) >= 1e6 or (number and abs(number) < 1e-6):
        return f"{number:.3g}"
    text = f"{number:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text
