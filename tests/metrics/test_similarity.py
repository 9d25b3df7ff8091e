"""Cosines, neighbours and principal components, by hand."""

import math

import pytest
import torch

from components.metrics.similarity import copies, cosines, nearest, principal_components


def test_cosines_by_hand():
    found = cosines(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [-6.0, -8.0], [0.0, 1.0]]))
    assert found.tolist() == [pytest.approx([0.96, -1, 0.8]), [0, 0, 0]]


def test_the_nearest_come_first_and_none_is_its_own():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    places, similarity = nearest(cosines(vectors, vectors), 5, but=torch.eye(3).bool())
    assert places[0].tolist() == [1, 2]
    assert similarity[0].tolist() == pytest.approx([math.sqrt(0.5), 0], abs=1e-9)
    assert nearest(cosines(vectors[:1], vectors), 2)[0].tolist() == [[0, 1]]
    texts = ["a", "a", "b"]
    own = copies(texts, texts)
    assert own.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    places, similarity = nearest(cosines(vectors, vectors), 5, but=own)
    assert places[:, 0].tolist() == [2, 2, 1]
    assert similarity[0, 1] == -math.inf, "it has no second neighbour"


def test_principal_components_by_hand():
    """Points on a line of direction (3, 4)/5 with a little across it."""
    along, across = torch.tensor([[0.6, 0.8]]), torch.tensor([[-0.8, 0.6]])
    vectors = torch.cat([10 * along, -10 * along, 1 * across, -1 * across]) + torch.tensor([[5.0, -7.0]])
    points, share = principal_components(vectors)
    expected = torch.tensor([[10.0, 0], [10, 0], [0, 1], [0, 1]], dtype=torch.float64)
    assert torch.allclose(points.abs(), expected, atol=1e-5)
    assert share.tolist() == pytest.approx([100 / 101, 1 / 101])
    assert torch.equal(principal_components(vectors)[0], points)
    assert float(points.gather(0, points.abs().argmax(0, keepdim=True)).min()) > 0
