"""How costly operations are done for T trials at once: the hand-written part of what `vmap` does in general.

Each rule gets the program and the operation's arguments, tensors as `Value`s, and returns (T, …), or NotImplemented where a case is not
its own. Measured with torch 2.14 on one CPU core; T = 32 trials, B = 32 examples, microseconds for all trials:

- a product of 32×64 and 64×64: 3.3 a trial by `bmm`, 8.5 by 32 calls of `linear`;
- a product of 32×64 and 64×10: 2.0 a trial, and 0.8 as the transpose of a product of 10×64 and 64×32;
- log-softmax over 10 classes: 156 along the last dimension, 16 along the one before it, the transposition included;
- the same backwards: 87 and 10;
- cross-entropy under `vmap`, forward and backward: 700; by the rules here: 80.
- convolutions: torch computes T of them as one with T groups well if they are tiny (4 to 8 channels of 8×8: 557 against 1,426 one
  by one for 16 trials) and badly if not (16 channels of 28×28: 39,000 against 21,000 for 8).

Shapes: T trials, B examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload

if TYPE_CHECKING:
    from components.training.stacked.program import Program
    from components.training.stacked.repeated import Value

aten = torch.ops.aten

FEW = 48
"""Classes up to which a softmax is quicker along a dimension that is not the last."""
NARROW = 16
"""Columns of a product below which its transpose is quicker."""
TINY = 4_000_000
"""Multiplications a trial up to which a convolution is quicker as one group of a large one."""
MEAN = 1
"""What `reduction="mean"` is called below."""


def _mm(program: Program, left: Value, right: Value) -> Tensor:
    """(T, M, K) @ (T, K, N)."""
    first, second = program.stacked(left), program.stacked(right)
    if _narrow(second):
        return program.emit(torch.bmm, second.mT, first.mT).mT
    return program.emit(torch.bmm, first, second)


def _addmm(program: Program, bias: Value, left: Value, right: Value, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """(T, N) or (T, M, N) + (T, M, K) @ (T, K, N)."""
    added = bias.tensor.unsqueeze(1) if bias.stacked and bias.tensor.ndim == 2 else bias.tensor
    first, second = program.stacked(left), program.stacked(right)
    if _narrow(second) and added.ndim > 1:
        return program.emit(torch.baddbmm, added.mT, second.mT, first.mT, beta=beta, alpha=alpha).mT
    return program.emit(torch.baddbmm, added, first, second, beta=beta, alpha=alpha)


def _narrow(right: Tensor) -> bool:
    """Whether (T, K, N) has few columns and lies in memory as (T, N, K): then the product's transpose is quicker."""
    return right.shape[2] < NARROW and right.mT.is_contiguous() and not right.is_contiguous()


def _bmm(program: Program, left: Value, right: Value) -> Tensor:
    """(T, N, M, K) @ (T, N, K, L)."""
    return program.emit(torch.matmul, program.stacked(left), program.stacked(right))


