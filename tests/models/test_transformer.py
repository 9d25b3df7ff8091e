"""The Transformer: its formula by torch's own layers, nothing from the future, the encoder read once, positions, shared tables."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.decoding import beam_search, greedy
from components.initializers import NormalizedXavier
from components.layers.positions import sinusoids
from components.models.transformer import Transformer

SOURCE, LENGTHS = torch.tensor([[4, 5, 6, 7], [5, 4, 0, 0]]), torch.tensor([4, 2])
GIVEN = torch.tensor([[2, 4, 5], [2, 6, 0]])


def transformer(**settings) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "target_vocabulary_size": 8, "channels": 8, "heads": 2, "layers": 2, "dropout": 0.0}
    return Transformer(**sizes | {"activation": nn.ReLU} | settings)


def test_the_papers_base_model_has_about_65_million_weights():
    """Table 3: N = 6, C = 512, F = 2048, 65 million in all; its vocabulary is "about 37,000" tokens, shared by both languages."""
    with torch.device("meta"):
        model = Transformer(vocabulary_size=37_000, target_vocabulary_size=37_000, share="all", activation=nn.ReLU)
    attention, feed_forward, norm = 4 * (512 * 512 + 512), 512 * 2048 + 2048 + 2048 * 512 + 512, 2 * 512
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_000 * 512 + 6 * (encoder + decoder) == 63_082_496


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_is_its_formula(norm: str):
    """By torch's own encoder and decoder layers."""
    model = transformer(norm=norm, share="none")
    lay = {"d_model": 8, "nhead": 2, "dim_feedforward": 32, "dropout": 0.0, "batch_first": True, "norm_first": norm == "pre"}

    def copy(theirs: nn.MultiheadAttention, ours) -> None:
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())

    x = math.sqrt(8) * model.source_embed.weight[SOURCE] + sinusoids(torch.arange(4), 8).float()
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    for block in model.encoder.blocks:
        layer = nn.TransformerEncoderLayer(**lay)
        copy(layer.self_attn, block.attention)
        layer.linear1.load_state_dict(block.feed_forward.widen.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.narrow.state_dict())
        x = layer(x, src_key_padding_mask=padding)
    y = math.sqrt(8) * model.target_embed.weight[GIVEN] + sinusoids(torch.arange(3), 8).float()
    x = F.layer_norm(x, (8,)) if norm == "pre" else x
    for block in model.decoder.blocks:
        layer = nn.TransformerDecoderLayer(**lay)
        copy(layer.self_attn, block.attention)
        copy(layer.multihead_attn, block.cross)
        layer.linear1.load_state_dict(block.feed_forward.widen.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.narrow.state_dict())
        y = layer(y, x, tgt_mask=torch.ones(3, 3, dtype=torch.bool).triu(1), memory_key_padding_mask=padding)
    y = F.layer_norm(y, (8,)) if norm == "pre" else y
    assert torch.allclose(model(SOURCE, LENGTHS, GIVEN), y @ model.output.weight.T, atol=1e-5)


def test_a_changed_future_token_changes_no_earlier_output():
    model = transformer()
    logits = model(SOURCE, LENGTHS, GIVEN)
    for place in range(3):
        other = GIVEN.clone()
        other[:, place] = 7
        changed = model(SOURCE, LENGTHS, other)
        assert torch.equal(changed[:, :place], logits[:, :place])
        assert not torch.allclose(changed[:, place], logits[:, place])


def test_a_changed_source_token_changes_every_output_and_padding_none():
    model = transformer()
    logits = model(SOURCE, LENGTHS, GIVEN)
    last = SOURCE.clone()
    last[0, 3] = 8
    assert (model(last, LENGTHS, GIVEN)[0] - logits[0]).abs().amax(-1).min() > 1e-4
    padded = SOURCE.clone()
    padded[1, 2:] = 8
    assert torch.equal(model(padded, LENGTHS, GIVEN)[1], logits[1])
    assert torch.allclose(model(SOURCE[1:, :2], LENGTHS[1:], GIVEN[1:]), logits[1:], atol=1e-6)


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_step_by_step_is_the_same_as_at_once(norm: str, positions: str):
    model = transformer(norm=norm, positions=positions)
    at_once = model(SOURCE, LENGTHS, GIVEN)
    encoded, state = model.encode(SOURCE, LENGTHS)
    for place in range(3):
        logits, state = model.step(GIVEN[:, place], state, encoded)
        assert torch.allclose(logits, at_once[:, place], atol=1e-6)
    assert [tuple(part.shape) for part in state] == [(2, 2, 3, 4)] * 4


