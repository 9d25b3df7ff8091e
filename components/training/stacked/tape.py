"""One step of one trial, written down operation by operation, so that it can be repeated for many trials at once.

The model and the objective run once as they are, forward and backward, on a real batch; below autograd every operation is seen with its
tensors. What has been seen is all that a step ever does, as long as nothing in it depends on values: so what would depend on them
(a branch on a loss, a shape that follows from the data, a random number, a running statistic) is refused, with the reason.

No tracer of torch's is used: they import its compiler, which takes longer than the rest of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from components.activations import ACTIVATIONS
from components.protocols import Batch, Objective


class NotStackableError(ValueError):
    """Why a model's step cannot be repeated for many trials; reads on after "it cannot be stacked: "."""


@dataclass(frozen=True)
class Slot:
    """A tensor of the step, by number."""

    number: int


@dataclass(frozen=True)
class Call:
    """One operation: `results = operation(*arguments, **keywords)`, with slots in the tensors' places."""

    operation: OpOverload
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    results: Any


@dataclass
class Tape:
    """What happened, in order."""

    inputs: dict[str, Slot] = field(default_factory=dict)
    """What differs from step to step or from trial to trial."""
    constants: dict[int, Tensor] = field(default_factory=dict)
    """Tensors that were there before and are no input: the same in every step and trial."""
    calls: list[Call] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    """For each slot, the first one in the same memory: itself, or the one that it is a view of."""

    def new_bytes(self) -> int:
        """Memory that the operations' results take, each counted once."""
        made = {slot.number for call in self.calls for slot in slots(call.results)}
        return sum(self.shapes[n].numel() * self.dtypes[n].itemsize for n in made if self.roots[n] == n)


@dataclass(frozen=True)
class Step:
    """A training step on the tape."""

    tape: Tape
    loss: Slot
    gradients: dict[str, Slot]
    """Parameter name → its gradient; parameters that no loss depends on are absent."""
    activations: list[tuple[str, nn.Module, Slot]]
    """(name, module, output) of every call of an activation module."""
    masks: list[tuple[str, Slot]]
    """(name of the dropout module, what its input was multiplied with), in the order of the calls."""
    called: dict[str, int]
    """Module name → when it was first called."""


@dataclass(frozen=True)
class Forward:
    """A forward pass in evaluation mode on the tape: `outputs` is what the model returned, with slots in the tensors' places."""

    tape: Tape
    outputs: Any


def record_step(model: nn.Module, objective: Objective, batch: Batch) -> Step:
    """Write down loss and gradients of one batch. Inputs: `state/NAME` (parameters and buffers), `batch/KEY`, `mask/N`.

    Args:
        model: on the device and in the type that it is to train in; left in training mode.

    Raises:
        NotStackableError: the step depends on values, or the batch holds more than tensors.
    """
    for key, value in batch.items():
        if not isinstance(value, Tensor):
            raise NotStackableError(f"{key!r} in its batches is no tensor")
    model.train()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise NotStackableError("it has no trainable parameter")
    recorder = _Recorder()
    _give_state(recorder, model)
    for key, value in batch.items():
        recorder.give(f"batch/{key}", value)
    with torch.enable_grad(), _Watch(recorder, model) as watch, recorder:
        loss = objective.losses(model, batch)["loss"]
        if loss.ndim:
            raise NotStackableError(f"its loss has the shape {list(loss.shape)} and is no single number")
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return Step(
        tape=recorder.tape,
        loss=recorder.slot(loss),
        gradients={name: recorder.slot(gradient) for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None},
        activations=watch.activations,
        masks=watch.masks,
        called=watch.called,
    )