def _sum(program: Program, value: Value, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    rank = value.tensor.ndim - 1
    dims = [place % rank + 1 for place in dim] if dim else list(range(1, rank + 1))
    if not dims or dtype is not None:
        return NotImplemented
    return program.emit(torch.sum, value.tensor, dims, keepdim)


def _sum_all(program: Program, value: Value, *, dtype: torch.dtype | None = None) -> Any:
    return _sum(program, value, None, dtype=dtype)


def _log_softmax(program: Program, value: Value, dim: int, half_to_float: bool) -> Any:
    logits = value.tensor
    place = dim % (logits.ndim - 1) + 1
    if half_to_float:
        return NotImplemented
    if place < logits.ndim - 1 or logits.shape[place] > FEW or logits.ndim < 3:
        return program.emit(torch.log_softmax, logits, place)
    classes_first = logits.movedim(-1, 1)
    if not classes_first.is_contiguous():
        classes_first = program.copy(classes_first)
    return program.emit(torch.log_softmax, classes_first, 1).movedim(1, -1)


def _log_softmax_backward(program: Program, gradient: Value, output: Value, dim: int, dtype: torch.dtype) -> Tensor:
    given, log_probability = program.stacked(gradient), program.stacked(output)
    place = dim % (given.ndim - 1) + 1
    classes_first = log_probability.movedim(place, 1)
    backward, into = aten._log_softmax_backward_data.default, aten._log_softmax_backward_data.out
    if not classes_first.is_contiguous():
        return program.emit(backward, given, log_probability, place, dtype, writer=into)
    moved = given.movedim(place, 1)
    if not moved.is_contiguous():
        moved = program.copy(moved)
    return program.emit(backward, moved, classes_first, 1, dtype, writer=into).movedim(1, place)


def _nll(  # noqa: PLR0917 — the operation's own arguments
    program: Program, output: Value, target: Value, weight: Value | None, reduction: int, ignored: int
) -> Any:
    """Mean of −log p over the examples that count, and how many these are: (T,), (T,)."""
    if weight is not None or reduction != MEAN or output.tensor.ndim != 3:
        return NotImplemented
    counts, place = _targets(program, target, ignored)
    picked = program.emit(torch.gather, output.tensor.mT, 1, place)  # (T, 1, B)
    total = program.emit(torch.sum, counts, -1, dtype=output.tensor.dtype)  # (T, 1), or (1,) of a shared batch
    summed = program.emit(torch.sum, program.emit(torch.mul, picked, counts), -1)  # (T, 1)
    loss = program.emit(torch.neg, program.emit(torch.div, summed, total))
    return loss.squeeze(1), total.expand(program.trials, 1).squeeze(1)


def _nll_backward(  # noqa: PLR0917
    program: Program, gradient: Value, output: Value, target: Value, weight: Value | None, reduction: int, ignored: int, total: Value
) -> Any:
    """(T, B, C): −1/count at the target of each example that counts."""
    if weight is not None or reduction != MEAN or output.tensor.ndim != 3:
        return NotImplemented
    counts, place = _targets(program, target, ignored)
    share = program.emit(torch.div, program.stacked(gradient), program.stacked(total))[:, None, None]
    shares = program.emit(torch.neg, program.emit(torch.mul, counts, share))  # (T, 1, B)
    classes_first = program.zeros(output.tensor.mT)
    program.do(classes_first.scatter_, 1, place, shares)
    return classes_first.mT


def _targets(program: Program, target: Value, ignored: int) -> tuple[Tensor, Tensor]:
    """Which examples count, and their targets with 0 for the others, as (T, 1, B)."""
    wide = target.tensor.unsqueeze(-2)
    counts = program.emit(torch.ne, wide, ignored)
    place = program.emit(torch.mul, wide, counts)
    shape = (program.trials, 1, wide.shape[-1])
    return counts.expand(shape), place.expand(shape)


def _convolution(program: Program, value: Value, weight: Value, bias: Value | None, *settings: Any) -> Any:
    """Trial by trial, unless it is tiny; then vmap makes it one with T groups."""
    transposed = settings[3]
    _, _, height, width = value.tensor.shape[-4:] if value.tensor.ndim >= 4 else (0, 0, 0, 0)
    examples = value.tensor.shape[1] if value.stacked else value.tensor.shape[0]
    if not transposed and examples * height * width * math.prod(weight.tensor.shape[-4:]) <= TINY:
        return NotImplemented
    return program.each(aten.convolution.default, value, weight, bias, *settings)


def _convolution_backward(program: Program, gradient: Value, value: Value, weight: Value, *settings: Any) -> Any:
    examples, _, height, width = gradient.tensor.shape[-4:] if gradient.tensor.ndim >= 4 else (0, 0, 0, 0)
    if not settings[4] and examples * height * width * math.prod(weight.tensor.shape[-4:]) <= TINY:
        return NotImplemented
    return program.each(aten.convolution_backward.default, gradient, value, weight, *settings)


RULES: dict[OpOverload, Callable[..., Any]] = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten.sum.dim_IntList: _sum,
    aten.sum.default: _sum_all,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.nll_loss_forward.default: _nll,
    aten.nll_loss_backward.default: _nll_backward,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}


def _viewed(value: Value, shape: Sequence[int]) -> Tensor:
    return value.tensor.view(len(value.tensor), *shape) if value.stacked else value.tensor.view(*shape)


VIEWS: dict[OpOverload, Callable[..., Tensor]] = {
    aten.detach.default: lambda value: value.tensor,
    aten.alias.default: lambda value: value.tensor,
    aten.t.default: lambda value: value.tensor.mT if value.tensor.ndim - value.stacked == 2 else value.tensor,
    aten.view.default: _viewed,
    aten._unsafe_view.default: _viewed,
}
"""The commonest views, which vmap would find as well, but in a third of a millisecond each, and a program has dozens."""
