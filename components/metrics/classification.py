"""How good a classification is: accuracy, precision, recall, F1, from the class given and the class predicted.

Legend: N examples, C classes. All results are computed in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassScores(NamedTuple):
    """Each (C,) float64 in 0 … 1."""

    precision: Tensor
    """Of the examples taken for this class, the share that is of it; 0 where none is."""
    recall: Tensor
    """Of the examples of this class, the share found; 0 where there is none."""
    f1: Tensor
    """Harmonic mean of both, 2·hits / (given + predicted); 0 where the class is neither given nor predicted."""


def accuracy(targets: Tensor, predictions: Tensor) -> float:
    """Share of examples whose predicted class is the given one.

    Args:
        targets, predictions: (N,) class numbers.

    Raises:
        ValueError: there is no example.
    """
    _need_examples(targets)
    return (targets == predictions).double().mean().item()


def confusion_matrix(targets: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """(C, C) int64 counts: the row is the class given, the column the class predicted (scikit-learn's convention).

    Args:
        targets, predictions: (N,) int64 in 0 … C−1; N may be 0.
        classes: C ≥ 1.

    Raises:
        ValueError: a class number is outside 0 … C−1.
    """
    for name, numbers in (("target", targets), ("prediction", predictions)):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise ValueError(f"a {name} is outside 0 … {classes - 1}: they go from {int(numbers.min())} to {int(numbers.max())}")
    return torch.bincount(targets * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def class_scores(matrix: Tensor) -> ClassScores:
    """Precision, recall and F1 of every class of a confusion matrix (C, C); 0 where undefined (scikit-learn's `zero_division=0`)."""
    hits = matrix.diagonal().double()
    given, predicted = matrix.sum(dim=1).double(), matrix.sum(dim=0).double()
    # Where a denominator is 0 the hits are 0 as well, so dividing by 1 gives the 0 that is asked for.
    return ClassScores(
        precision=hits / predicted.clamp_min(1),
        recall=hits / given.clamp_min(1),
        f1=2 * hits / (given + predicted).clamp_min(1),
    )


def macro_f1(matrix: Tensor) -> float:
    """Mean F1 over the classes that are given or predicted at least once, each counting the same.

    A class that occurs in neither is left out rather than counted as 0, so a small split without a rare class can still reach 1; a
    class that is predicted but never given counts as 0. The same as `sklearn.metrics.f1_score(average="macro", zero_division=0)`.

    Args:
        matrix: (C, C) confusion matrix.

    Raises:
        ValueError: the matrix counts no example.
    """
    occurs = (matrix.sum(dim=0) + matrix.sum(dim=1)) > 0
    _need_examples(occurs.nonzero())
    return class_scores(matrix).f1[occurs].mean().item()


def _need_examples(rows: Tensor) -> None:
    if not len(rows):
        raise ValueError("there are no examples to measure")
