import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from components.training.diagnostics import Diagnostics, first_not_finite, in_order


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def measured(model, inputs, loss=torch.sum):
    diagnostics = Diagnostics(model, every=1)
    with diagnostics.watch():
        loss(model(inputs)).backward()
    return diagnostics.read()


def linear(weight, bias=0.0):
    weight = torch.tensor(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.fill_(bias)
    return layer


def test_gradient_norms_and_saturation_by_hand():
    # x = (3, 4); first layer is the identity, so ReLU keeps both; the last layer's weight gradient is the hidden vector (3, 4): norm 5.
    # The first layer's weight gradient is the outer product of (1, 2) and (3, 4): norm √5 · 5. Biases do not count.
    model = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), linear([[1.0, 2.0]]))
    values = measured(model, torch.tensor([[3.0, 4.0]]))
    assert list(values) == ["gradients/0", "gradients/2", "saturation/1"]
    assert values["gradients/0"] == pytest.approx(5 * math.sqrt(5))
    assert values["gradients/2"] == pytest.approx(5.0)
    assert values["saturation/1"] == 0.0


def test_saturated_share_counts_all_calls_of_a_module():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 1))
            self.activation = nn.ReLU()

        def forward(self, x):
            return self.activation(x * self.scale).sum() + self.activation(-x[:, :1] * self.scale).sum()

    # First call: -1 of (-1, 1, 2) is cut; second call on one element: -(-1) = 1 is kept. One of four.
    values = measured(Twice(), torch.tensor([[-1.0, 1.0, 2.0]]))
    assert values["saturation/activation"] == 0.25


def test_a_layer_called_twice_has_the_sum_of_its_gradients_and_a_shared_one_is_named_once():
    shared = linear([[2.0]])
    model = nn.Sequential(shared, shared)
    # y = w·(w·x + b) + b with b = 0: dy/dw = 2·w·x = 4·3
    values = measured(model, torch.tensor([[3.0]]))
    assert values == {"gradients/0": pytest.approx(12.0)}


def test_tied_weights_count_for_the_first_layer():
    first, second = linear([[2.0]]), linear([[5.0]])
    second.weight = first.weight
    assert measured(nn.Sequential(first, second), torch.tensor([[3.0]])) == {"gradients/0": pytest.approx(12.0)}


def test_layers_are_in_the_order_of_their_calls_not_of_their_registration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 1)
            self.body = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.Linear(2, 2)})
            self.start = nn.Parameter(torch.eye(2))

        def forward(self, x):
            return self.head(self.body["b"](self.body["a"](x @ self.start)))

    assert list(measured(Backwards(), torch.ones(1, 2))) == [
        "gradients/Backwards",
        "gradients/body.a",
        "gradients/body.b",
        "gradients/head",
    ]


def test_weights_used_without_calling_their_module_stay_with_the_module_around_them():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 1)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)  # uses attention.out_proj.weight, never calls out_proj

        def forward(self, x):
            return self.last(self.attention(x, x, x)[0])

    values = measured(Model(), torch.randn(2, 3, 4))
    assert list(values) == ["gradients/attention", "gradients/attention.out_proj", "gradients/last"]
    assert all(value > 0 for value in values.values())


def test_frozen_layers_have_no_entry_and_unused_ones_have_gradient_zero():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[1](model[0](x))
    model[0].weight.requires_grad_(False)
    values = measured(model, torch.ones(1, 2))
    assert sorted(values) == ["gradients/1", "gradients/unused"]
    assert values["gradients/unused"] == 0.0


def test_a_vanishing_gradient_is_not_rounded_to_zero():
    model = nn.Linear(2, 2, bias=False)
    model.weight.grad = torch.full((2, 2), 1e-30)
    assert Diagnostics(model, 1).read() == {"gradients/Linear": pytest.approx(2e-30)}
    model.weight.grad = torch.tensor([[1.0, math.nan], [0.0, 0.0]])
    assert math.isnan(Diagnostics(model, 1).read()["gradients/Linear"])


def test_recurrent_weights_of_one_layer_are_one_number():
    model = nn.LSTM(2, 3, batch_first=True)
    values = measured(model, torch.ones(1, 4, 2), loss=lambda output: output[0].sum())
    expected = math.hypot(float(model.weight_ih_l0.grad.norm()), float(model.weight_hh_l0.grad.norm()))
    assert values == {"gradients/LSTM": pytest.approx(expected)}


