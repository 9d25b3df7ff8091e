"""Does a model that says 80 % turn out right in 80 % of cases? (Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, section 2.)

Examples are sorted by confidence (the probability of the predicted class) into M bins of equal width; bin m of 1 … M holds the
confidences in ((m−1)/M, m/M], and a confidence of exactly 0 goes into the first. The expected calibration error is the mean gap
between accuracy and confidence of the bins, each weighted with its number of examples; empty bins count nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """What each of M bins holds, from the least to the most confident."""

    counts: Tensor
    """(M,) int64 examples."""
    confidence: Tensor
    """(M,) float64 mean confidence in 0 … 1; NaN in an empty bin."""
    accuracy: Tensor
    """(M,) float64 share of right predictions in 0 … 1; NaN in an empty bin."""


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Counts, mean confidence and accuracy by bin of confidence.

    Args:
        confidence: (N,) probability of the predicted class, 0 … 1.
        correct: (N,) bool, whether the prediction is right.
        bins: M ≥ 1.

    Raises:
        ValueError: there is no example, or a confidence is outside 0 … 1 (rounding apart) or NaN.
    """
    if not len(confidence):
        raise ValueError("there are no examples to measure")
    confidence = confidence.double()
    if not bool(((confidence >= 0) & (confidence <= 1 + 1e-6)).all()):
        raise ValueError("a confidence is not a probability between 0 and 1")
    inner_edges = torch.arange(1, bins, dtype=torch.float64) / bins
    place = torch.bucketize(confidence, inner_edges)  # the left edge is open, the right one closed
    counts = torch.bincount(place, minlength=bins)
    return Reliability(
        counts=counts,
        confidence=torch.bincount(place, weights=confidence, minlength=bins) / counts,
        accuracy=torch.bincount(place, weights=correct.double(), minlength=bins) / counts,
    )


def expected_calibration_error(bins: Reliability) -> float:
    """ECE of `reliability`'s bins, 0 (as sure as it is right) … 1."""
    gaps = (bins.accuracy - bins.confidence).abs().nan_to_num(0.0)
    return ((bins.counts * gaps).sum() / bins.counts.sum()).item()
