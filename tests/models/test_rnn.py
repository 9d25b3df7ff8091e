"""The RNN: its size, that it is torch's RNN under its head, and that it can learn a batch by heart. What all share: test_lstm.py."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.initializers import NormalizedXavier
from components.models.rnn import RNN


def model(**settings) -> RNN:
    torch.manual_seed(0)
    return RNN(**{"vocabulary_size": 9, "classes": 3, "embedding": 5, "hidden": 6, "activation": nn.Tanh} | settings)


def test_it_is_torchs_under_a_head():
    ours, tokens = model(), torch.randint(1, 9, (2, 7))
    reference = nn.RNN(5, 6, batch_first=True)
    reference.load_state_dict(ours.recurrent.cell.state_dict())
    _, last = reference(ours.embed(tokens))
    assert torch.allclose(ours(tokens, torch.tensor([7, 7])), ours.head(last[-1]), atol=1e-6)
    assert sum(parameter.numel() for parameter in ours.recurrent.parameters()) == 1 * (6 * 5 + 6 * 6 + 2 * 6)


def test_another_activation_needs_the_explicit_kernel():
    assert isinstance(model(activation=nn.ELU, kernel="explicit").recurrent.activation, nn.ELU)
    with pytest.raises(ValueError, match="fused kernel of rnn has tanh"):
        model(activation=nn.ELU)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_overfits_one_batch(kernel: str):
    ours = model(hidden=24, kernel=kernel)
    NormalizedXavier(embedding_std=0.5).initialize(ours, activation=nn.Tanh(), generator=torch.Generator().manual_seed(0))
    tokens, targets = torch.randint(1, 9, (9, 5)), torch.arange(9) % 3
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(ours(tokens, torch.full((9,), 5)), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
