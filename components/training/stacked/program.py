"""A tape bound to the memory of T trials: the same step, for all of them at once.

Every tensor of the tape that differs between trials gets a dimension T in front and a place in memory of its own, once; so what is a view
costs nothing at run time, and running the program is calling a list of operations that write where the last step wrote.
How an operation is done for T trials, in this order:

- by a rule of `operations.py` (matrix products, softmax and the other costly ones);
- element by element, where it is (shapes are lined up, and torch's own kernel runs once over all trials);
- by `torch.func.vmap`;
- one trial after the other, where vmap has no rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from types import BuiltinFunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from components.training.stacked.operations import RULES
from components.training.stacked.tape import Call, NotStackable, Slot, Tape, is_view, slots, tensors, writes

SHAPE_ONLY = {"ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
"""Operations that look at a tensor's shape and not at its numbers."""


class Value(NamedTuple):
    """What a slot is bound to."""

    tensor: Tensor
    """(T, …) where stacked, else as on the tape."""
    stacked: bool
    constant: bool = False
    """Whether no step changes it."""


class Program:
    """Runs a tape for `trials` trials.

    Args:
        tape: what to run.
        trials: T.
        given: the tape's inputs by name. Binding runs the step once on what is in them; after that, whoever fills them calls `run`.
        wanted: the slots whose values are read after a run.

    Raises:
        NotStackable: an operation cannot be repeated for many trials.
    """

    def __init__(self, tape: Tape, trials: int, given: Mapping[str, Value], wanted: Iterable[Slot]) -> None:
        self.trials = trials
        self.bytes = 0
        self._operations: list[Callable[[], Any]] = []
        self._values: dict[int, Value] = {slot.number: given[name] for name, slot in tape.inputs.items() if name in given}
        self._values |= {number: Value(tensor, stacked=False, constant=True) for number, tensor in tape.constants.items()}
        self._free: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        self._taken: list[Tensor] = []
        self._dtypes, self._roots = tape.dtypes, tape.roots
        self._written = {tape.roots[slot.number] for call in tape.calls if writes(call.operation) for slot in slots(call.results)}
        dying = _deaths(tape, {tape.roots[slot.number] for slot in wanted})
        with torch.no_grad():
            for place, call in enumerate(tape.calls):
                self._taken = []
                self._bind(call)
                dying[place].own(self._taken)
                for buffers in dying[place].released():
                    self._give_back(buffers)
        self._free.clear()

    def run(self) -> None:
        """One step on what is in the inputs now."""
        for operation in self._operations:
            operation()

    def value(self, slot: Slot) -> Value:
        """What a wanted slot is bound to."""
        return self._values[slot.number]

    def stacked(self, value: Value) -> Tensor:
        """(T, …) of a value that may be the same for all trials (then without memory of its own)."""
        return value.tensor if value.stacked else value.tensor.expand(self.trials, *value.tensor.shape)

    def own(self, slot: Slot, *, apart_from: Iterable[Tensor] = ()) -> Tensor:
        """(T, …) contiguous memory that holds a wanted slot's value after every run, and nothing else that is listed."""
        value = self.value(slot)
        taken = {tensor.untyped_storage().data_ptr() for tensor in apart_from}
        tensor = value.tensor
        if value.stacked and not value.constant and tensor.is_contiguous() and tensor.untyped_storage().data_ptr() not in taken:
            return tensor
        return self.copy(self.stacked(value))

    # ------------------------------------------------------------------ for the rules

    def emit(self, function: Callable[..., Tensor], *arguments: Any, writer: Callable[..., Any] | None = None, **keywords: Any) -> Tensor:
        """Add an operation that (or whose other form, `writer`) takes an `out`; returns where it will write."""
        buffer = self._keep(function(*arguments, **keywords))
        self._operations.append(partial(writer or function, *arguments, **keywords, out=buffer))
        return buffer

    def do(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Add an operation that changes its arguments."""
        function(*arguments, **keywords)
        self._operations.append(partial(function, *arguments, **keywords))

    def copy(self, tensor: Tensor) -> Tensor:
        """Add a copy into contiguous memory."""
        buffer = self._keep(tensor.clone(memory_format=torch.contiguous_format))
        self._operations.append(partial(buffer.copy_, tensor))
        return buffer

    def zeros(self, like: Tensor) -> Tensor:
        """Add contiguous memory of a tensor's shape that is set to 0."""
        buffer = self._keep(torch.zeros_like(like, memory_format=torch.contiguous_format))
        self._operations.append(buffer.zero_)
        return buffer

    def each(self, operation: OpOverload, arguments: Any, keywords: Any) -> Any:
        """Add an operation trial by trial; arguments hold values."""
        return self._refreshed(partial(_one_by_one, operation, arguments, keywords, self.trials))

    # ------------------------------------------------------------------ binding

    def _bind(self, call: Call) -> None:
        operation = call.operation
        arguments, keywords = tree_map(
            lambda item: self._values[item.number] if isinstance(item, Slot) else item, (call.arguments, dict(call.keywords))
        )
        values = list(_values_in((arguments, keywords)))
        stacked = any(value.stacked for value in values)
        if writes(operation):
            self._change(operation, arguments, keywords, call)
            return
        if is_view(operation):
            results, constant = self._view(operation, arguments, keywords), all(value.constant for value in values)
        elif operation._opname in SHAPE_ONLY or all(value.constant for value in values):
            results, constant = self._once(operation, arguments, keywords, call)
            stacked = stacked or not constant
        else:
            results, constant = (
                (self._compute(operation, arguments, keywords, call) if stacked else self._plain(operation, arguments, keywords)),
                False,
            )
        self._set(call.results, results, stacked=stacked, constant=constant)

    def _set(self, where: Any, results: Any, *, stacked: bool, constant: bool) -> None:
        if isinstance(where, Slot):
            self._values[where.number] = Value(results, stacked, constant)
        elif isinstance(where, tuple | list):
            for slot, result in zip(where, results, strict=True):
                self._set(slot, result, stacked=stacked, constant=constant)

    def _once(self, operation: OpOverload, arguments: Any, keywords: Any, call: Call) -> tuple[Any, bool]:
        """What no step changes is computed now; what later operations write into is put back every time, for each trial its own."""
        results = _vmapped(operation, arguments, keywords, self.trials)()
        stacked = any(value.stacked for value in _values_in((arguments, keywords)))
        if not any(self._roots[slot.number] in self._written for slot in slots(call.results)):
            self.bytes += sum(tensor.nbytes for tensor in tensors(results))
            return results, True
        fresh = tree_map(lambda tensor: self.copy(tensor if stacked else tensor.expand(self.trials, *tensor.shape)), results)
        return fresh, False

    def _view(self, operation: OpOverload, arguments: Any, keywords: Any) -> Any:
        """A view of memory that stays where it is costs nothing later; where no view is possible, a copy is made every time."""
        before = {value.tensor.untyped_storage().data_ptr() for value in _values_in((arguments, keywords))}
        compute = _vmapped(operation, arguments, keywords, self.trials)
        try:
            results = compute()
        except RuntimeError:  # a layout that this view cannot be had of
            (value,) = _values_in((arguments, keywords))
            copied = Value(self.copy(value.tensor), value.stacked)
            arguments, keywords = tree_map(lambda item: copied if item is value else item, (arguments, keywords), is_leaf=_is_value)
            return self._view(operation, arguments, keywords)
        if all(not tensor.numel() or tensor.untyped_storage().data_ptr() in before for tensor in tensors(results)):
            return results
        return self._refreshed(compute)

    def _change(self, operation: OpOverload, arguments: Any, keywords: Any, call: Call) -> None:
        changed = arguments[0]
        others = list(_values_in((arguments[1:], keywords)))
        if changed.constant or (not changed.stacked and any(value.stacked for value in others)):
            raise NotStackable(f"it changes a tensor in place that is the same for all trials, in {operation}")
        if torch.Tag.pointwise in operation.tags or operation._opname == "copy_":
            lined_up, words = _lined_up(arguments, keywords)
            self.do(operation, *lined_up, **words)
        else:
            self.do(_vmapped(operation, arguments, keywords, self.trials))
        self._set(call.results, changed.tensor, stacked=changed.stacked, constant=False)

    def _plain(self, operation: OpOverload, arguments: Any, keywords: Any) -> Any:
        arguments, keywords = tree_map(_tensor_of, (arguments, keywords), is_leaf=_is_value)
        return self._operation(operation, arguments, keywords, dtype=None)

    def _compute(self, operation: OpOverload, arguments: Any, keywords: Any, call: Call) -> Any:
        rule = RULES.get(operation)
        if rule is not None:
            results = rule(self, *arguments, **keywords)
            if results is not NotImplemented:
                return results
        if torch.Tag.pointwise in operation.tags and isinstance(call.results, Slot):
            return self._operation(operation, *_lined_up(arguments, keywords), dtype=self._dtypes[call.results.number])
        return self._refreshed(_vmapped(operation, arguments, keywords, self.trials))

    def _operation(self, operation: OpOverload, arguments: Any, keywords: Any, dtype: torch.dtype | None) -> Any:
        """Run torch's own operation, into the same memory every time where it can."""
        results = operation(*arguments, **keywords)
        if not isinstance(results, Tensor):
            return self._refreshed(partial(operation, *arguments, **keywords))
        # A number without dimensions does not decide a result's type, the same number for T trials would.
        buffer = self._keep(results if dtype is None else results.to(dtype))
        for function, into in _writers(operation):
            write = partial(function, *arguments, **keywords, **{into: buffer})
            try:
                write()
            except (TypeError, RuntimeError):
                continue
            self._operations.append(write)
            return buffer
        self._operations.append(partial(_refresh, partial(operation, *arguments, **keywords), buffer))
        return buffer

    def _refreshed(self, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, copied into the same memory every time."""
        buffers = tree_map(lambda item: self._keep(item) if isinstance(item, Tensor) else item, compute())
        self._operations.append(partial(_refresh, compute, buffers))
        return buffers

    # ------------------------------------------------------------------ memory

    def _keep(self, result: Tensor) -> Tensor:
        """Memory for a result: some that is not needed any more, or the result's own."""
        if any(size > 1 and stride == 0 for size, stride in zip(result.shape, result.stride(), strict=True)):
            result = result.contiguous()
        free = self._free[_layout(result)]
        if free:
            buffer = free.pop().copy_(result)
        else:
            if result.untyped_storage().nbytes() != result.nbytes:  # a view of something larger
                result = result.clone()
            buffer = result
            self.bytes += buffer.nbytes
        self._taken.append(buffer)
        return buffer

    def _give_back(self, buffers: list[Tensor]) -> None:
        for buffer in buffers:
            self._free[_layout(buffer)].append(buffer)


class _Lifetimes:
    """Which calls' memory is free after a call."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self.ends: list[_Lifetimes] = []

    def own(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers

    def released(self) -> list[list[Tensor]]:
        return [call._buffers for call in self.ends]


def _deaths(tape: Tape, wanted: set[int]) -> list[_Lifetimes]:
    """For each call, whose results are used there for the last time. What is wanted never dies."""
    last: dict[int, int] = {}
    for place, call in enumerate(tape.calls):
        for slot in slots((call.arguments, dict(call.keywords), call.results)):
            last[tape.roots[slot.number]] = place
    calls = [_Lifetimes() for _ in tape.calls]
    for place, call in enumerate(tape.calls):
        roots = {tape.roots[slot.number] for slot in slots(call.results)}
        own = {slot.number for slot in slots(call.results)} & roots  # results that are no views of something older
        if own and not roots & wanted:
            calls[max(last[root] for root in roots)].ends.append(calls[place])
    return calls


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _is_value(item: Any) -> bool:
    return isinstance(item, Value)


def _tensor_of(item: Any) -> Any:
    return item.tensor if isinstance(item, Value) else item


def _values_in(items: Any) -> Iterable[Value]:
    if isinstance(items, Value):
        yield items
    elif isinstance(items, Mapping):
        yield from _values_in(tuple(items.values()))
    elif isinstance(items, tuple | list):
        for item in items:
            yield from _values_in(item)


def _lined_up(arguments: Any, keywords: Any) -> Any:
    """Tensors whose dimensions behind T stand below each other, as broadcasting without T would have them."""
    rank = max(value.tensor.ndim - value.stacked for value in _values_in((arguments, keywords)))

    def line_up(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        missing = rank - (item.tensor.ndim - 1)
        if not item.stacked or not missing:
            return item.tensor
        return item.tensor[(slice(None), *(None,) * missing)]

    return tree_map(line_up, (arguments, keywords), is_leaf=_is_value)


def _vmapped(operation: OpOverload, arguments: Any, keywords: Any, trials: int) -> Callable[[], Any]:
    """The operation under `torch.vmap`, or one by one where vmap has no rule for it; arguments hold values."""
    values = list(_values_in((arguments, keywords)))
    if not any(value.stacked for value in values):
        words = tree_map(_tensor_of, (arguments, keywords), is_leaf=_is_value)
        return partial(operation, *words[0], **words[1])
    if not _has_batching_rule(operation):
        return partial(_one_by_one, operation, arguments, keywords, trials)

    shape: list[Any] = []

    def once(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        positional, words = tree_map(lambda item: next(left) if _is_value(item) else item, (arguments, keywords), is_leaf=_is_value)
        results = operation(*positional, **words)
        shape[:] = [tree_map(lambda item: isinstance(item, Tensor), results)]
        return tuple(tensors(results))  # vmap takes no None

    mapped = torch.vmap(once, in_dims=tuple(0 if value.stacked else None for value in values))

    def all_at_once() -> Any:
        left = iter(mapped(*(value.tensor for value in values)))
        return tree_map(lambda is_tensor: next(left) if is_tensor else None, shape[0])

    return all_at_once


def _one_by_one(operation: OpOverload, arguments: Any, keywords: Any, trials: int) -> Any:
    def row(item: Any, trial: int) -> Any:
        return (item.tensor[trial] if item.stacked else item.tensor) if isinstance(item, Value) else item

    rows = []
    for trial in range(trials):
        positional, words = tree_map(partial(row, trial=trial), (arguments, keywords), is_leaf=_is_value)
        rows.append(operation(*positional, **words))
    if isinstance(rows[0], Tensor):
        return torch.stack(rows)
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True))


def _refresh(compute: Callable[[], Any], buffers: Any) -> None:
    for buffer, result in zip(tensors(buffers), tensors(compute()), strict=True):
        buffer.copy_(result)


@cache
def _has_batching_rule(operation: OpOverload) -> bool:
    name = operation.name()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has(name, key) for key in ("FuncTorchBatched", "FuncTorchBatchedDecomposition", "CompositeImplicitAutograd"))


@cache
def _writers(operation: OpOverload) -> tuple[tuple[Callable[..., Any], str], ...]:
    """Forms of an operation that write into a given tensor, with that argument's name; torch's Python functions are the quicker ones."""
    found: list[tuple[Callable[..., Any], str]] = []
    function = getattr(torch, operation._opname, None)
    if operation.namespace == "aten" and isinstance(function, BuiltinFunctionType):
        found.append((function, "out"))
    wanted = [str(argument.type) for argument in operation._schema.arguments]
    for name in operation.overloadpacket.overloads():
        other = getattr(operation.overloadpacket, name)
        plain = [str(argument.type) for argument in other._schema.arguments if not argument.is_out]
        into = [argument.name for argument in other._schema.arguments if argument.is_out]
        if len(into) == 1 and plain == wanted:
            found.append((other, into[0]))
    return tuple(found)
