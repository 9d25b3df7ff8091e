"""Attention: the lecture's example step by step, the three scores by hand, and padding that gets no weight."""

import pytest
import torch
from torch import nn

from components.layers.attention import Additive, Attention, Multiplicative, attend

STATES = torch.tensor([[[1.0, 0, 0, 1, 2], [1, 0, 0, 1, 1], [1, 0, 0, 0, 1]]])
STATE = torch.tensor([[[1.0, 0, 0, 0, 2]]])


def attention(score: str, query_size: int = 5, state_size: int = 5) -> Attention:
    return Attention(score=score, query_size=query_size, state_size=state_size, activation=nn.Tanh)  # type: ignore[arg-type]


def test_the_lectures_example():
    layer = attention("dot")
    assert layer.score(STATE, STATES).tolist() == [[[5, 3, 3]]]
    context, weights = layer(STATE, STATES)
    assert weights.flatten().tolist() == pytest.approx([0.79, 0.11, 0.11], abs=0.005)
    assert context.flatten().tolist() == pytest.approx([1, 0, 0, 0.89, 1.79], abs=0.005)
    assert torch.cat([context, STATE], dim=-1).flatten().tolist() == pytest.approx([1, 0, 0, 0.89, 1.79, 1, 0, 0, 0, 2], abs=0.005)


def test_multiplicative_by_hand():
    layer = Multiplicative(query_size=2, state_size=1)
    with torch.no_grad():
        layer.project.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    # W s = (2, −1)·s for s = 1, 3: h = (1, 1) scores 2 − 1 = 1 and 6 − 3 = 3
    assert layer(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0], [3.0]]])).tolist() == [[[1, 3]]]


def test_additive_by_hand():
    layer = Additive(query_size=1, state_size=1, hidden=2, activation=nn.ReLU)
    with torch.no_grad():
        layer.query.weight.copy_(torch.tensor([[1.0], [2.0]]))
        layer.query.bias.copy_(torch.tensor([0.0, 1.0]))
        layer.state.weight.copy_(torch.tensor([[3.0], [-1.0]]))
        layer.score.weight.copy_(torch.tensor([[1.0, 10.0]]))
    # h = 1: (1, 3); s = 2: (6, −2) → relu(7, 1) → 17.  s = −1: (−3, 1) → relu(−2, 4) → 40
    assert layer(torch.tensor([[[1.0]]]), torch.tensor([[[2.0], [-1.0]]])).tolist() == [[[17, 40]]]


@pytest.mark.parametrize("score", ["dot", "additive", "multiplicative"])
def test_padding_gets_no_weight_and_changes_nothing(score: str):
    torch.manual_seed(0)
    layer, queries, states = attention(score), torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    context, weights = layer(queries, states, mask)
    assert torch.equal(weights[1, :, 2:], torch.zeros(3, 2))
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3))
    alone, _ = layer(queries[1:], states[1:, :2])
    assert torch.allclose(context[1:], alone, atol=1e-6)


def test_one_state_gets_all_the_weight():
    context, weights = attend(torch.tensor([[[-50.0]]]), torch.tensor([[[1.0, 2.0]]]))
    assert (context.tolist(), weights.tolist()) == ([[[1, 2]]], [[[1]]])


def test_dot_needs_one_size_and_the_others_do_not():
    with pytest.raises(ValueError, match="vectors of one size, not 4 and 5"):
        attention("dot", query_size=4)
    for score in ("additive", "multiplicative"):
        context, _ = attention(score, query_size=4)(torch.randn(1, 1, 4), STATES)
        assert context.shape == (1, 1, 5)
