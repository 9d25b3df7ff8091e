"""The LSTM as a classifier, a language model and a reader of numbers; what its three siblings share is tested here."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.initializers import NormalizedXavier
from components.models.lstm import LSTM

TOKENS = torch.tensor([[4, 5, 6, 7], [5, 4, 0, 0]])
LENGTHS = torch.tensor([4, 2])


def lstm(**settings) -> LSTM:
    torch.manual_seed(0)
    return LSTM(**{"vocabulary_size": 9, "classes": 3, "embedding": 5, "hidden": 6, "activation": nn.Tanh} | settings)


def test_names_and_shapes():
    model = lstm(layers=2)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["embed.weight"] == (9, 5)
    assert shapes["recurrent.cell.weight_ih_l0"] == (24, 5)
    assert shapes["recurrent.cell.weight_hh_l1"] == (24, 6)
    assert shapes["head.weight"] == (3, 6)
    assert model(TOKENS, LENGTHS).shape == (2, 3)
    assert lstm(predicts="next", classes=9)(TOKENS).shape == (2, 4, 9)


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_pools_by_hand_and_padding_is_no_word(pool: str):
    model = lstm(pool=pool).eval()
    outputs, _ = model.recurrent(model.vectors(TOKENS), LENGTHS)
    words = [outputs[0], outputs[1, :2]]
    expected = {
        "last": [part[-1] for part in words],
        "mean": [part.mean(0) for part in words],
        "max": [part.amax(0) for part in words],
    }[pool]
    assert torch.allclose(model(TOKENS, LENGTHS), model.head(torch.stack(expected)), atol=1e-6)
    assert torch.allclose(model(TOKENS[1:, :2], LENGTHS[1:]), model(TOKENS, LENGTHS)[1:], atol=1e-6)


def test_both_kernels_are_the_same_model():
    fused, explicit = lstm(layers=2), lstm(layers=2, kernel="explicit")
    explicit.load_state_dict(fused.state_dict())
    assert torch.allclose(fused(TOKENS, LENGTHS), explicit(TOKENS, LENGTHS), atol=1e-6)


def test_numbers_go_in_as_they_are():
    model = lstm(vocabulary_size=None, input_shape=[10, 2], classes=1)
    assert model.embed is None
    assert model.recurrent.cell.input_size == 2
    assert model(torch.randn(3, 10, 2)).shape == (3, 1)
    with pytest.raises(ValueError, match="neither a vocabulary_size nor an input_shape"):
        lstm(vocabulary_size=None)


def test_step_by_step_is_the_same_as_at_once():
    model = lstm(predicts="next", classes=9, layers=2).eval()
    at_once = model(TOKENS[:1])
    state = None
    for place in range(4):
        logits, state = model.step(TOKENS[:1, place], state)
        assert torch.allclose(logits, at_once[:, place], atol=1e-6)


def test_nothing_is_read_from_the_future():
    model = lstm(predicts="next", classes=9).eval()
    other = TOKENS.clone()
    other[:, 3] = 8
    assert torch.equal(model(TOKENS)[:, :3], model(other)[:, :3])
    assert not torch.equal(model(TOKENS)[:, 3], model(other)[:, 3])


def test_translation_is_for_another_model():
    with pytest.raises(ValueError, match="these data ask for 'text', which takes another model, such as seq2seq"):
        lstm(predicts="text")


def test_dropout_only_in_training():
    model, without = lstm(dropout=0.5), lstm()
    without.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(TOKENS, LENGTHS), without(TOKENS, LENGTHS))
    assert not torch.equal(model.train()(TOKENS, LENGTHS), without(TOKENS, LENGTHS))


def test_overfits_one_batch():
    model = lstm(hidden=16)
    NormalizedXavier(embedding_std=0.5).initialize(model, activation=nn.Tanh(), generator=torch.Generator().manual_seed(0))
    tokens, targets = torch.randint(1, 9, (12, 7)), torch.arange(12) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens, torch.full((12,), 7)), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