def test_due_at_the_first_step_and_every_n():
    assert [step for step in range(1, 11) if Diagnostics(nn.ReLU(), 4).due(step)] == [1, 4, 8]
    assert not any(Diagnostics(nn.ReLU(), 0).due(step) for step in range(1, 11))


def test_hooks_are_there_only_while_watching_and_go_even_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    diagnostics = Diagnostics(model, 1)
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="stop"), diagnostics.watch():
        assert hooks(model) == 4
        raise RuntimeError("stop")
    assert hooks(model) == 0


def test_a_second_watch_forgets_the_first():
    model = nn.Sequential(nn.ReLU())
    diagnostics = Diagnostics(model, 1)
    with diagnostics.watch():
        model(torch.tensor([-1.0]))
    with diagnostics.watch():
        model(torch.tensor([1.0]))
    assert diagnostics.read() == {"saturation/0": 0.0}


def test_watching_changes_no_bit_of_the_gradients():
    def gradients(watch):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))
        diagnostics = Diagnostics(model, 1)
        inputs = torch.randn(16, 4)
        if watch:
            with diagnostics.watch():
                model(inputs).square().mean().backward()
            assert 0 < diagnostics.read()["gradients/0"] < 1
        else:
            model(inputs).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()], torch.rand(3)

    plain, watched = gradients(False), gradients(True)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert torch.equal(plain[1], watched[1])


def test_deep_sigmoids_lose_their_gradient_and_relus_do_not():
    def ratio(activation, initialize):
        torch.manual_seed(0)
        layers = []
        for _ in range(12):
            layers += [nn.Linear(64, 64), activation()]
            initialize(layers[-2].weight)
        values = measured(nn.Sequential(*layers, nn.Linear(64, 1)), torch.randn(32, 64))
        return values["gradients/0"] / values["gradients/22"]

    assert ratio(nn.Sigmoid, nn.init.xavier_uniform_) < 1e-5
    assert ratio(nn.ReLU, nn.init.kaiming_uniform_) > 0.1


class Break(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_layer_that_is_not_finite_is_named_inner_before_outer(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), Break(value)), nn.Tanh())
    inputs = torch.ones(1, 2)
    assert first_not_finite(model, lambda: model(inputs)) == "1.1"
    assert hooks(model) == 0


def test_none_when_all_is_finite_and_the_class_name_for_the_model_itself():
    model = nn.Linear(2, 2)
    assert first_not_finite(model, lambda: model(torch.ones(1, 2))) is None
    assert first_not_finite(model, lambda: model(torch.full((1, 2), math.nan))) == "Linear"


def test_nested_outputs_are_searched_and_integers_pass():
    class Nested(nn.Module):
        def forward(self, x):
            return {"ids": torch.tensor([1, 2]), "boxes": [(x, None), (x, x / 0)]}

    model = nn.Sequential(nn.Identity())
    model.add_module("nested", Nested())
    assert first_not_finite(model, lambda: model(torch.ones(2))) == "nested"


def test_the_order_is_that_of_execution():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = Break(math.inf), Break(math.inf)

        def forward(self, x):
            return self.second(self.first(x))

    model = Model()
    assert first_not_finite(model, lambda: model(torch.ones(1))) == "first"


def test_looking_leaves_no_trace():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model(torch.randn(4, 3)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(2), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)

    def run():
        random.random(), np.random.rand()
        model(torch.randn(4, 3))

    assert first_not_finite(model, run) is None
    assert torch.equal(torch.rand(2), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert model.training
    assert all(torch.equal(parameter.grad, before) for parameter, before in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_hooks_go_when_the_run_fails():
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        first_not_finite(model, lambda: model(torch.ones(1, 5)))
    assert hooks(model) == 0


def test_a_layer_that_is_never_called_stands_where_it_was_built():
    called = {"": 0, "embed": 1, "head": 2, "block": 3}
    assert in_order(["scale", "embed", "recurrent.cell", "head", "block.weights"], called) == [
        "scale", "embed", "recurrent.cell", "head", "block.weights",
    ]  # fmt: skip
    assert in_order(["head", "embed", ""], called) == ["", "embed", "head"]
