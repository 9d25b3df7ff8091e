"""Learning-rate schedules: pure functions of the step, so that resuming one needs no state.

`factor(step, total)` is what the learning rate is multiplied with at optimizer step `step`, 0 ≤ step < total. Lengths are fractions of the
training, so that a schedule keeps its shape when the number of epochs changes; past `total` a schedule stays where it ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Fraction = Annotated[float, Ge(0), Lt(1)]
"""A part of the training, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The learning rate as given, from the first step to the last."""

    def factor(self, step: int, total: int) -> float:  # noqa: ARG002 — the shape that all schedules share
        """Always 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """Multiplied with `drop` at each milestone, as in Krizhevsky et al. 2012 and He et al. 2016.

    Args:
        milestones: fractions of the training at which it drops.
        drop: what the learning rate is multiplied with there.
    """

    milestones: Sequence[Annotated[float, Gt(0), Lt(1)]] = (0.5, 0.75)
    drop: Annotated[float, Gt(0), Le(1)] = 0.1

    def factor(self, step: int, total: int) -> float:
        """`drop` to the power of the milestones passed."""
        return float(self.drop ** sum(step >= milestone * total for milestone in self.milestones))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine wave from 1 down to `minimum` (Loshchilov and Hutter 2017, equation 5, without restarts).

    Args:
        minimum: what is left of the learning rate at the end, in [0, 1].
    """

    minimum: Annotated[float, Ge(0), Le(1)] = 0.0

    def factor(self, step: int, total: int) -> float:
        """1 at step 0, `minimum` at step `total`."""
        return _cosine(_progress(step, 0, total), self.minimum)


@dataclass(frozen=True, kw_only=True)
class WarmupConstant:
    """Rises in equal steps to 1 during the warm-up, then stays (Goyal et al. 2017, section 2.2).

    Args:
        warmup: the part of the training that is warm-up.
    """

    warmup: Fraction = 0.1

    def factor(self, step: int, total: int) -> float:
        """1/n at step 0 and 1 at step n − 1, where n is the number of warm-up steps."""
        return _rise(step, _warmup_steps(self.warmup, total))


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Warm-up, then half a cosine wave down to `minimum` (as GPT was trained, Radford et al. 2018, section 4.1).

    Args:
        warmup: the part of the training that is warm-up.
        minimum: what is left of the learning rate at the end, in [0, 1].
    """

    warmup: Fraction = 0.1
    minimum: Annotated[float, Ge(0), Le(1)] = 0.0

    def factor(self, step: int, total: int) -> float:
        """Rises to 1 during the warm-up; from its end to `total` falls from 1 to `minimum`."""
        first = _warmup_steps(self.warmup, total)
        return _rise(step, first) if step < first else _cosine(_progress(step, first, total), self.minimum)


@dataclass(frozen=True, kw_only=True)
class WarmupLinear:
    """Warm-up, then a straight line down to `minimum` (as BERT was trained, Devlin et al. 2019, appendix A.2).

    Args:
        warmup: the part of the training that is warm-up.
        minimum: what is left of the learning rate at the end, in [0, 1].
    """

    warmup: Fraction = 0.1
    minimum: Annotated[float, Ge(0), Le(1)] = 0.0

    def factor(self, step: int, total: int) -> float:
        """Rises to 1 during the warm-up; from its end to `total` falls from 1 to `minimum`."""
        first = _warmup_steps(self.warmup, total)
        return _rise(step, first) if step < first else 1 - (1 - self.minimum) * _progress(step, first, total)


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """Warm-up, then falls with the square root of the step (Vaswani et al. 2017, equation 3).

    The paper's learning rate is C^-½ · min(s^-½, s · w^-1½) at step s = 1, 2 …, with w steps of warm-up: at its highest, where s = w, it
    is (C·w)^-½. That is what the optimizer's learning rate stands for here, and the factor is 1 there.

    Args:
        warmup: the part of the training that is warm-up.
    """

    warmup: Fraction = 0.1

    def factor(self, step: int, total: int) -> float:
        """s/w up to s = w, then √(w/s), with s = step + 1; without warm-up 1/√s."""
        first = max(_warmup_steps(self.warmup, total), 1)
        return min((step + 1) / first, math.sqrt(first / (step + 1)))


def _warmup_steps(warmup: float, total: int) -> int:
    return round(warmup * total)


def _rise(step: int, steps: int) -> float:
    # From 1/steps, not from 0: a step with learning rate 0 would be wasted.
    return min(1.0, (step + 1) / steps) if steps else 1.0


def _progress(step: int, first: int, total: int) -> float:
    return min(1.0, (step - first) / (total - first)) if total > first else 1.0


def _cosine(progress: float, minimum: float) -> float:
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2