def test_both_kernels_are_the_same_model():
    fused, explicit = transformer(), transformer(kernel="explicit")
    for model in (fused, explicit):
        F.cross_entropy(model(SOURCE, LENGTHS, GIVEN).flatten(0, 1), GIVEN.flatten()).backward()
    assert torch.allclose(fused(SOURCE, LENGTHS, GIVEN), explicit(SOURCE, LENGTHS, GIVEN), atol=1e-6)
    for one, other in zip(fused.parameters(), explicit.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize(("positions", "blind"), [("none", True), ("learned", False), ("sinusoidal", False)])
def test_without_positions_the_source_is_a_bag_of_words(positions: str, blind: bool):
    model, turned = transformer(positions=positions), SOURCE[:1].flip(1)
    same = torch.allclose(model(SOURCE[:1], LENGTHS[:1], GIVEN[:1]), model(turned, LENGTHS[:1], GIVEN[:1]), atol=1e-6)
    assert same == blind


def test_which_tables_are_one():
    assert len({transformer(share="none").get_parameter(f"{name}.weight") for name in ("source_embed", "target_embed", "output")}) == 3
    tied = transformer(share="target")
    assert tied.output.weight is tied.target_embed.weight is not tied.source_embed.weight
    one = transformer(share="all", vocabulary_size=8)
    assert one.output.weight is one.target_embed.weight is one.source_embed.weight
    with pytest.raises(ValueError, match="share=all takes one vocabulary, not 9 and 8 tokens"):
        transformer(share="all")


def test_where_each_head_looks():
    model = transformer()
    encoded, state = model.encode(SOURCE, LENGTHS)
    weights = model.looks(GIVEN, state, encoded)
    assert weights.shape == (2, 2, 2, 3, 4)  # B, layers, heads, written, read
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 2, 3))
    assert torch.equal(weights[1, ..., 2:], torch.zeros(2, 2, 3, 2))
    first = model.decoder.blocks[0]
    hidden = math.sqrt(8) * model.target_embed.weight[GIVEN] + sinusoids(torch.arange(3), 8).float()
    read = first.attention.keys_values(hidden)
    hidden = first.attention_norm(hidden + first.attention(hidden, read, causal=True))
    scores = first.cross.query(hidden)[..., :4] @ encoded.read[0][0][:, 0].mT / 2  # the first head, D = 4
    expected = scores.masked_fill(~encoded.mask.unsqueeze(1), float("-inf")).softmax(-1)
    assert torch.allclose(weights[:, 0, 0], expected, atol=1e-6)
    assert not first.cross._forward_pre_hooks


def test_a_beam_of_one_is_greedy_and_the_encoder_is_not_run_again():
    model, calls = transformer(), []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        encoded, state = model.encode(SOURCE, LENGTHS)
        marks = {"batch": 2, "start": 2, "end": 3, "limit": 6}
        by_greed = greedy(lambda tokens, now: model.step(tokens, now, encoded), state, **marks)
        by_beam, _ = beam_search(lambda tokens, now: model.step(tokens, now, encoded), state, beams=1, **marks)
        assert torch.equal(by_greed, by_beam)
        wide, many = encoded.repeated(3), tuple(part.repeat_interleave(3, dim=0) for part in state)
        _, score = beam_search(lambda tokens, now: model.step(tokens, now, wide), many, beams=3, length_penalty=0.0, **marks)
        written = torch.cat([torch.full((2, 1), 2), by_greed], dim=1)
        gains = model(SOURCE, LENGTHS, written[:, :-1]).log_softmax(-1).gather(2, by_greed.unsqueeze(-1)).squeeze(-1)
        own = torch.stack([row[: [*ids.tolist(), 3].index(3) + 1].sum() for row, ids in zip(gains, by_greed, strict=True)])
    assert (score >= own - 1e-5).all()
    assert len(calls) == 2  # encode, and the check's own forward


def test_dropout_only_in_training():
    model, without = transformer(dropout=0.5, attention_dropout=0.5), transformer()
    assert torch.equal(model.eval()(SOURCE, LENGTHS, GIVEN), without(SOURCE, LENGTHS, GIVEN))
    assert not torch.equal(model.train()(SOURCE, LENGTHS, GIVEN), without(SOURCE, LENGTHS, GIVEN))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_overfits_one_batch(positions: str):
    model = transformer(channels=16, positions=positions, layers=1)
    NormalizedXavier(embedding_std=0.25).initialize(model, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    source = torch.randint(4, 9, (8, 5), generator=torch.Generator().manual_seed(0))
    target = torch.randint(4, 8, (8, 4), generator=torch.Generator().manual_seed(1))
    given = torch.cat([torch.full((8, 1), 2), target[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(source, torch.full((8,), 5), given).flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