def record_forward(model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Forward:
    """Write down what the model says in evaluation mode. Inputs: `state/NAME`, and `given/N` for each tensor in order.

    Raises:
        NotStackableError: the pass depends on values.
    """
    model.eval()
    recorder = _Recorder()
    _give_state(recorder, model)
    for number, tensor in enumerate(tensors((arguments, keywords))):
        recorder.give(f"given/{number}", tensor)
    with torch.no_grad(), recorder:
        outputs = model(*arguments, **keywords)
    return Forward(recorder.tape, tree_map(recorder.slot_of, outputs))


def mapped(function: Callable[[Any], Any], items: Any) -> Any:
    """An operation's nested arguments or results with `function` of every leaf; torch's own `tree_map` takes several times as long."""
    if isinstance(items, tuple):
        return tuple(mapped(function, item) for item in items)
    if isinstance(items, list):
        return [mapped(function, item) for item in items]
    if isinstance(items, dict):
        return {key: mapped(function, item) for key, item in items.items()}
    return function(items)


def slots(values: Any) -> Iterator[Slot]:
    """The slots in nested tuples, lists and dicts."""
    return _leaves(values, Slot)


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return _leaves(values, Tensor)


def writes(operation: OpOverload) -> bool:
    """Whether an operation changes one of its arguments."""
    return bool(operation._schema.is_mutable)


def is_view(operation: OpOverload) -> bool:
    """Whether what an operation returns may be its argument's memory."""
    return any(result.alias_info is not None and not result.alias_info.is_write for result in operation._schema.returns)


def _leaves(values: Any, kind: type[Any]) -> Iterator[Any]:
    if isinstance(values, kind):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _leaves(value, kind)
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _leaves(value, kind)


def _give_state(recorder: _Recorder, model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        recorder.give(f"state/{name}", tensor)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd. Tensors are known by identity, so all of them are kept until the end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape()
        self.where: list[str] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Tensor] = []
        self._memory: dict[int, int] = {}
        self._paused = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what torch does here otherwise is to import its compiler

    def give(self, name: str, tensor: Tensor) -> Slot:
        """Make `tensor` an input."""
        slot = self.tape.inputs[name] = self._new(tensor)
        return slot

    def slot(self, tensor: Tensor) -> Slot:
        """The slot of a tensor; one never seen before is a constant."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._new(tensor).number
            self.tape.constants[number] = tensor.detach()
        return Slot(number)

    def slot_of(self, value: Any) -> Any:
        """The slot of a tensor, and anything else as it is."""
        return self.slot(value) if isinstance(value, Tensor) else value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not looking, for what is no part of the step."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(
        self, operation: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._paused:
            return operation(*args, **(kwargs or {}))
        self._refuse(operation, args, kwargs or {})
        arguments, keywords = mapped(self.slot_of, (args, dict(kwargs or {})))
        if (
            torch.Tag.inplace_view in operation.tags
        ):  # the same memory seen otherwise from now on: `x.transpose_()` is a new `x.transpose()`
            results = operation(*args, **(kwargs or {}))
            self.tape.calls.append(Call(_out_of_place(operation), arguments, keywords, self._new(results)))
            return results
        if writes(operation):
            self._refuse_change(operation, args, arguments)
        results = operation(*args, **(kwargs or {}))
        self.tape.calls.append(Call(operation, arguments, keywords, mapped(self._result_of, results)))
        return results

    def _result_of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return Slot(self._numbers[id(value)]) if id(value) in self._numbers else self._new(value)

    def _new(self, tensor: Tensor) -> Slot:
        number = len(self._kept)
        self._kept.append(tensor)
        self._numbers[id(tensor)] = number
        self.tape.shapes.append(tensor.shape)
        self.tape.dtypes.append(tensor.dtype)
        self.tape.roots.append(self._memory.setdefault(tensor.untyped_storage().data_ptr(), number) if tensor.numel() else number)
        return Slot(number)

    def _refuse(self, operation: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """What cannot be repeated for other values is said, with the layer it is in."""
        tags = operation.tags
        if torch.Tag.data_dependent_output in tags:
            raise NotStackableError(f"what it does depends on the values of its tensors{self._place()}")
        if torch.Tag.dynamic_output_shape in tags:
            raise NotStackableError(f"the shapes of its tensors depend on values{self._place()}, in {operation}")
        if torch.Tag.nondeterministic_seeded in tags and _dropout_of(operation, args, kwargs) != 0:
            raise NotStackableError(f"it draws random numbers elsewhere than in nn.Dropout{self._place()}, in {operation}")

    def _refuse_change(self, operation: OpOverload, args: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        """A tensor that was there before the step may not be changed by it."""
        before = {self.tape.roots[slot.number] for slot in self.tape.inputs.values()}
        before |= {self.tape.roots[number] for number in self.tape.constants}
        for argument, value, slot in zip(operation._schema.arguments, args, arguments, strict=False):
            changed = argument.alias_info is not None and argument.alias_info.is_write
            if changed and isinstance(value, Tensor) and self.tape.roots[slot.number] in before:
                raise NotStackableError(f"it changes a tensor that outlives the step{self._place()}, in {operation}")

    def _place(self) -> str:
        return f" (in {self.where[-1]})" if self.where and self.where[-1] else ""


def _out_of_place(operation: OpOverload) -> OpOverload:
    """`transpose` for `transpose_`."""
    packet = getattr(torch.ops.aten, operation._opname.removesuffix("_"))
    wanted = [str(argument.type) for argument in operation._schema.arguments]
    found: OpOverload = next(
        other
        for other in (getattr(packet, name) for name in packet.overloads())
        if [str(argument.type) for argument in other._schema.arguments] == wanted
    )
    return found


def _dropout_of(operation: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float | None:
    """The probability that an operation drops something with; None where it has no such argument."""
    for place, argument in enumerate(operation._schema.arguments):
        if argument.name == "dropout_p":
            return float(args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value))
    return None


class _Watch:
    """Follows the modules' calls, and puts a given mask in the place of what an nn.Dropout draws."""

    def __init__(self, recorder: _Recorder, model: nn.Module) -> None:
        self.recorder, self.model = recorder, model
        self.activations: list[tuple[str, nn.Module, Slot]] = []
        self.masks: list[tuple[str, Slot]] = []
        self.called: dict[str, int] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _Watch:
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._before(name)))
            self._handles.append(module.register_forward_hook(self._after(name)))
            if type(module) is nn.Dropout:
                module.eval()  # so that it draws nothing
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.model.train()

    def _before(self, name: str) -> Callable[..., None]:
        def enter(_module: nn.Module, _inputs: Any) -> None:
            self.called.setdefault(name, len(self.called))
            self.recorder.where.append(name)

        return enter

    def _after(self, name: str) -> Callable[..., Any]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> Any:
            self.recorder.where.pop()
            if isinstance(module, ACTIVATIONS):
                self.activations.append((name, module, self.recorder.slot(output)))
            if type(module) is nn.Dropout and module.p > 0:
                with self.recorder.paused():
                    mask = torch.ones_like(output, requires_grad=False)
                self.masks.append((name, self.recorder.give(f"mask/{len(self.masks)}", mask)))
                return inputs[0] * mask
            return None

        return leave
