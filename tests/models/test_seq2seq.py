"""Seq2seq: equal sizes with and without attention, steps that agree with the whole, the bottleneck, teacher forcing, learning by heart."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.initializers import NormalizedXavier
from components.models.seq2seq import Seq2Seq

SOURCE, LENGTHS = torch.tensor([[4, 5, 6, 7], [5, 4, 0, 0]]), torch.tensor([4, 2])
GIVEN = torch.tensor([[2, 4, 5], [2, 6, 0]])


def seq2seq(**settings) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "target_vocabulary_size": 8, "embedding": 5, "hidden": 6}
    return Seq2Seq(**sizes | {"activation": nn.Tanh} | settings)


def test_with_and_without_attention_are_of_one_size():
    sizes = {kind: sum(p.numel() for p in seq2seq(attention=kind).parameters()) for kind in ("none", "dot", "additive", "multiplicative")}
    assert sizes["dot"] == sizes["none"]
    assert sizes["multiplicative"] == sizes["none"] + 6 * 6
    assert sizes["additive"] == sizes["none"] + 2 * 6 * 6 + 6 + 6


@pytest.mark.parametrize("attention", ["none", "dot", "additive", "multiplicative"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_step_by_step_is_the_same_as_at_once(cell: str, attention: str):
    model = seq2seq(cell=cell, attention=attention, layers=2).eval()
    at_once = model(SOURCE, LENGTHS, GIVEN)
    assert at_once.shape == (2, 3, 8)
    encoded, state = model.encode(SOURCE, LENGTHS)
    for place in range(3):
        logits, state = model.step(GIVEN[:, place], state, encoded)
        assert torch.allclose(logits, at_once[:, place], atol=1e-6)


@pytest.mark.parametrize("attention", ["none", "dot"])
def test_padding_changes_nothing_and_nothing_is_read_from_the_future(attention: str):
    model = seq2seq(attention=attention).eval()
    logits = model(SOURCE, LENGTHS, GIVEN)
    assert torch.allclose(model(SOURCE[1:, :2], LENGTHS[1:], GIVEN[1:]), logits[1:], atol=1e-6)
    other = GIVEN.clone()
    other[:, 2] = 7
    assert torch.equal(model(SOURCE, LENGTHS, other)[:, :2], logits[:, :2])


def test_attention_is_a_mean_of_the_encoders_states():
    model = seq2seq(attention="dot").eval()
    encoded, state = model.encode(SOURCE, LENGTHS)
    _, _, weights = model.decode(GIVEN, state, encoded)
    assert weights.shape == (2, 3, 4)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3))
    assert torch.equal(weights[1, :, 2:], torch.zeros(3, 2))
    assert torch.equal(model.looks(GIVEN, state, encoded), weights.view(2, 1, 1, 3, 4))
    assert seq2seq(attention="none").looks(GIVEN, state, encoded) is None


def test_the_encoders_directions_share_the_units():
    model = seq2seq(layers=2, cell="lstm")
    encoded, state = model.encode(SOURCE, LENGTHS)
    assert [part.shape for part in state] == [(2, 2, 6), (2, 2, 6)]
    assert torch.allclose(encoded.last[0], torch.cat([encoded.states[0, 3, :3], encoded.states[0, 0, 3:]]), atol=1e-6)
    assert torch.allclose(encoded.last[1], torch.cat([encoded.states[1, 1, :3], encoded.states[1, 0, 3:]]), atol=1e-6)
    with pytest.raises(ValueError, match="hidden must be even"):
        seq2seq(hidden=5)
    assert seq2seq(hidden=5, bidirectional=False)(SOURCE, LENGTHS, GIVEN).shape == (2, 3, 8)


def test_without_teacher_forcing_only_the_first_given_token_counts():
    model = seq2seq(teacher_forcing=0.0)
    other = torch.tensor([[2, 7, 7], [2, 7, 7]])
    assert torch.allclose(model(SOURCE, LENGTHS, GIVEN), model(SOURCE, LENGTHS, other), atol=1e-6)
    first = model(SOURCE, LENGTHS, GIVEN)[:, 0].argmax(-1)
    own = torch.cat([GIVEN[:, :1], first.unsqueeze(1)], dim=1)
    forced = seq2seq(teacher_forcing=1.0)
    assert torch.allclose(model(SOURCE, LENGTHS, GIVEN)[:, 1], forced(SOURCE, LENGTHS, own)[:, 1], atol=1e-6)
    assert not torch.allclose(forced(SOURCE, LENGTHS, GIVEN), forced(SOURCE, LENGTHS, other), atol=1e-3)
    model.eval()  # what is measured is always forced
    assert not torch.allclose(model(SOURCE, LENGTHS, GIVEN), model(SOURCE, LENGTHS, other), atol=1e-3)


def test_repeating_what_is_encoded():
    encoded, _ = seq2seq().encode(SOURCE, LENGTHS)
    wide = encoded.repeated(3)
    assert torch.equal(wide.states[3:], encoded.states[1:].expand(3, -1, -1))
    assert wide.mask.tolist()[0] == [True] * 4
    assert wide.mask.tolist()[5] == [True, True, False, False]


@pytest.mark.parametrize("attention", ["none", "dot", "additive", "multiplicative"])
def test_overfits_one_batch(attention: str):
    model = seq2seq(attention=attention, hidden=24, embedding=12, cell="lstm")
    NormalizedXavier(embedding_std=0.5).initialize(model, activation=nn.Tanh(), generator=torch.Generator().manual_seed(0))
    source = torch.randint(4, 9, (8, 5))
    target = torch.randint(4, 8, (8, 4))
    given = torch.cat([torch.full((8, 1), 2), target[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(source, torch.full((8,), 5), given).flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
