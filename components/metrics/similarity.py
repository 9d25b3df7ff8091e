"""How like each other vectors are, which are nearest to which, and how they lie in a plane.

Shapes: N vectors, M others, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(N, C) and (M, C) → (N, M) float64: the cosine of each pair's angle, −1 … 1; 0 for a vector without length."""
    return F.normalize(one.double(), dim=-1) @ F.normalize(other.double(), dim=-1).T


def nearest(similarity: Tensor, count: int, *, others_only: bool = False) -> tuple[Tensor, Tensor]:
    """The `count` most similar of each row, best first: places (N, k) and similarities (N, k), k at most what there is.

    Args:
        similarity: (N, M).
        count: k.
        others_only: N = M, and no row is its own neighbour.
    """
    if others_only:
        similarity = similarity.clone().fill_diagonal_(float("-inf"))
    found = similarity.topk(min(count, similarity.shape[1] - others_only), dim=1)
    return found.indices, found.values


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
