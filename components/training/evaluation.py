"""Every example's outcome under a model that learns nothing meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from components.protocols import Batch, Objective, Outcomes
from components.training.device import autocast, to_device


class BatchSource(Protocol):
    """Where batches come from: `components.data.batches.Batches`, or anything like it."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""

    def epoch(self, number: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` (from 0), beginning with batch `first`."""


def evaluate(model: nn.Module, objective: Objective, batches: BatchSource, *, device: torch.device, precision: str = "float32") -> Outcomes:
    """Every example's outcome, in the order of `batches`; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    dtype = torch.float64 if precision == "float64" else None
    try:
        with torch.no_grad(), autocast(device, precision):
            rows = [objective.outcomes(model, to_device(batch, device, dtype)) for batch in batches.epoch(0)]
    finally:
        model.train(training)
    return join(rows)


def join(rows: list[Outcomes]) -> Outcomes:
    """The outcomes of several batches as one: tensors concatenated along their first dimension, lists chained."""
    if not rows:
        return {}
    return {
        key: torch.cat([row[key] for row in rows]) if isinstance(first, Tensor) else [item for row in rows for item in row[key]]
        for key, first in rows[0].items()
    }
