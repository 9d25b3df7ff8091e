"""GPT: GPT-2's size and formula, nothing from the future, and generation that keeps what it has read."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.data.text_stream import StreamSplit
from components.data.tokens import TokenSettings
from components.decoding import beam_search, draw
from components.errors import DataError
from components.initializers import RandomNormal
from components.models.gpt import GPT
from components.objectives.language_modelling import LanguageModelling

TOKENS = torch.tensor([[4, 5, 6, 7, 8, 4], [5, 4, 8, 8, 6, 5]])


def gpt(**settings) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "context": 6, "channels": 8, "heads": 2, "layers": 2, "dropout": 0.0}
    return GPT(**{**sizes, "activation": nn.GELU} | settings)


def test_the_smallest_gpt_2_has_124_million_weights():
    with torch.device("meta"):
        model = GPT(vocabulary_size=50_257, activation=nn.GELU)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    assert shapes["embed.weight"] == (50_257, 768)
    assert shapes["positions.table.weight"] == (1024, 768)
    assert shapes["blocks.11.attention.query.weight"] == (768, 768)
    assert shapes["blocks.0.feed_forward.widen.weight"] == (3072, 768)
    assert len(shapes) == 4 + 12 * 16  # embed, positions, the last norm's two


def test_is_its_formula():
    """By torch's own encoder layer with a mask, which is the same block."""
    model = gpt()
    x = model.embed.weight[TOKENS] + model.positions.table.weight
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True)
        attention = block.attention
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key.bias, attention.value.bias]))
        layer.self_attn.out_proj.load_state_dict(attention.output.state_dict())
        layer.linear1.load_state_dict(block.feed_forward.widen.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.narrow.state_dict())
        x = layer(x, src_mask=torch.ones(6, 6, dtype=torch.bool).triu(1))
    expected = F.layer_norm(x, (8,)) @ model.embed.weight.T
    assert torch.allclose(model(TOKENS), expected, atol=1e-5)


def test_without_biases_it_is_the_model_whose_biases_are_nothing():
    without, within = gpt(biases=False), gpt()
    names = {name for name, _ in without.named_parameters()}
    assert not [name for name in names if name.endswith("bias")]
    assert len(names) == 3 + 2 * 8
    told = within.load_state_dict(without.state_dict(), strict=False)
    assert len(told.missing_keys) == 1 + 2 * 8
    with torch.no_grad():
        for name in told.missing_keys:
            within.get_parameter(name).zero_()
    assert torch.allclose(without(TOKENS), within(TOKENS), atol=1e-6)
    logits, state = without.begin(TOKENS[:, :3])
    assert torch.allclose(logits, without(TOKENS[:, :3])[:, -1], atol=1e-6)
    assert torch.allclose(without.step(TOKENS[:, 3], state)[0], without(TOKENS[:, :4])[:, -1], atol=1e-6)


