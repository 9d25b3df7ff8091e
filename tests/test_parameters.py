"""Owners of parameters: order and tied parameters as in `named_parameters`."""

from torch import nn

from components.parameters import NORMS, owned_parameters


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(1, 1).bias.detach())
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5)
        self.output.weight = self.embedding.weight


def test_tied_parameters_come_once_under_their_first_name_with_their_owner():
    model = Tied()
    assert [(name, type(owner)) for name, owner, _ in owned_parameters(model)] == [
        ("scale", Tied),
        ("embedding.weight", nn.Embedding),
        ("output.bias", nn.Linear),
    ]


def test_names_and_parameters_are_torchs():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(2, 2, bidirectional=True), nn.MultiheadAttention(4, 2))
    assert [(name, id(parameter)) for name, _, parameter in owned_parameters(model)] == [
        (name, id(parameter)) for name, parameter in model.named_parameters()
    ]


def test_every_norm_of_torch_is_known():
    over_batches = [nn.BatchNorm1d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4)]
    over_examples = [nn.InstanceNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)]
    assert all(isinstance(norm, NORMS) for norm in over_batches + over_examples)
    assert not isinstance(nn.Linear(4, 4), NORMS)
