"""A trial before, in and after a stack."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.errors import RunError
from components.protocols import Objective, Optimizer, Outcomes, Recorder, Schedule
from components.training.evaluation import BatchSource
from components.training.settings import Trainer
from components.training.state import State


@dataclass(frozen=True, kw_only=True)
class StackedTrial:
    """One trial: what `components.training.loop.fit` takes, as a value.

    Attributes:
        name: tells it from the others, also in the checkpoint.
        model: already initialised; like `fit`, a stack moves it to the device and leaves it with the last weights.
        batches: of the training split, with the trial's own seed.
        settings: `device`, `compile`, `threads` and `deterministic` are not used; of `checkpoint_seconds` the smallest of all trials' is.
        recorder: gets `train/*`, `validation/*`, `gradients/*` and `saturation/*` series, as from `fit`.
        seed: dropout's masks follow from it.
    """

    name: str
    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    batches: BatchSource
    settings: Trainer
    recorder: Recorder
    seed: int = 0

    @property
    def dtype(self) -> torch.dtype | None:
        """What its floating numbers are converted to; None leaves them."""
        return torch.float64 if self.settings.precision == "float64" else None


@dataclass(frozen=True)
class StackedFit:
    """The end of a trial.

    Attributes:
        weights: the best ones by the monitored validation metric (the last ones where none is monitored), on the CPU.
        stopped_early: it had no better epoch for `patience` epochs.
        pruned: `on_validation` said so.
        error: why it failed; None if it did not.
        outcomes: of every validation example under `weights`; None where nobody asked, or there are none.
    """

    name: str
    weights: dict[str, Tensor]
    state: State
    stopped_early: bool = False
    pruned: bool = False
    error: RunError | None = None
    outcomes: Outcomes | None = None


@dataclass
class Member:
    """A trial in progress. While it is in a block its numbers are rows of the block's; `weights` and `moments` are then views of them."""

    trial: StackedTrial
    steps_per_epoch: int
    weights: dict[str, Tensor]
    moments: dict[str, list[Tensor]] = field(default_factory=dict)
    state: State = field(default_factory=State)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights with the best validation metric so far; empty before there are any."""
    best_is_saved: bool = False
    validated: dict[str, float] | None = None
    """Metrics that nobody has been told of yet."""
    error: RunError | None = None

    @classmethod
    def of(cls, trial: StackedTrial, device: torch.device) -> Member:
        """A trial that has not begun."""
        model = trial.model.to(device, trial.dtype)
        return cls(trial, trial.batches.steps_per_epoch, {name: tensor.detach() for name, tensor in state_of(model)})

    @property
    def total(self) -> int:
        """Optimizer steps of the whole training."""
        steps = self.trial.settings.epochs * self.steps_per_epoch
        return min(steps, self.trial.settings.max_steps) if self.trial.settings.max_steps else steps

    @property
    def stopped_early(self) -> bool:
        """Whether its patience is over."""
        return bool(self.trial.settings.patience) and self.state.stale_epochs >= self.trial.settings.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.error is not None or self.stopped_early or (self.state.step >= self.total and not self.state.batch)

    def epochs_done(self) -> float:
        """Epochs, with fraction."""
        return self.state.epoch + self.state.batch / self.steps_per_epoch

    def steps_to_diagnosis(self) -> float:
        """Steps until the next look inside, that one included: every so many, and the very first."""
        every, step = self.trial.settings.diagnose_every, self.state.step
        if not every:
            return math.inf
        return 1 if step == 0 else every - step % every

    def steps_to_event(self) -> float:
        """Steps until there is something to say, that one included."""
        step = self.state.step
        log_every = self.trial.settings.log_every
        return min(self.steps_to_diagnosis(), log_every - step % log_every, self.total - step)

    def into_model(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The trial's own model with the given weights, or those that it has now."""
        with torch.no_grad():
            for name, tensor in state_of(self.trial.model):
                tensor.copy_((weights or self.weights)[name])
        return self.trial.model

    def validate(self, metrics: Mapping[str, float]) -> None:
        """Say how good the weights are, and keep them if they are the best so far."""
        state, (monitored, direction) = self.state, self.trial.objective.monitor
        self.validated = dict(metrics)
        self.trial.recorder.metrics(
            {f"validation/{name}": value for name, value in metrics.items()}, step=state.step, epoch=self.epochs_done()
        )
        value = metrics[monitored]
        if not math.isnan(value) and (
            state.best_value is None or (value > state.best_value if direction == "max" else value < state.best_value)
        ):
            state.best_value, state.best_step, state.best_epoch, state.stale_epochs = value, state.step, state.epoch, 0
            self.best, self.best_is_saved = {name: tensor.clone() for name, tensor in self.weights.items()}, False
        else:
            state.stale_epochs += 1

    def named_moments(self) -> dict[str, Tensor]:
        """What its rule remembers, by `slot/parameter's place`."""
        return {f"{slot}/{place}": row for slot, rows in self.moments.items() for place, row in enumerate(rows)}

    def remember(self, moments: Mapping[str, Tensor], device: torch.device) -> None:
        """What `named_moments` gave."""
        for slot, place in sorted((slot, int(place)) for slot, _, place in (name.partition("/") for name in moments)):
            self.moments.setdefault(slot, []).append(moments[f"{slot}/{place}"].to(device))

    def end(self, outcomes: Outcomes | None = None, *, pruned: bool = False) -> StackedFit:
        """What came of it; the trial's model is left with the last weights."""
        best = {name: tensor.detach().cpu().clone() for name, tensor in self.into_model(self.best).state_dict().items()}
        self.into_model()
        return StackedFit(self.trial.name, best, self.state, self.stopped_early, pruned, self.error, outcomes)


def repeatable(model: nn.Module) -> nn.Module:
    """A copy of a model, each of its modules in the form that can be repeated for many trials (`for_stacks`), where it has several."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if inspect.ismethod(change := getattr(module, "for_stacks", None)):
            change()
    return copied


def state_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """A model's parameters and buffers by name, tied ones once."""
    return [*model.named_parameters(), *model.named_buffers()]
