"""Where a training stands, what a progress bar shows of it, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class State:
    """Where a training stands. All of it is in the checkpoint; everything else is derived."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already used."""
    step: int = 0
    """Optimizer steps done."""
    window: list[float] = field(default_factory=list)
    """Losses since the last point of the curve."""
    best_value: float | None = None
    best_step: int = 0
    best_epoch: int = 0
    stale_epochs: int = 0
    """Epochs since the best one."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    step: int
    total: int
    epoch: int
    epochs: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """The end of a training: the best weights by the monitored validation metric (the last ones where none is monitored)."""

    weights: dict[str, Tensor]
    state: State
    stopped_early: bool
