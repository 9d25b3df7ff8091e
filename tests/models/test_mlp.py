"""The MLP by hand, its names, its dropout, and that it can learn a batch by heart."""

import pytest
import torch
from torch import nn

from components.initializers import HeNormal
from components.models.mlp import MLP


def test_forward_by_hand():
    model = MLP(input_shape=[1, 1, 2], classes=1, hidden=[2], activation=nn.ReLU)
    with torch.no_grad():
        model.layers.hidden1.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
        model.layers.hidden1.bias.copy_(torch.tensor([0.5, 0.0]))
        model.layers.output.weight.copy_(torch.tensor([[2.0, 10.0]]))
        model.layers.output.bias.fill_(-1.0)
    # (1, 1): h = relu(1 + 2 + 0.5, 3 − 4) = (3.5, 0), y = 2·3.5 − 1 = 6.   (2, 0): h = relu(2 + 0.5, 6) = (2.5, 6), y = 5 + 60 − 1 = 64
    assert model(torch.tensor([[[[1.0, 1.0]]], [[[2.0, 0.0]]]])).tolist() == [[6.0], [64.0]]


def test_names_and_shapes():
    model = MLP(input_shape=[3, 4, 5], classes=7, hidden=[11, 13], activation=nn.Tanh)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "layers.hidden1.weight": (11, 60),
        "layers.hidden1.bias": (11,),
        "layers.hidden2.weight": (13, 11),
        "layers.hidden2.bias": (13,),
        "layers.output.weight": (7, 13),
        "layers.output.bias": (7,),
    }
    assert model(torch.randn(2, 3, 4, 5)).shape == (2, 7)
    assert [type(module) for module in model.layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_no_hidden_layer_is_a_linear_classifier():
    model = MLP(input_shape=[3], classes=2, hidden=[], activation=nn.ReLU)
    inputs = torch.randn(4, 3)
    assert torch.equal(model(inputs), model.layers.output(inputs))


def test_dropout_only_in_training_and_never_in_the_names():
    torch.manual_seed(0)
    model = MLP(input_shape=[4], classes=2, hidden=[64], activation=nn.ReLU, dropout=0.5)
    without = MLP(input_shape=[4], classes=2, hidden=[64], activation=nn.ReLU)
    without.load_state_dict(model.state_dict())
    inputs = torch.randn(3, 4)
    assert torch.equal(model.eval()(inputs), without(inputs))
    assert not torch.equal(model.train()(inputs), without(inputs))


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = MLP(input_shape=[1, 6, 6], classes=4, hidden=[32, 32], activation=nn.ReLU)
    HeNormal().initialize(model, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.randn(16, 1, 6, 6), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    assert torch.equal(model(inputs).argmax(dim=1), targets)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": [4, 0]}, r"hidden=\[4, 0\]"),
        ({"input_shape": [1, -28, 28]}, r"input_shape=\[1, -28, 28\]"),
        ({"classes": 0}, "classes=0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        MLP(**({"input_shape": [4], "classes": 2, "hidden": [3], "activation": nn.ReLU} | wrong))
