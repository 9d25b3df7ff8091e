"""BERT: its published sizes, what each head reads, padding and segments; agreement with the reference is in tests/hugging_face."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.errors import DataError
from components.initializers import RandomNormal
from components.models.bert import Bert

TOKENS = torch.tensor([[4, 5, 6, 7, 8, 4], [5, 4, 8, 3, 0, 0]])
LENGTHS = torch.tensor([6, 4])


def bert(**settings) -> Bert:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "context": 6, "channels": 8, "heads": 2, "layers": 2, "dropout": 0.0, "activation": nn.GELU}
    return Bert(**sizes | settings)


@pytest.mark.parametrize(
    ("sizes", "millions", "exactly"),
    [({}, 110, 109_482_240), ({"channels": 1024, "heads": 16, "layers": 24}, 340, 335_141_888)],
    ids=["base", "large"],
)
def test_base_has_110_million_weights_and_large_340(sizes: dict[str, int], millions: int, exactly: int):
    """As in Devlin et al. 2019, section 3, rounded there; exactly it is the encoder with its pooler, of 30,522 words."""
    with torch.device("meta"):
        model = Bert(vocabulary_size=30_522, activation=nn.GELU, **sizes)
    counted = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head.classes"))
    assert counted == exactly
    assert abs(counted / 1e6 - millions) < 5


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"predicts": "sequence", "classes": 3}, (2, 3)),
        ({"predicts": "sequence", "classes": 3, "pool": "mean"}, (2, 3)),
        ({"predicts": "each", "classes": 5}, (2, 6, 5)),
        ({"predicts": "span"}, (2, 6, 2)),
    ],
)
def test_each_head_says_what_is_asked(settings, shape):
    model = bert(**settings)
    said = model(TOKENS, LENGTHS)
    assert said.shape == shape
    assert torch.allclose(model(model.features(TOKENS, LENGTHS), LENGTHS), said, atol=1e-6)
    assert torch.allclose(model.read(model.vectors(TOKENS), LENGTHS), said, atol=1e-6)


def test_the_pooler_reads_the_first_place_and_the_mean_a_texts_own_places():
    first, average = bert(classes=3), bert(classes=3, pool="mean")
    states = first.states(TOKENS, LENGTHS)[-1]
    pooled = torch.tanh(states[:, 0] @ first.head.pooler.weight.T + first.head.pooler.bias)
    assert torch.allclose(first(TOKENS, LENGTHS), first.head.classes(pooled), atol=1e-6)
    states = average.states(TOKENS, LENGTHS)[-1]
    assert torch.allclose(average.features(TOKENS, LENGTHS), torch.stack([states[0].mean(0), states[1, :4].mean(0)]), atol=1e-6)


def test_a_relation_is_read_from_both_marks():
    model, places = bert(predicts="relation", classes=3), torch.tensor([[1, 4], [3, 0]])
    states = model.states(TOKENS, LENGTHS)[-1]
    read = torch.stack([torch.cat([states[0, 1], states[0, 4]]), torch.cat([states[1, 3], states[1, 0]])])
    assert torch.allclose(model(TOKENS, LENGTHS, places=places), model.head.classes(read), atol=1e-6)


def test_masked_words_are_told_at_their_places_alone():
    model, places = bert(predicts="pretraining"), torch.zeros(2, 6, dtype=torch.bool)
    places[0, 2] = places[0, 5] = places[1, 1] = True
    words, follows = model(TOKENS, LENGTHS, places=places)
    everywhere, same = model(TOKENS, LENGTHS)
    assert words.shape == (3, 9)
    assert follows.shape == (2, 2)
    assert torch.allclose(words, everywhere[places], atol=1e-6)
    assert torch.equal(follows, same)
    hidden = F.layer_norm(F.gelu(model.head.transform(model.states(TOKENS, LENGTHS)[-1][1, 1])), (8,), eps=1e-12)
    assert torch.allclose(words[2], model.embeddings.words.weight @ hidden, atol=1e-5)  # tied, and the bias begins at 0


def test_padding_changes_nothing_and_both_directions_are_read():
    model, other = bert(), TOKENS.clone()
    other[1, 4:] = 7
    assert torch.equal(model(TOKENS, LENGTHS), model(other, LENGTHS))
    assert torch.allclose(model(TOKENS, LENGTHS)[1], model(TOKENS[1:, :4])[0], atol=1e-6)
    other[1, 3] = 7  # the last word reaches the first place
    assert not torch.allclose(model(TOKENS, LENGTHS)[1], model(other, LENGTHS)[1])


def test_segments_and_places_are_told():
    model = bert()
    second = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
    assert torch.equal(model(TOKENS, LENGTHS), model(TOKENS, LENGTHS, torch.zeros_like(second)))
    assert not torch.allclose(model(TOKENS, LENGTHS), model(TOKENS, LENGTHS, second))
    assert not torch.allclose(model(TOKENS)[0], model(TOKENS[:, [0, 2, 1, 3, 4, 5]])[0])


def test_attentions_are_those_that_the_model_uses():
    model, explicit = bert(), bert(kernel="explicit")
    assert torch.allclose(model(TOKENS, LENGTHS), explicit(TOKENS, LENGTHS), atol=1e-6)
    found = model.attentions(TOKENS, LENGTHS)
    assert [tuple(weights.shape) for weights in found] == [(2, 2, 6, 6)] * 2
    assert torch.allclose(found[1].sum(-1), torch.ones(2, 2, 6))
    assert found[1][1, :, :, 4:].abs().max() == 0
    attention, state = model.blocks[1].attention, model.states(TOKENS, LENGTHS)[1]
    query, key = (layer(state[0]).view(6, 2, 4)[:, 1] for layer in (attention.query, attention.key))
    assert torch.allclose(found[1][0, 1], F.softmax(query @ key.T / 2, dim=-1), atol=1e-6)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="these data ask for 'next', and bert reads in both directions: choose another model"):
        bert(predicts="next")
    with pytest.raises(DataError, match="the model has 6 positions, and was given a text of 7 tokens"):
        bert()(torch.zeros(1, 7, dtype=torch.int64))


def test_dropout_only_in_training():
    model, without = bert(dropout=0.5), bert()
    assert torch.equal(model.eval()(TOKENS), without(TOKENS))
    assert not torch.equal(model.train()(TOKENS), without(TOKENS))


def test_overfits_one_batch():
    """Masked words of one batch are learned by heart, and which pairs belong together."""
    model = bert(predicts="pretraining", channels=16)
    RandomNormal(std=0.1, embedding_std=0.1).initialize(model, activation=nn.GELU(), generator=torch.Generator().manual_seed(0))
    words = torch.randint(2, 9, (6, 6), generator=torch.Generator().manual_seed(0))
    inputs, places, pair = words.clone(), torch.zeros(6, 6, dtype=torch.bool), torch.tensor([0, 1, 0, 1, 1, 0])
    places[:, 3] = True
    inputs[places] = 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        told, follows = model(inputs, places=places)
        loss = F.cross_entropy(told, words[places]) + F.cross_entropy(follows, pair)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
