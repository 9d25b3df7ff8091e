"""BART: its published size, its entrance and its ties, steps that agree with the whole; the rest is held against transformers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.errors import DataError
from components.initializers import RandomNormal
from components.models.bart import Bart

SOURCE, LENGTHS = torch.tensor([[4, 5, 6, 7], [5, 4, 0, 0]]), torch.tensor([4, 2])
GIVEN = torch.tensor([[2, 4, 5], [2, 6, 0]])


def bart(**settings) -> Bart:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "target_vocabulary_size": 9, "context": 6, "channels": 8, "heads": 2, "layers": 2, "dropout": 0.0}
    return Bart(**sizes | {"activation": nn.GELU} | settings)


@pytest.mark.parametrize(("sizes", "millions"), [({}, 139), ({"channels": 1024, "heads": 16, "layers": 12}, 406)])
def test_the_published_sizes(sizes: dict, millions: int):
    """fairseq's table: base 140 M, large 400 M."""
    with torch.device("meta"):
        model = Bart(vocabulary_size=50_265, target_vocabulary_size=50_265, activation=nn.GELU, **sizes)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions


def test_the_first_two_rows_of_a_table_of_positions_belong_to_no_place():
    model = bart()
    logits = model(SOURCE, LENGTHS, GIVEN)
    assert model.encoder_positions.table.weight.shape == (8, 8)
    for table in (model.encoder_positions.table, model.decoder_positions.table):
        nn.init.ones_(table.weight[:2])
    assert torch.equal(model(SOURCE, LENGTHS, GIVEN), logits)
    entrance = F.layer_norm(model.embed.weight[SOURCE] + model.encoder_positions.table.weight[2:6], (8,))
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(SOURCE, LENGTHS, GIVEN)
    assert torch.allclose(seen[0], entrance, atol=1e-6)


def test_step_by_step_is_the_same_as_at_once_and_nothing_is_read_from_the_future():
    model = bart()
    at_once = model(SOURCE, LENGTHS, GIVEN)
    encoded, state = model.encode(SOURCE, LENGTHS)
    for place in range(3):
        logits, state = model.step(GIVEN[:, place], state, encoded)
        assert torch.allclose(logits, at_once[:, place], atol=1e-6)
    other = GIVEN.clone()
    other[:, 2] = 7
    assert torch.equal(model(SOURCE, LENGTHS, other)[:, :2], at_once[:, :2])


def test_what_is_refused():
    with pytest.raises(ValueError, match="bart has one vocabulary, not 9 and 8 tokens"):
        bart(target_vocabulary_size=8)
    with pytest.raises(DataError, match="the model has 6 positions, and was given a text of 7 tokens"):
        bart()(torch.ones(1, 7, dtype=torch.int64), torch.tensor([7]), GIVEN[:1])


def test_overfits_one_batch():
    model = bart(channels=16, layers=1)
    RandomNormal(std=0.1, embedding_std=0.1).initialize(model, activation=nn.GELU(), generator=torch.Generator().manual_seed(0))
    source = torch.randint(4, 9, (8, 5), generator=torch.Generator().manual_seed(0))
    given = torch.cat([torch.full((8, 1), 2), source[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(source, torch.full((8,), 5), given).flatten(0, 1), source.flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
