"""Intervals and tests for differences between things that were tried under the same conditions.

Student's t over seeds speaks about chance: what another seed would have brought. The signed-rank test (Wilcoxon 1945) over combinations
speaks about combinations: in how many settings of everything else one thing is better than the other. Its estimate and interval are those
of Hodges and Lehmann (1963), which belong to this test: the median of all averages of two differences, and the averages between which no
shift would be refused. Corrected for many comparisons after Holm (1979), so that all words "beats" of a report together are wrong with a
probability of at most 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

ERROR = 0.05
"""Intervals cover with 1 − ERROR, and a report says "beats" wrongly at most this often."""
SEEDS_FOR_T = 3
"""With fewer seeds no statement about chance is made."""
MOST_EXACT = 50
"""Up to so many differences signs are counted exactly; above, the normal approximation is as good."""
MOST_LISTED = 200
"""Up to so many differences their averages are listed, which is quicker than to bisect for their ranks."""


@dataclass(frozen=True)
class Test:
    """What the differences say.

    Attributes:
        estimate: of the typical difference.
        interval: 95 %; None where the data allow none.
        p: two-sided, of no difference.
    """

    estimate: float
    interval: tuple[float, float] | None
    p: float


def t_interval(values: Floats) -> tuple[float, float] | None:
    """The 95 % interval of the mean of (n,) independent values; None for fewer than two."""
    return paired_t(values).interval if len(values) > 1 else None


def paired_t(differences: Floats) -> Test:
    """Student's t of (n,) differences, one a seed, n ≥ 2."""
    estimate, low, high, p = (float(each) for each in paired_t_rows(differences[None]).T[:, 0])
    return Test(estimate, (low, high) if np.isfinite([low, high]).all() else None, p)


def paired_t_rows(differences: Floats) -> Floats:
    """Student's t for each row of (rows, n) differences, NaN where one is missing.

    Differences that are all the same have no spread to judge by, as happens where accuracy is counted on few examples. The chance that they
    all point the same way, 2^(1−n), stands for p then.

    Returns: (rows, 4) of mean, ends of its 95 % interval, two-sided p (1 where there are fewer than two differences).
    """
    there = np.isfinite(differences)
    count = there.sum(1)
    with np.errstate(all="ignore"):
        mean = np.where(there, differences, 0.0).sum(1) / count
        spread = np.sqrt(np.where(there, (differences - mean[:, None]) ** 2, 0.0).sum(1) / (count - 1))
        error = spread / np.sqrt(count)
        reach = special.stdtrit(np.maximum(count - 1, 1), 1 - ERROR / 2) * error
        p = 2 * special.stdtr(np.maximum(count - 1, 1), -np.abs(mean / error))
        same = spread <= 1e-9 * np.abs(mean)
        p = np.where(same, np.where(mean == 0, 1.0, 2.0 ** (1.0 - count)), p)
        p = np.where((count < 2) | ~np.isfinite(p), 1.0, p)
        return np.stack([mean, mean - reach, mean + reach, p], axis=1)


def signed_rank(differences: Floats) -> Test:
    """Wilcoxon's test of (n,) differences, n ≥ 1; the interval needs six."""
    ordered = np.sort(differences)
    count = len(ordered)
    averages = count * (count + 1) // 2
    middle = [(averages + 1) // 2, averages // 2 + 1]
    end = _end_rank(count)
    ranks = [*middle, end, averages + 1 - end] if end else middle
    lower, upper, *ends = _averages(ordered, ranks)
    return Test((lower + upper) / 2, (ends[0], ends[1]) if ends else None, _signed_rank_p(ordered))


def holm(p: Sequence[float], *, family: int = 0) -> list[float]:
    """Holm's adjusted p for each; with `family` > len(p) as if there were so many tests in all, the others with larger p."""
    many = max(family, len(p))
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted = [1.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min((many - rank) * p[i], 1.0))
        adjusted[i] = largest
    return adjusted


def _signed_rank_p(differences: Floats) -> float:
    """Two-sided p; differences of exactly 0 say nothing and are left out."""
    known = differences[differences != 0]
    if not len(known):
        return 1.0
    if len(known) > MOST_EXACT:
        return float(stats.wilcoxon(known, method="asymptotic").pvalue)
    # Every assignment of signs is counted, ties and all. (SciPy tries them one by one, which takes it 0.8 s for thirteen tied differences.)
    size = np.abs(known)
    if len(np.unique(size)) == len(size):
        below = _cumulated(len(known))
        positive = int((np.argsort(np.argsort(size)) + 1)[known > 0].sum())
    else:
        ranks = np.rint(2 * stats.rankdata(size)).astype(int)
        below = np.cumsum(_sums(ranks))
        positive = int(ranks[known > 0].sum())
    return min(1.0, 2 * float(below[min(positive, len(below) - 1 - positive)]))


@cache
def _cumulated(count: int) -> Floats:
    """The probability of a sum of positive ranks up to 0, 1, 2 … of `count` differences without ties."""
    return np.cumsum(_sums(np.arange(1, count + 1)))


def _sums(ranks: npt.NDArray[np.int_]) -> Floats:
    """The probability of each sum of positive ranks, 0 … sum(ranks), when signs are heads and tails."""
    probability = np.zeros(int(ranks.sum()) + 1)
    probability[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(probability)
        shifted[rank:] = probability[: len(probability) - rank]
        probability = (probability + shifted) / 2
    return probability


@cache
def _end_rank(count: int) -> int:
    """The rank, from either end, of the averages at which the 95 % interval of `count` differences ends; 0 for fewer than six."""
    if count <= MOST_EXACT:
        return int((_cumulated(count) <= ERROR / 2).sum())
    spread = np.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return int(count * (count + 1) / 4 + special.ndtri(ERROR / 2) * spread) + 1


def _averages(ordered: Floats, ranks: Sequence[int]) -> list[float]:
    """The averages (x_i + x_j)/2, i ≤ j, of those ranks (from 1). Of many, their ranks are bisected instead of making all n² of them."""
    if len(ordered) <= MOST_LISTED:
        one, other = _pairs(len(ordered))
        places = np.array(ranks) - 1
        return [float(each) for each in np.partition(ordered[one] / 2 + ordered[other] / 2, places)[places]]
    low, high = np.full(len(ranks), ordered[0]), np.full(len(ranks), ordered[-1])
    for _ in range(45):
        guess = low / 2 + high / 2
        pairs = np.searchsorted(ordered, 2 * guess[:, None] - ordered, "right").sum(1)  # i before j and j before i, and i = j once
        reached = (pairs + np.searchsorted(ordered, guess, "right")) // 2 >= ranks
        low, high = np.where(reached, low, guess), np.where(reached, guess, high)
    return [_nearest_average(ordered, guess) for guess in high]


@cache
def _pairs(count: int) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    return np.triu_indices(count)


def _nearest_average(ordered: Floats, guess: Any) -> float:
    """The average next to what bisection came to, so that 0 is 0."""
    place = np.searchsorted(ordered, 2 * guess - ordered)
    partners = np.stack([ordered[np.clip(place + step, 0, len(ordered) - 1)] for step in (-1, 0, 1)])
    averages = (partners / 2 + ordered / 2).ravel()
    return float(averages[np.abs(averages - guess).argmin()])
