"""Gains against torch's own table and an independent derivation; saturation against autograd's slopes."""

import math

import pytest
import torch
from torch import nn

from components.activations import ACTIVATIONS, gain, saturated


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.Sigmoid(), 1.0),
        (nn.Tanh(), 5 / 3),
        (nn.ReLU(), 1.4142135623730951),
        (nn.LeakyReLU(1.0), 1.0),  # with slope 1 nothing is lost
        (nn.LeakyReLU(0.5), math.sqrt(1.6)),
        (nn.Identity(), 1.0),
        (nn.ELU(), None),
        (nn.GELU(), None),
    ],
)
def test_gain(activation, expected):
    assert gain(activation) == expected


@pytest.mark.parametrize(
    ("activation", "name", "parameter"),
    [(nn.Sigmoid(), "sigmoid", None), (nn.Tanh(), "tanh", None), (nn.ReLU(), "relu", None), (nn.LeakyReLU(0.2), "leaky_relu", 0.2)],
)
def test_gain_is_torchs(activation, name, parameter):
    assert gain(activation) == pytest.approx(nn.init.calculate_gain(name, parameter))


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.ELU(), nn.ELU(alpha=0.5), nn.ELU(alpha=2.0)])
@pytest.mark.parametrize("fraction", [0.005, 0.05, 0.3])
def test_saturated_says_where_the_slope_is_small(activation, fraction):
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    largest = slope.max()
    far_from_the_border = (slope / largest - fraction).abs() > 1e-6
    expected = slope < fraction * largest
    assert torch.equal(saturated(activation, activation(x), fraction)[far_from_the_border], expected[far_from_the_border])


def test_saturated_by_hand():
    assert saturated(nn.Sigmoid(), torch.tensor([[0.012, 0.5], [0.98, 0.988]])).tolist() == [[True, False], [False, True]]
    assert saturated(nn.Tanh(), torch.tensor([-0.98, -0.97, 0.0, 0.976])).tolist() == [True, False, False, True]
    assert saturated(nn.ReLU(), torch.tensor([0.0, 1e-6, 3.0])).tolist() == [True, False, False]
    assert saturated(nn.ELU(), torch.tensor([-0.96, -0.9, 0.0, 5.0])).tolist() == [True, False, False, False]
    assert saturated(nn.LeakyReLU(), torch.tensor([-9.0, 9.0])).tolist() == [False, False]
    assert saturated(nn.GELU(), torch.tensor([-0.1, 9.0])).tolist() == [False, False]


def test_every_activation_can_be_watched():
    for kind in ACTIVATIONS:
        output = kind()(torch.randn(2, 3))
        assert saturated(kind(), output).shape == (2, 3)
        assert saturated(kind(), output).dtype == torch.bool


def test_saturated_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="Softmax saturates: known are Sigmoid, Tanh"):
        saturated(nn.Softmax(dim=1), torch.ones(1, 2))
