"""Schedules at points worked by hand, and their common properties."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.schedules import Constant, Cosine, InverseSquareRoot, Step, WarmupConstant, WarmupCosine, WarmupLinear


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        (Constant(), 10, {0: 1, 9: 1, 50: 1}),
        (Step(milestones=[0.5, 0.75], drop=0.1), 100, {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01, 500: 0.01}),
        (Step(milestones=[], drop=0.1), 100, {0: 1, 99: 1}),
        (Cosine(), 12, {0: 1, 4: 0.75, 6: 0.5, 8: 0.25, 12: 0, 13: 0}),
        (Cosine(minimum=0.2), 12, {0: 1, 6: 0.6, 12: 0.2, 99: 0.2}),
        (WarmupConstant(warmup=0.5), 8, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 7: 1}),
        (WarmupConstant(warmup=0), 8, {0: 1, 7: 1}),
        (WarmupLinear(warmup=0.2, minimum=0.1), 10, {0: 0.5, 1: 1, 2: 1, 6: 0.55, 10: 0.1, 11: 0.1}),
        (WarmupCosine(warmup=0.25), 16, {0: 0.25, 3: 1, 4: 1, 8: 0.75, 10: 0.5, 16: 0}),
        (InverseSquareRoot(warmup=0.04), 100, {0: 0.25, 1: 0.5, 3: 1, 8: 2 / 3, 15: 0.5, 99: 0.2, 399: 0.1}),
        (InverseSquareRoot(warmup=0), 9, {0: 1, 3: 0.5, 8: 1 / 3}),
        (WarmupCosine(warmup=0.01), 10, {0: 1, 5: 0.5}),  # less than half a step of warm-up is none
    ],
)
def test_by_hand(schedule, total, expected):
    assert {step: schedule.factor(step, total) for step in expected} == pytest.approx(expected, abs=1e-12)


def test_cosine_is_torchs():
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=37, eta_min=0.1)
    for step in range(37):
        assert Cosine(minimum=0.1).factor(step, 37) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_the_papers_rule_for_the_learning_rate():
    """C^-½ · min(s^-½, s · w^-1½), 4,000 of 100,000 steps of warm-up: the optimizer's learning rate is (C·w)^-½."""
    for step in (1, 100, 4000, 50_000, 100_000):
        paper = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert (512 * 4000) ** -0.5 * InverseSquareRoot(warmup=0.04).factor(step - 1, 100_000) == pytest.approx(paper)


schedules = st.one_of(
    st.builds(Constant),
    st.builds(Step, milestones=st.lists(st.floats(0.01, 0.99), max_size=4), drop=st.floats(0.01, 1)),
    st.builds(Cosine, minimum=st.floats(0, 1)),
    st.builds(WarmupConstant, warmup=st.floats(0, 0.99)),
    st.builds(InverseSquareRoot, warmup=st.floats(0, 0.99)),
    st.builds(WarmupCosine, warmup=st.floats(0, 0.99), minimum=st.floats(0, 1)),
    st.builds(WarmupLinear, warmup=st.floats(0, 0.99), minimum=st.floats(0, 1)),
)


@given(schedules, st.integers(1, 300))
def test_no_step_of_the_training_is_wasted_and_none_is_too_large(schedule, total):
    factors = [schedule.factor(step, total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    falling = factors[peak:]
    assert all(after <= before + 1e-12 for before, after in pairwise(falling))
    assert math.isfinite(schedule.factor(total, total))
