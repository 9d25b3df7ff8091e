"""One operation for T trials, where no rule of `operations.py` says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from components.training.stacked.tape import mapped, tensors


@dataclass(frozen=True)
class Value:
    """What a slot is bound to.

    Attributes:
        tensor: (T, …) where stacked, else as on the tape.
        constant: whether no step changes it.
    """

    tensor: Tensor
    stacked: bool
    constant: bool = False


def values_in(items: Any) -> Iterator[Value]:
    """The values in nested tuples, lists and dicts."""
    if isinstance(items, Value):
        yield items
    elif isinstance(items, Mapping):
        yield from values_in(tuple(items.values()))
    elif isinstance(items, tuple | list):
        for item in items:
            yield from values_in(item)


def with_tensors(items: Any) -> Any:
    """Nested arguments with tensors in their values' places."""
    return mapped(lambda item: item.tensor if isinstance(item, Value) else item, items)


def lined_up(items: Any) -> Any:
    """The same, with tensors whose dimensions behind T stand below each other, as broadcasting without T would have them."""
    rank = max(value.tensor.ndim - value.stacked for value in values_in(items))

    def line_up(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        missing = rank - (item.tensor.ndim - 1)
        if not item.stacked or not missing:
            return item.tensor
        return item.tensor[(slice(None), *(None,) * missing)]

    return mapped(line_up, items)


def repeated(operation: OpOverload, arguments: Any, keywords: Any, trials: int) -> Callable[[], Any]:
    """The operation under `torch.vmap`, or one by one where vmap has no rule for it; arguments hold values."""
    values = list(values_in((arguments, keywords)))
    if not any(value.stacked for value in values):
        positional, words = with_tensors((arguments, keywords))
        return partial(operation, *positional, **words)
    if not _has_batching_rule(operation):
        return partial(one_by_one, operation, arguments, keywords, trials)
    are_tensors: list[Any] = []

    def once(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        positional, words = mapped(lambda item: next(left) if isinstance(item, Value) else item, (arguments, keywords))
        results = operation(*positional, **words)
        are_tensors[:] = [mapped(lambda item: isinstance(item, Tensor), results)]
        return tuple(tensors(results))  # vmap takes no None

    everywhere = torch.vmap(once, in_dims=tuple(0 if value.stacked else None for value in values))

    def all_at_once() -> Any:
        left = iter(everywhere(*(value.tensor for value in values)))
        return mapped(lambda is_tensor: next(left) if is_tensor else None, are_tensors[0])

    return all_at_once


def one_by_one(operation: OpOverload, arguments: Any, keywords: Any, trials: int) -> Any:
    """The operation for each trial after the other; arguments hold values."""

    def row(item: Any, trial: int) -> Any:
        return (item.tensor[trial] if item.stacked else item.tensor) if isinstance(item, Value) else item

    rows = []
    for trial in range(trials):
        positional, words = mapped(partial(row, trial=trial), (arguments, keywords))
        rows.append(operation(*positional, **words))
    if isinstance(rows[0], Tensor):
        return torch.stack(rows)
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True))


def refresh(compute: Callable[[], Any], buffers: Any) -> None:
    """Copy what is computed into memory that stays where it is."""
    for buffer, result in zip(tensors(buffers), tensors(compute()), strict=True):
        buffer.copy_(result)


@cache
def writers(operation: OpOverload) -> tuple[tuple[Callable[..., Any], str], ...]:
    """Forms of an operation that write into a given tensor, with that argument's name; torch's Python functions are the quicker ones."""
    if operation == torch.ops.aten.relu.default:
        return ((_relu, "out"),)  # torch's own form computes elsewhere and copies: 13 µs in place of 4
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


def _relu(value: Tensor, *, out: Tensor) -> Tensor:
    return torch.clamp_min(value, 0, out=out)


@cache
def _has_batching_rule(operation: OpOverload) -> bool:
    name: str = operation._schema.name + (f".{operation._schema.overload_name}" if operation._schema.overload_name else "")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has(name, key) for key in ("FuncTorchBatched", "FuncTorchBatchedDecomposition", "CompositeImplicitAutograd"))
