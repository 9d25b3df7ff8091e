"""The recurrent layers: both forms agree in value and gradient, one step of each by hand, padding, gates, activations."""

import math

import pytest
import torch
from torch import nn

from components.initializers import NormalizedXavier
from components.layers.recurrent import Recurrent

CELLS = ["rnn", "lstm", "gru"]


def layer(cell: str, kernel: str = "explicit", activation=nn.Tanh, **settings) -> Recurrent:
    torch.manual_seed(1)
    return Recurrent(cell=cell, kernel=kernel, activation=activation, **{"input_size": 3, "hidden": 4} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [None, [5, 2, 4]], ids=["full", "ragged"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("cell", CELLS)
def test_both_forms_agree_in_value_and_gradient(cell, layers, bidirectional, lengths):
    forms = [layer(cell, kernel, layers=layers, bidirectional=bidirectional).double() for kernel in ("fused", "explicit")]
    assert list(dict(forms[0].named_parameters())) == list(dict(forms[1].named_parameters()))
    forms[1].load_state_dict(forms[0].state_dict())
    inputs = torch.randn(3, 5, 3, dtype=torch.float64)
    weigh = torch.randn(3, 5, forms[0].output_size, dtype=torch.float64)
    ends, values, gradients = (None if lengths is None else torch.tensor(lengths)), [], []
    for form in forms:
        given = inputs.clone().requires_grad_()
        outputs, state = form(given, ends)
        ((outputs * weigh).sum() + sum((part**2).sum() for part in state)).backward()
        values.append([outputs, *state])
        gradients.append([given.grad, *(parameter.grad for parameter in form.parameters())])
    for fused, explicit in [*zip(*values, strict=True), *zip(*gradients, strict=True)]:
        assert (fused - explicit).abs().max() < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_both_forms_agree_in_single_precision(cell):
    fused, explicit = layer(cell, "fused"), layer(cell)
    explicit.load_state_dict(fused.state_dict())
    inputs = torch.randn(2, 50, 3)
    assert (fused(inputs)[0] - explicit(inputs)[0]).abs().max() < 1e-6


def set_all(form: Recurrent, **values: list[float]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameter = getattr(form.cell, f"{name}_l0")
            parameter.copy_(torch.tensor(value).view_as(parameter))


def test_a_step_of_the_simple_rnn_by_hand():
    form = layer("rnn", input_size=1, hidden=1)
    set_all(form, weight_ih=[2.0], weight_hh=[0.5], bias_ih=[0.1], bias_hh=[-0.2])
    outputs, (state,) = form(torch.tensor([[[1.0], [0.0]]]))
    first = math.tanh(2 + 0.1 - 0.2)
    second = math.tanh(0.5 * first - 0.1)
    assert outputs.flatten().tolist() == pytest.approx([first, second])
    assert state.item() == pytest.approx(second)


def test_a_step_of_the_lstm_by_hand():
    form = layer("lstm", input_size=1, hidden=1)
    set_all(form, weight_ih=[1.0, 2.0, 3.0, 4.0], weight_hh=[0.0] * 4, bias_ih=[0.0] * 4, bias_hh=[0.0] * 4)
    _, (state, cell) = form(torch.tensor([[[0.5]]]), state=(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)))

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    kept = sigma(1.0) * 2 + sigma(0.5) * math.tanh(1.5)  # torch's order of gates: input, forget, candidate, output
    assert cell.item() == pytest.approx(kept)
    assert state.item() == pytest.approx(sigma(2.0) * math.tanh(kept))
    gates = form.gates(torch.tensor([[[0.5]]]))[0]
    assert {name: gate.item() for name, gate in gates.items() if name in ("input", "forget", "candidate", "output")} == pytest.approx(
        {"input": sigma(0.5), "forget": sigma(1.0), "candidate": math.tanh(1.5), "output": sigma(2.0)}
    )


def test_a_step_of_the_gru_by_hand():
    form = layer("gru", input_size=1, hidden=1)
    set_all(form, weight_ih=[0.0, 0.0, 1.0], weight_hh=[0.0, 0.0, 4.0], bias_ih=[0.0, math.log(3), 0.0], bias_hh=[0.0] * 3)
    # reset 1/2, update 3/4, candidate tanh(0.3 + 1/2·4·0.1)
    _, (state,) = form(torch.tensor([[[0.3]]]), state=(torch.full((1, 1, 1), 0.1),))
    assert state.item() == pytest.approx(0.25 * math.tanh(0.5) + 0.75 * 0.1)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing_and_comes_out_as_zero(cell, kernel):
    form = layer(cell, kernel, layers=2, bidirectional=True)
    inputs, lengths = torch.randn(2, 6, 3), torch.tensor([6, 4])
    outputs, state = form(inputs, lengths)
    noisy = inputs.clone()
    noisy[1, 4:] = 99.0
    again, same = form(noisy, lengths)
    assert torch.equal(outputs, again)
    assert all(torch.equal(one, other) for one, other in zip(state, same, strict=True))
    assert torch.equal(outputs[1, 4:], torch.zeros(2, 8))
    alone, _ = form(inputs[1:, :4])
    assert torch.allclose(outputs[1:, :4], alone, atol=1e-6)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_two_parts_is_the_same_as_in_one(cell, kernel):
    form, inputs = layer(cell, kernel, layers=2), torch.randn(2, 7, 3)
    whole, last = form(inputs)
    first, state = form(inputs[:, :3])
    second, end = form(inputs[:, 3:], state=state)
    assert torch.allclose(whole, torch.cat([first, second], dim=1), atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(last, end, strict=True))


def test_gates_of_the_fused_form_explain_its_output():
    form = layer("lstm", "fused", layers=2, bidirectional=True)
    inputs, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    outputs, _ = form(inputs, lengths)
    gates = form.gates(inputs, lengths)
    assert len(gates) == 4
    assert set(gates[0]) == {"input", "forget", "candidate", "output", "cell", "state"}
    top = torch.cat([gates[2]["state"], gates[3]["state"]], dim=-1)
    assert torch.allclose(top[0], outputs[0], atol=1e-6)
    assert torch.allclose(top[1, :3], outputs[1, :3], atol=1e-6)


def test_the_explicit_form_takes_the_chosen_activation():
    form = layer("rnn", activation=nn.Sigmoid, input_size=1, hidden=1)
    set_all(form, weight_ih=[0.0], weight_hh=[0.0], bias_ih=[0.0], bias_hh=[0.0])
    assert form(torch.zeros(1, 1, 1))[0].item() == 0.5
    assert [type(module) for module in form.children()] == [nn.RNN, nn.Sigmoid]
    relu = layer("rnn", "fused", activation=nn.ReLU)
    same = layer("rnn", activation=nn.ReLU)
    same.load_state_dict(relu.state_dict())
    inputs = torch.randn(2, 4, 3)
    assert torch.allclose(relu(inputs)[0], same(inputs)[0], atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_fused_form_refuses_what_it_does_not_have(cell):
    with pytest.raises(ValueError, match=f"fused kernel of {cell} has tanh built in, not ELU: choose activation=tanh or kernel=explicit"):
        layer(cell, "fused", activation=nn.ELU)


def test_the_initializers_know_its_parameters():
    form = layer("lstm")
    NormalizedXavier(forget_bias=1.0).initialize(form, activation=nn.Tanh(), generator=torch.Generator().manual_seed(0))
    assert form.cell.bias_ih_l0.tolist() == [0] * 4 + [1] * 4 + [0] * 8
    for gate in form.cell.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.mT, torch.eye(4), atol=1e-5)
