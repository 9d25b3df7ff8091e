"""The few shapes by which the parts of the lab know each other.

The way of the data: a `DataSet` is prepared once into a folder and opened as `Split`s; a split serves batches; an `Objective` turns
(model, batch) into losses, and for evaluation into outcomes, one row an example; metrics are computed from all outcomes together;
a `Recorder` takes what the training loop has to say. Nothing here knows a configuration, a server or a file format.

A **batch** is a plain dict. Its keys belong to the pair of data set and objective (images: `inputs` (B, C, H, W) float32 and
`targets` (B,) int64; text adds `lengths` or `mask`; detection has lists of variable-size tensors). Every batch also has `index`
(B,) int64: the examples' places in their split. Plain dicts are what `torch.func`, DDP and collation already understand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = dict[str, Any]
"""One batch: tensors whose first dimension is B, or lists of length B."""

Outcomes = dict[str, Any]
"""What happened to each example: tensors whose first dimension is B (on the CPU), or lists of length B. Always has `index`."""

Model = Callable[..., Any]
"""What an objective calls: an nn.Module, or the same computation with other parameters (torch.func)."""

ActivationFactory = Callable[[], nn.Module]
"""Makes one activation module; models call it once for every place that needs one."""


class Split(Protocol):
    """The examples of one split of a prepared data set, served as batches of any indices in any order."""

    @property
    def lengths(self) -> Tensor | None:
        """(N,) int64, the length of each example where batches should be bucketed by length; None where all are alike."""

    def __len__(self) -> int:
        """Number of examples."""

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The examples at `index` (B,) int64, in that order. `generator` drives augmentation; None means none (evaluation)."""


@runtime_checkable
class DataSet(Protocol):
    """A data set before it is prepared: where it comes from and everything that decides what is in it."""

    @property
    def name(self) -> str:
        """The data set's short name; also its folder's name."""

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the prepared content, as JSON values: the fingerprint is computed from it, before any work."""

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared files into the empty folder `into`; returns the data card (source, licence, counts, facts …)."""

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits (`train`, `validation`, `test`) of a prepared folder."""

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """Something new that a person gives (a file's path, or text) as a batch of one without targets, read by the data's `facts`.

        `truncated` (tokens there are, tokens read) is in the batch where not all of it is read.
        """


class Fetch(Protocol):
    """Brings a named source file to this machine, verified, and says where it is."""

    def __call__(self, source: Any) -> Path:
        """Local path of the verified file; raises DataError naming every place that was tried."""


class Objective(Protocol):
    """A kind of problem: its losses, its per-example outcomes, its metrics. Stateless, so it can be stacked, wrapped and shared.

    Where `loss` is not the mean over examples, `terms(batch)` says how many terms it is the mean of (tokens, say): several processes weight
    their shares of a batch by it.
    """

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The metric that decides what is best (without split prefix), and its direction: `("accuracy", "max")`."""

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of one batch; `loss` is the one to minimise, others are its parts."""

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """One row an example, on the CPU, without gradients: what `metrics` and `figures` need."""

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """What the model says about a batch of one, for a person, as JSON values."""

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """Named metrics of any set of examples (all batches' outcomes joined)."""

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:
        """Named figures that show what the model does on this split."""


class Recorder(Protocol):
    """Where the training loop says what happened. Calls return at once: no server is ever waited for."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Points of named series at an optimizer step (from 1) and the epoch, with fraction, at that step."""

    def figure(self, name: str, figure: Figure, *, step: int) -> None:
        """A picture; `name` is a path without suffix, such as `gradients/step-100`."""

    def flush(self) -> None:
        """Make everything said so far survive the death of this process; called before each checkpoint."""


class Optimizer(Protocol):
    """An optimizer's rule and numbers, before it meets parameters (a frozen dataclass; its fields are its hyperparameters)."""

    @property
    def learning_rate(self) -> float:
        """The rate that a schedule's factor multiplies."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters."""


class Schedule(Protocol):
    """A learning-rate schedule as a pure function, so that resuming it needs no state."""

    def factor(self, step: int, total: int) -> float:
        """What the learning rate is multiplied with at optimizer step `step` (from 0) of `total`."""


class Initializer(Protocol):
    """A rule that sets a module's weights."""

    def initialize(self, model: nn.Module, *, activation: nn.Module, generator: torch.Generator) -> Sequence[tuple[str, str]]:
        """Set every parameter of `model`; returns (parameter name, rule in words) for each, in order."""
