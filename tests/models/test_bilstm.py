"""The bidirectional LSTM: two LSTMs side by side, what it must not be asked, and that it can learn a batch by heart."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.initializers import NormalizedXavier
from components.models.bilstm import BiLSTM


def bilstm(**settings) -> BiLSTM:
    torch.manual_seed(0)
    return BiLSTM(**{"vocabulary_size": 9, "classes": 3, "embedding": 5, "hidden": 6, "activation": nn.Tanh} | settings)


def test_the_second_reads_from_the_end_of_each_text():
    model, tokens = bilstm(), torch.tensor([[4, 5, 6, 7], [5, 4, 0, 0]])
    forward, backward = nn.LSTM(5, 6, batch_first=True), nn.LSTM(5, 6, batch_first=True)
    weights = model.recurrent.cell.state_dict()
    forward.load_state_dict({name: weights[name] for name in forward.state_dict()})
    backward.load_state_dict({name: weights[f"{name}_reverse"] for name in backward.state_dict()})
    logits = model(tokens, torch.tensor([4, 2]))
    for row, words in enumerate((tokens[:1], tokens[1:, :2])):
        ends = [net(model.embed(read))[1][0][-1] for net, read in ((forward, words), (backward, words.flip(1)))]
        assert torch.allclose(logits[row : row + 1], model.head(torch.cat(ends, dim=-1)), atol=1e-6)


def test_it_sees_what_comes_after_and_so_cannot_tell_the_next():
    model = bilstm(predicts="each").eval()
    assert not torch.equal(model(torch.tensor([[4, 5, 6]]))[:, 0], model(torch.tensor([[4, 5, 7]]))[:, 0])
    with pytest.raises(ValueError, match="sees the token that it is to tell: choose rnn, lstm or gru"):
        bilstm(predicts="next")


def test_overfits_one_batch():
    model = bilstm(hidden=16, pool="max")
    NormalizedXavier(embedding_std=0.5).initialize(model, activation=nn.Tanh(), generator=torch.Generator().manual_seed(0))
    tokens, targets = torch.randint(1, 9, (12, 7)), torch.arange(12) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens, torch.full((12,), 7)), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
