"""What detecting takes: medians over pictures, and the middle half of them, which says how far two medians can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spent:
    """What pictures took one detector, in milliseconds a picture.

    Attributes:
        median: of the whole.
        low: a quarter of the pictures took no longer.
        high: a quarter took no less.
        phases: the median of each phase; they need not add up to that of the whole.
    """

    median: float
    low: float
    high: float
    phases: Mapping[str, float]

    @classmethod
    def of(cls, pictures: Sequence[Mapping[str, float]]) -> Spent:
        """From the seconds of each phase, picture by picture."""
        low, median, high = (1000 * np.percentile([sum(each.values()) for each in pictures], [25, 50, 75])).tolist()
        named = dict.fromkeys(phase for each in pictures for phase in each)
        return cls(median, low, high, {phase: 1000 * float(np.median([each.get(phase, 0.0) for each in pictures])) for phase in named})
