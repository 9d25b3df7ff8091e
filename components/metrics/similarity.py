"""How like each other vectors are, which are nearest to which, and how they lie in a plane.

Shapes: N vectors, M others, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(N, C) and (M, C) → (N, M) float64: the cosine of each pair's angle, −1 … 1; 0 for a vector without length."""
    return F.normalize(one.double(), dim=-1) @ F.normalize(other.double(), dim=-1).T


def nearest(similarity: Tensor, count: int, *, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The `count` most similar of each row, best first: places (N, k) and similarities (N, k), k at most what there is for some row.

    Args:
        similarity: (N, M).
        count: k.
        but: (N, M) bool, what is no neighbour: a row itself, its copies. A row that has too few neighbours ends with similarities of −∞.
    """
    most = similarity.shape[1]
    if but is not None:
        similarity = similarity.masked_fill(but, float("-inf"))
        most = int((~but).sum(1).max())
    found = similarity.topk(min(count, most), dim=1)
    return found.indices, found.values


def copies(texts: Sequence[str], others: Sequence[str]) -> Tensor:
    """(N, M) bool: which of the others are the same text."""
    numbers = {text: number for number, text in enumerate({*texts, *others})}
    one, other = (torch.tensor([numbers[text] for text in some]) for some in (texts, others))
    return one.unsqueeze(1) == other


def principal_components(vectors: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """Principal component analysis (Pearson 1901): vectors (N, C) → coordinates (N, k), and the share of the variance on each axis (k,).

    An axis points where its largest coordinate is positive, so that the same vectors always give the same picture.
    """
    centred = vectors.double() - vectors.double().mean(0)
    _, strength, axes = torch.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:count].T
    turned = found.gather(0, found.abs().argmax(0, keepdim=True)).sign()
    variance = strength.square()
    return found * torch.where(turned == 0, 1.0, turned), variance[:count] / variance.sum().clamp(min=1e-300)
