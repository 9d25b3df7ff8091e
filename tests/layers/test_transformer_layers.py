"""The transformer's parts: attention by hand and against torch's, both kernels, masks, what is kept for generation, both norms."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.transformer import Block, FeedForward, MultiHeadAttention, attend, fused_attend

WORDS = torch.tensor([[True, True, True, True, True], [True, True, True, False, False]])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def self_attention(**settings) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(**{"channels": 8, "heads": 2} | settings)


def block(**settings) -> Block:
    torch.manual_seed(0)
    return Block(**{"channels": 8, "heads": 2, "hidden": 12, "norm": "pre", "causal": True, "activation": nn.GELU} | settings)


def test_attention_by_hand():
    """D = 4, so scores are halved: the second place scores (2·ln 3)/2 = ln 3 for itself and 0 for the first, weights 1/4 and 3/4."""
    query = torch.tensor([[[[0.0, 0, 0, 0], [0, 2 * math.log(3), 0, 0]]]])
    key = torch.tensor([[[[5.0, 0, 0, 0], [7, 1, 0, 0]]]])
    value = torch.tensor([[[[4.0, 0, 0, 0], [8, 0, 0, 1]]]])
    context, weights = attend(query, key, value)
    assert weights.flatten().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.75])
    assert context[0, 0].flatten().tolist() == pytest.approx([6, 0, 0, 0.5, 7, 0, 0, 0.75])
    context, weights = attend(query, key, value, causal=True)
    assert weights.flatten().tolist() == pytest.approx([1, 0, 0.25, 0.75])
    assert context[0, 0].flatten().tolist() == pytest.approx([4, 0, 0, 0, 7, 0, 0, 0.75])
    _, weights = attend(query, key, value, mask=torch.tensor([[False, True]]))
    assert weights.flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("asking", [1, 3, 5])
def test_both_ways_agree_in_value_and_gradient(asking: int, causal: bool, masked: bool):
    found = []
    for way in (lambda *given, **how: attend(*given, **how)[0], fused_attend):
        query, key, value = (numbers(2, 2, places, 4, seed=seed).requires_grad_() for seed, places in enumerate((asking, 5, 5)))
        context = way(query, key, value, causal=causal, mask=WORDS if masked else None)
        found.append([context, *torch.autograd.grad((context * numbers(2, 2, asking, 4, seed=9)).sum(), [query, key, value])])
    for explicit, fused in zip(*found, strict=True):
        assert explicit.abs().max() > 0.01
        assert torch.allclose(explicit, fused, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torchs_multihead_attention(causal: bool, kernel: str):
    ours, reference = self_attention(kernel=kernel), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        reference.out_proj.load_state_dict(ours.output.state_dict())
    inputs = numbers(2, 5, 8)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, expected_weights = reference(inputs, inputs, inputs, key_padding_mask=~WORDS, attn_mask=future, average_attn_weights=False)
    read = ours.keys_values(inputs)
    found, weights = ours.weighted(inputs, read, causal=causal, mask=WORDS)
    assert torch.allclose(weights, expected_weights, atol=1e-6)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(ours(inputs, read, causal=causal, mask=WORDS), expected, atol=1e-6)


def test_reading_an_encoder_of_another_size_agrees_with_torchs():
    ours, reference = self_attention(reads=6), nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(reference, f"{name[0]}_proj_weight").copy_(getattr(ours, name).weight)
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        reference.out_proj.load_state_dict(ours.output.state_dict())
    inputs, states = numbers(2, 3, 8), numbers(2, 5, 6, seed=1)
    expected, _ = reference(inputs, states, states, key_padding_mask=~WORDS)
    assert torch.allclose(ours(inputs, ours.keys_values(states), mask=WORDS), expected, atol=1e-6)


def test_heads_share_the_channels_evenly():
    with pytest.raises(ValueError, match="8 channels cannot be shared out evenly among 3 heads"):
        self_attention(heads=3)


def test_dropped_weights_only_in_training():
    for kernel in ("fused", "explicit"):
        layer, inputs = self_attention(dropout=0.5, kernel=kernel), numbers(2, 5, 8)
        read = layer.keys_values(inputs)
        assert not torch.equal(layer(inputs, read), layer(inputs, read))
        layer.eval()
        assert torch.equal(layer(inputs, read), layer(inputs, read))


def test_feed_forward_by_hand():
    layer = FeedForward(channels=1, hidden=2, activation=nn.ReLU)
    with torch.no_grad():
        layer.widen.weight.copy_(torch.tensor([[1.0], [-1]]))
        layer.widen.bias.copy_(torch.tensor([0.0, 1]))
        layer.narrow.weight.copy_(torch.tensor([[2.0, 10]]))
        layer.narrow.bias.fill_(0.5)
    assert layer(torch.tensor([[[3.0], [-2]]])).flatten().tolist() == [6.5, 30.5]  # 2·3 + 0.5 and 10·(2 + 1) + 0.5


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_is_its_formula(norm: str):
    layer, x = block(norm=norm, causal=False), numbers(2, 5, 8)
    with torch.no_grad():
        layer.attention_norm.weight.copy_(numbers(8, seed=3))

    def attention(given: Tensor) -> Tensor:
        return layer.attention(given, layer.attention.keys_values(given))

    if norm == "pre":
        middle = x + attention(layer.attention_norm(x))
        expected = middle + layer.feed_forward(layer.feed_forward_norm(middle))
    else:
        middle = layer.attention_norm(x + attention(x))
        expected = layer.feed_forward_norm(middle + layer.feed_forward(middle))
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("pre", [True, False])
def test_a_decoder_block_agrees_with_torchs(pre: bool):
    ours = block(norm="pre" if pre else "post", crosses=True)
    reference = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=pre)
    with torch.no_grad():
        for mine, its in ((ours.attention, reference.self_attn), (ours.cross, reference.multihead_attn)):
            its.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key.weight, mine.value.weight]))
            its.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key.bias, mine.value.bias]))
            its.out_proj.load_state_dict(mine.output.state_dict())
    reference.linear1.load_state_dict(ours.feed_forward.widen.state_dict())
    reference.linear2.load_state_dict(ours.feed_forward.narrow.state_dict())
    x, states = numbers(2, 3, 8), numbers(2, 5, 8, seed=1)
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    expected = reference(x, states, tgt_mask=future, memory_key_padding_mask=~WORDS)
    assert torch.allclose(ours(x, encoded=ours.cross.keys_values(states), encoded_mask=WORDS), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_a_changed_future_changes_nothing_earlier(kernel: str):
    layer, x = block(kernel=kernel), numbers(2, 5, 8)
    other = x.clone()
    other[:, 3:] *= -2  # more than a shift, which the norm would take out
    assert torch.equal(layer(x)[:, :3], layer(other)[:, :3])
    assert not torch.allclose(layer(x)[:, 3:], layer(other)[:, 3:])
    both = block(kernel=kernel, causal=False)
    assert not torch.allclose(both(x)[:, :3], both(other)[:, :3])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal: bool):
    layer, x = block(causal=causal), numbers(2, 5, 8)
    other = x.clone()
    other[1, 3:] *= -100
    assert torch.equal(layer(x, mask=WORDS)[1, :3], layer(other, mask=WORDS)[1, :3])
    assert torch.allclose(layer(x, mask=WORDS)[1, :3], layer(x[1:, :3])[0], atol=1e-6)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_piece_by_piece_is_the_same_as_at_once(kernel: str):
    layer, x = block(kernel=kernel), numbers(2, 5, 8)
    found, past = [], None
    for piece in x.split([2, 1, 2], dim=1):
        said, past = layer.extend(piece, past)
        found.append(said)
    assert torch.allclose(torch.cat(found, dim=1), layer(x), atol=1e-6)
    assert past[0].shape == (2, 2, 5, 4)
