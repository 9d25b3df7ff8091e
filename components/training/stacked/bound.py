"""What trials of one architecture have in common, and a training step of theirs bound to a block's memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.optimizers import decays
from components.protocols import Batch, Objective
from components.training.device import to_device
from components.training.stacked.feed import feed
from components.training.stacked.masks import Masks
from components.training.stacked.program import Program
from components.training.stacked.repeated import Value
from components.training.stacked.tape import Forward, Step, record_forward, record_step, slots, tensors
from components.training.stacked.trials import Member, StackedTrial, repeatable


class Architecture:
    """The tapes of one architecture and objective, each recorded when it is first needed.

    Args:
        model: one of its models, on the device and in the type that all are to train in; it is copied.
        usual: a batch (B, …) like most of an epoch; the last one may be smaller.
    """

    def __init__(self, model: nn.Module, objective: Objective, usual: Batch) -> None:
        self.model, self.objective, self.usual = repeatable(model), objective, shapes(usual)
        self.decays = decays(model)
        self.asks_once = True
        """Whether the objective, as far as is known, calls the model exactly once for a batch's outcomes."""
        self._steps: dict[Any, Step] = {}
        self._forwards: dict[Any, Forward] = {}
        self._lock = threading.Lock()

    def step(self, batch: Batch) -> Step:
        """The training step of one trial on batches of this shape."""
        key = shapes(batch)
        with self._lock:
            if key not in self._steps:
                self._steps[key] = record_step(self.model, self.objective, batch)
            return self._steps[key]

    def forward(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Forward:
        """The forward pass of one trial in evaluation mode."""
        key = shapes(dict(enumerate(tensors((arguments, keywords)))))
        with self._lock:
            if key not in self._forwards:
                self._forwards[key] = record_forward(self.model, arguments, keywords)
            return self._forwards[key]


def architecture_of(trial: StackedTrial, device: torch.device) -> Architecture:
    """What a trial has in common with those like it; moves its model to the device."""
    usual = to_device(next(feed([trial.batches], [0], first=0))[0], device, trial.dtype)
    return Architecture(trial.model.to(device, trial.dtype), trial.objective, usual)


class BoundStep:
    """A training step bound to memory.

    Args:
        members: T trials of `architecture`.
        weights: parameters and buffers by name, (T, …) each.
        batch: one like those that will come: the same for all trials, or (T, B, …).
        one_for_all: which of the two.
    """

    def __init__(
        self, architecture: Architecture, members: Sequence[Member], weights: Mapping[str, Tensor], batch: Batch, *, one_for_all: bool
    ) -> None:
        single = batch if one_for_all else row_of(batch, 0)
        self.step = step = architecture.step(single)
        used = {slot.number for call in step.tape.calls for slot in slots((call.arguments, dict(call.keywords)))}
        self._inputs = {key: value.clone() for key, value in batch.items() if step.tape.inputs[f"batch/{key}"].number in used}
        self.masks = [
            Masks(
                place,
                step.tape.shapes[slot.number],
                [member.trial.seed for member in members],
                [_rate(member.trial.model, name) for member in members],
                ahead=shapes(single) == architecture.usual,  # these come step after step
                dtype=step.tape.dtypes[slot.number],
                device=next(iter(weights.values())).device,
            )
            for place, (name, slot) in enumerate(step.masks)
        ]
        for masks in self.masks:
            masks.load([member.state.step for member in members])
        given = {f"state/{name}": Value(tensor, stacked=True) for name, tensor in weights.items()}
        given |= {f"batch/{key}": Value(tensor, stacked=not one_for_all) for key, tensor in self._inputs.items()}
        given |= {f"mask/{masks.place}": Value(masks.now, stacked=True) for masks in self.masks}
        wanted = [step.loss, *step.gradients.values(), *(output for *_, output in step.activations)]
        self.program = Program(step.tape, len(members), given, wanted)
        self.losses = self.program.own(step.loss)

    def own_gradients(self) -> dict[str, Tensor]:
        """Memory of the program's own that holds the gradients by name, (T, …) each, after every run."""
        gradients: dict[str, Tensor] = {}
        for name, slot in self.step.gradients.items():
            gradients[name] = self.program.own(slot, apart_from=[self.losses, *gradients.values()])
        return gradients

    def give_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """From now on, put the gradients into this memory."""
        for name, slot in self.step.gradients.items():
            self.program.do(gradients[name].copy_, self.program.value(slot))

    def run(self, batch: Batch, steps: Sequence[int]) -> list[float]:
        """Compute every trial's loss, which is returned, and gradients; `steps` are the trials' own, from 0, for the masks."""
        for key, tensor in self._inputs.items():
            tensor.copy_(batch[key])
        for masks in self.masks:
            masks.load(steps)
        self.program.run()
        losses: list[float] = self.losses.tolist()
        return losses

    @property
    def bytes(self) -> int:
        """Memory beside weights and moments."""
        inputs: int = sum(tensor.nbytes for tensor in self._inputs.values())
        return self.program.bytes + inputs + sum(masks.bytes for masks in self.masks)


def shapes(batch: Mapping[Any, Tensor]) -> tuple[Any, ...]:
    """What of a batch a tape depends on."""
    return tuple((key, value.shape, value.dtype) for key, value in batch.items())


def row_of(batch: Batch, row: int) -> Batch:
    """One trial's batch of (T, B, …)."""
    return {key: value[row] for key, value in batch.items()}


def _rate(model: nn.Module, name: str) -> float:
    dropout = model.get_submodule(name)
    assert isinstance(dropout, nn.Dropout)
    return dropout.p
