"""Positions: the paper's sinusoids by value, a table that ends, and any place to start from."""

import math

import pytest
import torch

from components.errors import DataError
from components.layers.positions import Learned, Sinusoidal, sinusoids


def test_sinusoids_by_hand():
    found = sinusoids(torch.tensor([0, 1, 3]), 4)
    assert found[0].tolist() == [0, 1, 0, 1]
    assert found[1].tolist() == pytest.approx([math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)])
    assert found[2].tolist() == pytest.approx([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)])
    with pytest.raises(ValueError, match="channels must be even, not 5"):
        sinusoids(torch.arange(2), 5)


def test_a_shift_is_a_rotation():
    """The paper's reason for them: p(t + 7) is a linear function of p(t), the same at every t."""
    pairs = sinusoids(torch.arange(50), 8).unflatten(1, (4, 2))
    products = (pairs[7:] * pairs[:-7]).sum(-1)
    assert torch.allclose(products, products[0].expand_as(products), atol=1e-12)


@pytest.mark.parametrize("layer", [Sinusoidal(channels=6), Learned(places=9, channels=6)], ids=lambda layer: type(layer).__name__)
def test_positions_are_added_from_any_place_on(layer):
    vectors = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    whole = layer(vectors)
    assert torch.equal(torch.cat([layer(vectors[:, :4]), layer(vectors[:, 4:], 4)], dim=1), whole)
    assert torch.allclose((whole - vectors)[0], (whole - vectors)[1], atol=1e-6)
    assert whole.dtype == torch.float32


def test_a_table_has_an_end():
    layer = Learned(places=3, channels=2)
    with torch.no_grad():
        layer.table.weight.copy_(torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
    assert layer(torch.zeros(1, 2, 2), 1).tolist() == [[[3, 4], [5, 6]]]
    with pytest.raises(DataError, match="the model has 3 positions, and was given a text of 4 tokens"):
        layer(torch.zeros(1, 2, 2), 2)
