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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from components.training.stacked.operations import RULES, VIEWS
from components.training.stacked.repeated import Value, lined_up, one_by_one, refresh, repeated, values_in, with_tensors, writers
from components.training.stacked.tape import Call, NotStackableError, Slot, Tape, is_view, mapped, slots, tensors, writes

SHAPE_ONLY = {"ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
"""Operations that look at a tensor's shape and not at its numbers."""


class Program:
    """Runs a tape for `trials` trials.

    Args:
        tape: what to run.
        trials: T.
        given: the tape's inputs by name. Binding runs the step once on what is in them; after that, whoever fills them calls `run`.
        wanted: the slots whose values are read after a run.

    Attributes:
        bytes: memory that the program has taken, beside what was given.

    Raises:
        NotStackableError: an operation cannot be repeated for many trials.
    """

    def __init__(self, tape: Tape, trials: int, given: Mapping[str, Value], wanted: Iterable[Slot]) -> None:
        self.trials = trials
        self.bytes = 0
        self._operations: list[Callable[[], Any]] = []
        self._values: dict[int, Value] = {slot.number: given[name] for name, slot in tape.inputs.items() if name in given}
        self._values |= {number: Value(tensor, stacked=False, constant=True) for number, tensor in tape.constants.items()}
        self._dtypes, self._roots = tape.dtypes, tape.roots
        self._written = {tape.roots[slot.number] for call in tape.calls if writes(call.operation) for slot in slots(call.results)}
        self._free: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        self._taken: list[Tensor] = []
        self._dying: list[Tensor] = []
        taken: list[list[Tensor]] = []
        for call, ending in zip(tape.calls, _ends(tape, {tape.roots[slot.number] for slot in wanted}), strict=True):
            self._taken, self._dying = [], [buffer for place in ending if place < len(taken) for buffer in taken[place]]
            self._bind(call)
            taken.append(self._taken)
            self._dying += self._taken if len(taken) - 1 in ending else []
            self._end_dying()
        self._free.clear()

    def run(self) -> None:
        """One step on what is in the inputs now."""
        for operation in self._operations:
            operation()

    def value(self, slot: Slot) -> Tensor:
        """(T, …) of a wanted slot; where it is the same for all trials, without memory for each."""
        return self.stacked(self._values[slot.number])

    def own(self, slot: Slot, *, apart_from: Iterable[Tensor] = ()) -> Tensor:
        """(T, …) contiguous memory that holds a wanted slot's value after every run, and nothing else that is listed."""
        value = self._values[slot.number]
        taken = {tensor.untyped_storage().data_ptr() for tensor in apart_from}
        whole = value.stacked and not value.constant and value.tensor.is_contiguous()
        if whole and value.tensor.untyped_storage().data_ptr() not in taken:
            return value.tensor
        return self.copy(self.stacked(value))

    # ------------------------------------------------------------------ for the rules

    def stacked(self, value: Value) -> Tensor:
        """(T, …) of any value."""
        return value.tensor if value.stacked else value.tensor.expand(self.trials, *value.tensor.shape)

    def emit(self, function: Callable[..., Any], *arguments: Any, writer: Callable[..., Any] | None = None, **keywords: Any) -> Tensor:
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

    def each(self, operation: OpOverload, *arguments: Any) -> Any:
        """Add an operation trial by trial; arguments hold values."""
        return self._refreshed(partial(one_by_one, operation, arguments, {}, self.trials))

    # ------------------------------------------------------------------ binding

    def _bind(self, call: Call) -> None:
        operation = call.operation
        arguments, keywords = mapped(
            lambda item: self._values[item.number] if isinstance(item, Slot) else item, (call.arguments, dict(call.keywords))
        )
        values = list(values_in((arguments, keywords)))
        stacked, constant = any(value.stacked for value in values), all(value.constant for value in values)
        if writes(operation):
            self._change(operation, arguments, keywords)
            self._set(call.results, arguments[0].tensor, stacked=arguments[0].stacked, constant=False)
        elif is_view(operation):
            self._set(call.results, self._view(operation, arguments, keywords), stacked=stacked, constant=constant)
        elif not constant and operation._opname not in SHAPE_ONLY:
            compute = self._compute if stacked else self._plain
            self._set(call.results, compute(operation, arguments, keywords, call.results), stacked=stacked, constant=False)
        elif any(self._roots[slot.number] in self._written for slot in slots(call.results)):
            self._set(call.results, self._anew(operation, arguments, keywords), stacked=True, constant=False)
        else:
            results = repeated(operation, arguments, keywords, self.trials)()
            self.bytes += sum(tensor.nbytes for tensor in tensors(results))
            self._set(call.results, results, stacked=stacked, constant=True)

    def _set(self, where: Any, results: Any, *, stacked: bool, constant: bool) -> None:
        if isinstance(where, Slot):
            self._values[where.number] = Value(results, stacked, constant)
        elif isinstance(where, tuple | list):
            for slot, result in zip(where, results, strict=True):
                self._set(slot, result, stacked=stacked, constant=constant)

    def _anew(self, operation: OpOverload, arguments: Any, keywords: Any) -> Any:
        """What is the same in every step, but is written into: put back every time, for each trial its own."""
        stacked = any(value.stacked for value in values_in((arguments, keywords)))
        results = repeated(operation, arguments, keywords, self.trials)()
        return mapped(
            lambda item: self.copy(self.stacked(Value(item, stacked))) if isinstance(item, Tensor) else item,
            results,
        )

    def _view(self, operation: OpOverload, arguments: Any, keywords: Any) -> Any:
        """A view of memory that stays where it is costs nothing later; where no view is possible, a copy is made every time."""
        rule = VIEWS.get(operation)
        compute = partial(rule, *arguments) if rule is not None else repeated(operation, arguments, keywords, self.trials)
        try:
            results = compute()
        except RuntimeError:  # the layout does not allow this view
            (value,) = values_in((arguments, keywords))
            copied = Value(self.copy(value.tensor), value.stacked)
            arguments, keywords = mapped(lambda item: copied if item is value else item, (arguments, keywords))
            return self._view(operation, arguments, keywords)
        before = {value.tensor.untyped_storage().data_ptr() for value in values_in((arguments, keywords))}
        if all(not tensor.numel() or tensor.untyped_storage().data_ptr() in before for tensor in tensors(results)):
            return results
        return self._refreshed(compute)

    def _change(self, operation: OpOverload, arguments: Any, keywords: Any) -> None:
        changed, others = arguments[0], values_in((arguments[1:], keywords))
        if changed.constant or (not changed.stacked and any(value.stacked for value in others)):
            raise NotStackableError(f"it changes a tensor in place that is the same for all trials, in {operation}")
        if torch.Tag.pointwise in operation.tags or operation._opname == "copy_":
            positional, words = lined_up((arguments, keywords))
            self.do(operation, *positional, **words)
        else:
            self.do(repeated(operation, arguments, keywords, self.trials))

    def _plain(self, operation: OpOverload, arguments: Any, keywords: Any, _results: Any) -> Any:
        """What is the same for all trials is done once."""
        positional, words = with_tensors((arguments, keywords))
        return self._operation(operation, positional, words)

    def _compute(self, operation: OpOverload, arguments: Any, keywords: Any, results: Any) -> Any:
        rule = RULES.get(operation)
        if rule is not None:
            done = rule(self, *arguments, **keywords)
            if done is not NotImplemented:
                return done
        if torch.Tag.pointwise in operation.tags and isinstance(results, Slot):
            positional, words = lined_up((arguments, keywords))
            return self._operation(operation, positional, words, self._dtypes[results.number])
        return self._refreshed(repeated(operation, arguments, keywords, self.trials))

    def _operation(self, operation: OpOverload, arguments: Any, keywords: Any, dtype: torch.dtype | None = None) -> Any:
        """Run torch's own operation, into the same memory every time where it can."""
        result = operation(*arguments, **keywords)
        if not isinstance(result, Tensor):
            return self._refreshed(partial(operation, *arguments, **keywords))
        if dtype is not None:  # a number without dimensions does not decide a result's type, the same for each of T trials would
            result = result.to(dtype)
        if torch.Tag.pointwise in operation.tags:
            self._end_dying([*tensors((arguments, keywords))])  # the result may be written over an argument
        for function, into in writers(operation):
            try:
                function(*arguments, **keywords, **{into: result})
            except (TypeError, RuntimeError):  # this form takes no such arguments
                continue
            buffer = self._keep(result)
            self._operations.append(partial(function, *arguments, **keywords, **{into: buffer}))
            return buffer
        buffer = self._keep(result)
        self._operations.append(partial(refresh, partial(operation, *arguments, **keywords), buffer))
        return buffer

    def _refreshed(self, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, copied into the same memory every time."""
        buffers = mapped(lambda item: self._keep(item) if isinstance(item, Tensor) else item, compute())
        self._operations.append(partial(refresh, compute, buffers))
        return buffers

    def _end_dying(self, arguments: Sequence[Tensor] = ()) -> None:
        """What this call uses for the last time is free; while it is at work only what lies in memory as its arguments do."""
        dying, self._dying = self._dying, []
        for buffer in dying:
            used = [argument for argument in arguments if argument.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()]
            if all(_layout(argument) == _layout(buffer) and argument.data_ptr() == buffer.data_ptr() for argument in used):
                self._free[_layout(buffer)].append(buffer)
            else:
                self._dying.append(buffer)

    def _keep(self, result: Tensor) -> Tensor:
        """Memory for a result: some that is not needed any more, or the result's own."""
        if any(size > 1 and stride == 0 for size, stride in zip(result.shape, result.stride(), strict=True)):
            result = result.contiguous()
        free = self._free[_layout(result)]
        if free:
            buffer = free.pop().copy_(result)
        else:
            # A view of something larger would keep all of that.
            buffer = result if result.untyped_storage().nbytes() == result.nbytes else result.clone()
            self.bytes += buffer.nbytes
        self._taken.append(buffer)
        return buffer


def _ends(tape: Tape, wanted: set[int]) -> list[list[int]]:
    """For each call, the calls whose results are used there for the last time. What is wanted is used for ever."""
    last: dict[int, int] = {}
    for place, call in enumerate(tape.calls):
        for slot in slots((call.arguments, dict(call.keywords), call.results)):
            last[tape.roots[slot.number]] = place
    ends: list[list[int]] = [[] for _ in tape.calls]
    for place, call in enumerate(tape.calls):
        numbers = {slot.number for slot in slots(call.results)}
        roots = {tape.roots[number] for number in numbers}
        is_new = bool(numbers & roots)  # and no view of something older
        if is_new and not roots & wanted and not writes(call.operation):
            ends[max(last[root] for root in roots)].append(place)
    return ends


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype
