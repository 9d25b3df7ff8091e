"""Which trials can be trained as one program, and why others cannot."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from components.data.batches import Batches
from components.protocols import Batch, Objective
from components.training.device import AUTOCAST, to_device
from components.training.stacked.program import Program
from components.training.stacked.repeated import Value
from components.training.stacked.tape import NotStackableError, record_step
from components.training.stacked.trials import StackedTrial, repeatable, state_of
from components.training.stacked.updates import SLOTS


@dataclass(frozen=True)
class Groups:
    """Trials sorted by what they can share.

    Attributes:
        together: lists of trials that share a program, in the order in which their first ones came.
        alone: trials that cannot be stacked, each with the reason.
    """

    together: list[list[StackedTrial]]
    alone: list[tuple[StackedTrial, str]]


def group(trials: Sequence[StackedTrial]) -> Groups:
    """Sort trials by the program that they can share.

    Trials share a program if these are equal: the architecture (modules, their settings, shapes; dropout is dropout, whatever its
    probability above 0), the objective, the precision, the batches' shapes and number. Everything else may differ: initial weights, seed
    and so the order of the examples, the optimizer's rule and numbers, the schedule, the number of epochs, clipping, patience. Where
    batches are padded to the length of what is in them, the order has to be the same as well.
    """
    kinds: list[tuple[Any, StackedTrial, list[StackedTrial] | str]] = []
    alone: list[tuple[StackedTrial, str]] = []
    for trial in trials:
        if refused := _refused(trial):
            alone.append((trial, refused))
            continue
        kind = program_of(trial)
        known = next((found for key, _, found in kinds if key == kind), None)
        if known is None:
            known = can_stack(trial) or []
            kinds.append((kind, trial, known))
        if isinstance(known, str):
            alone.append((trial, known))
        else:
            known.append(trial)
    return Groups([found for _, _, found in kinds if not isinstance(found, str)], alone)


def program_of(trial: StackedTrial) -> tuple[Any, ...]:
    """What has to be equal for two trials to share a program."""
    batch = next(iter(trial.batches.epoch(0)))
    shapes = [(key, value.shape, value.dtype) if isinstance(value, Tensor) else key for key, value in batch.items()]
    source: tuple[Any, ...] = (trial.batches.steps_per_epoch, shapes)
    if isinstance(trial.batches, Batches) and trial.batches.split.lengths is not None:
        source += (id(trial.batches.split), trial.batches.seed)  # padded by what else is in the batch: only one order has one shape
    objective = (type(trial.objective), _plain(vars(trial.objective))) if hasattr(trial.objective, "__dict__") else trial.objective
    return _structure(trial.model), objective, trial.settings.precision, source


def can_stack(trial: StackedTrial) -> str | None:
    """Why a trial cannot be stacked, reading on after "it cannot be stacked: "; None if it can.

    Its step is recorded, repeated for two trials with other weights and another batch, and must come to the same as alone.
    """
    refused = _refused(trial)
    if refused is not None:
        return refused
    for name, module in trial.model.named_modules():
        if isinstance(module, _NormBase):
            return f"{name or 'it'} ({type(module).__name__}) uses statistics of the batch"
    model = repeatable(trial.model).to(dtype=trial.dtype)
    try:
        _must_agree(model, trial.objective, to_device(next(iter(trial.batches.epoch(0))), _device(model), trial.dtype))
    except NotStackableError as error:
        return str(error)
    return None


def _refused(trial: StackedTrial) -> str | None:
    """Why a trial cannot be stacked for what is its own and no part of its program."""
    settings = trial.settings
    if type(trial.optimizer) not in SLOTS:
        return f"{type(trial.optimizer).__name__} has no update rule for many trials"
    if settings.accumulate > 1:
        return "it accumulates gradients over several batches"
    if settings.precision in AUTOCAST:
        return f"it computes in {settings.precision}"
    return "its layers do not all learn at the same rate" if settings.frozen or settings.layer_decay != 1 else None


def _must_agree(model: nn.Module, objective: Objective, batch: Batch) -> None:
    """Raise NotStackableError unless two trials together come to what each of them comes to alone."""
    step = record_step(model, objective, batch)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    turned = {key: value.flip(0) for key, value in batch.items()}
    inputs = {key: torch.stack([value, value]) for key, value in batch.items()}
    states = [(name, torch.stack([one, two]).detach()) for (name, one), (_, two) in zip(state_of(model), state_of(other), strict=True)]
    given = {f"state/{name}": Value(tensor, stacked=True) for name, tensor in states}
    given |= {f"batch/{key}": Value(value, stacked=True) for key, value in inputs.items()}
    for place, (_, slot) in enumerate(step.masks):
        shape, dtype = step.tape.shapes[slot.number], step.tape.dtypes[slot.number]
        given[f"mask/{place}"] = Value(torch.ones(2, *shape, dtype=dtype, device=_device(model)), stacked=True)
    try:
        program = Program(step.tape, 2, given, [step.loss, *step.gradients.values()])
        for key, value in inputs.items():
            value[1].copy_(turned[key])
        program.run()
    except (RuntimeError, NotImplementedError) as error:
        raise NotStackableError(f"an operation cannot be repeated for many trials: {str(error).splitlines()[0]}") from error
    for row, (alone, examples) in enumerate(((model, batch), (other, turned))):
        found = [program.value(slot)[row] for slot in (step.loss, *step.gradients.values())]
        if not all(_close(*pair) for pair in zip(found, _alone(alone, objective, examples, list(step.gradients)), strict=True)):
            raise NotStackableError("repeated for other weights and another batch, its step comes to something else than alone")


def _alone(model: nn.Module, objective: Objective, batch: Batch, names: Sequence[str]) -> list[Tensor]:
    """Loss and gradients without dropout."""
    model.train()
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.eval()
    parameters = dict(model.named_parameters())
    loss = objective.losses(model, batch)["loss"]
    return [loss.detach(), *torch.autograd.grad(loss, [parameters[name] for name in names])]


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; what is not finite in both says nothing."""
    tolerance = 1e-9 if one.dtype == torch.float64 else 1e-3
    difference, size = torch.linalg.vector_norm(one - other), torch.linalg.vector_norm(other)
    return not bool(size.isfinite()) or bool(difference <= tolerance * size + torch.finfo(one.dtype).eps)


def _structure(model: nn.Module) -> tuple[Any, ...]:
    """All that tells one architecture from another."""
    modules = tuple((name, type(module), _settings_of(module)) for name, module in model.named_modules())
    return modules, tuple((name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in state_of(model))


def _settings_of(module: nn.Module) -> tuple[Any, ...]:
    own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    if type(module) is nn.Dropout:
        own["p"] = module.p > 0
    return tuple((key, _plain(value)) for key, value in own.items())


def _plain(value: Any) -> Any:
    """A value that two modules' settings can be compared by."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, tuple(value.flatten().tolist())
    if isinstance(value, nn.Module):
        return _structure(value)
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return tuple((key, _plain(item)) for key, item in value.items())
    return value


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in state_of(model)), torch.device("cpu"))