def test_both_kernels_are_the_same_model():
    fused, explicit = gpt(), gpt(kernel="explicit")
    assert torch.allclose(fused(TOKENS), explicit(TOKENS), atol=1e-6)
    for model in (fused, explicit):
        F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
    for one, other in zip(fused.parameters(), explicit.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_nothing_is_read_from_the_future():
    model, other = gpt(), TOKENS.clone()
    other[:, 4] = 7
    assert torch.equal(model(TOKENS)[:, :4], model(other)[:, :4])
    assert not torch.allclose(model(TOKENS)[:, 5], model(other)[:, 5])


def test_order_is_told_by_the_positions_alone():
    model, swapped = gpt(layers=1), TOKENS[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(model(TOKENS)[:, 5], model(swapped)[:, 5])
    nn.init.zeros_(model.positions.table.weight)
    assert torch.allclose(model(TOKENS)[:, 5], model(swapped)[:, 5], atol=1e-6)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(DataError, match="the model has 6 positions, and was given a text of 7 tokens"):
        gpt()(torch.zeros(1, 7, dtype=torch.int64))


def test_what_is_not_a_running_text_is_for_another_model():
    with pytest.raises(ValueError, match="these data ask for 'sequence', and gpt tells the next token: choose another model"):
        gpt(predicts="sequence")


def test_dropout_only_in_training():
    model, without = gpt(dropout=0.5), gpt()
    assert torch.equal(model.eval()(TOKENS), without(TOKENS))
    assert not torch.equal(model.train()(TOKENS), without(TOKENS))


def test_step_by_step_is_the_same_as_at_once():
    model = gpt()
    logits, state = model.begin(TOKENS[:, :2])
    assert torch.allclose(logits, model(TOKENS)[:, 1], atol=1e-6)
    for place in range(2, 6):
        logits, state = model.step(TOKENS[:, place], state)
        assert torch.allclose(logits, model(TOKENS)[:, place], atol=1e-6)
    assert [tuple(part.shape) for part in state] == [(2, 6), *[(2, 2, 6, 4)] * 4]


def test_a_full_context_is_read_anew_from_its_later_half():
    model = gpt()
    _, state = model.begin(TOKENS)
    logits, state = model.step(torch.tensor([8, 7]), state)
    assert state[0].tolist() == [[8, 4, 8], [6, 5, 7]]
    assert torch.allclose(logits, model(state[0])[:, -1], atol=1e-6)
    assert model.begin(torch.cat([TOKENS, TOKENS], dim=1))[1][0].tolist() == TOKENS.tolist()


def test_a_beam_of_all_tokens_finds_the_most_probable_pair():
    """The state goes with its beam: 9 beams of 9 tokens are every text of two tokens."""
    model = gpt()
    nn.init.normal_(model.embed.weight, generator=torch.Generator().manual_seed(1))
    _, state = model.begin(torch.tensor([[4]]))
    state = tuple(part.repeat_interleave(9, dim=0) for part in state)
    with torch.no_grad():
        found, score = beam_search(model.step, state, batch=1, beams=9, start=5, end=-1, limit=2)
        first = model(torch.tensor([[4, 5]]))[0, -1].log_softmax(-1)
        texts = torch.tensor([[4, 5, token] for token in range(9)])
        pairs = first.unsqueeze(1) + model(texts)[:, -1].log_softmax(-1)
    best = int(pairs.argmax())
    assert found.tolist() == [[best // 9, best % 9]]
    assert score.item() == pytest.approx(pairs.max().item() / 2, abs=1e-5)


def test_a_continuation_past_the_context_is_drawn_from_what_the_whole_model_says():
    vocabulary = TokenSettings(tokens="character").train(["abcde"])
    objective = LanguageModelling(vocabulary=vocabulary.dump(), continuation=9, temperature=5.0, generation_seed=3)
    model, ids, begin, generator = gpt(), [4, 5], 0, torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _ in range(9):
            if len(ids) - begin > 6:
                begin = len(ids) - 3
            logits = model(torch.tensor([ids[begin:]]))[0, -1]
            logits[:4] = float("-inf")
            ids.append(draw(logits, temperature=5.0, top_k=0, top_p=1.0, generator=generator))
    batch = {"inputs": torch.tensor([[4, 5]]), "lengths": torch.tensor([2]), "index": torch.tensor([0])}
    assert objective.answer(model, batch)["text"] == vocabulary.decode(ids[2:])
    assert len(set(ids[2:])) > 2


def test_what_is_not_recurrent_and_has_no_words_shows_its_loss_alone():
    drawn = LanguageModelling().explain(gpt(), StreamSplit(torch.arange(5, dtype=torch.int32), torch.arange(1, 6), block=4))
    assert drawn.keys() == {"loss_by_position"}


def test_overfits_one_batch():
    model = gpt(channels=16)
    RandomNormal(std=0.1, embedding_std=0.1).initialize(model, activation=nn.GELU(), generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(1, 9, (4, 7), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = torch.arange(4)  # each text is known from its first token
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
