"""Each rule's numbers against torch.nn.init and against the formulas; the walk over every kind of layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.initializers import (
    Fans,
    HeNormal,
    HeUniform,
    Normal,
    NormalizedXavier,
    Orthogonal,
    OrthogonalMatrix,
    RandomNormal,
    RandomUniform,
    Uniform,
    Xavier,
    XavierNormal,
)

ALL = [RandomUniform(), RandomNormal(), Xavier(), NormalizedXavier(), XavierNormal(), HeUniform(), HeNormal(), Orthogonal()]
ids = [type(rule).__name__ for rule in ALL]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def initialize(rule, model, activation=None, seed=0):
    return dict(rule.initialize(model, activation=activation or nn.ReLU(), generator=seeded(seed)))


@pytest.mark.parametrize(
    ("rule", "activation", "law"),
    [
        (RandomUniform(bound=0.3), nn.ReLU(), Uniform(0.3)),
        (RandomNormal(std=0.2), nn.ReLU(), Normal(0.2)),
        (Xavier(), nn.Tanh(), Uniform(0.1)),  # 1/√100
        (NormalizedXavier(), nn.Tanh(), Uniform(0.2)),  # √(6/150)
        (XavierNormal(), nn.ReLU(), Normal(math.sqrt(2 / 150))),
        (HeUniform(), nn.ReLU(), Uniform(math.sqrt(0.06))),  # √(6/100)
        (HeNormal(), nn.ReLU(), Normal(math.sqrt(0.02))),
        (HeNormal(), nn.LeakyReLU(1.0), Normal(0.1)),
        (HeNormal(), nn.Sigmoid(), Normal(math.sqrt(0.02))),  # the paper says nothing: the rectifier's √2 stays
        (HeNormal(fan="out"), nn.ReLU(), Normal(0.2)),  # √(2/50)
        (HeUniform(fan="out"), nn.LeakyReLU(0.5), Uniform(math.sqrt(3 * 1.6 / 50))),
        (Orthogonal(gain=1.5), nn.ReLU(), OrthogonalMatrix(1.5)),
    ],
)
def test_the_formulas(rule, activation, law):
    found = rule.law(Fans(100, 50), activation)
    assert type(found) is type(law)
    assert list(vars(found).values()) == pytest.approx(list(vars(law).values()))


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (NormalizedXavier(), lambda w, g: nn.init.xavier_uniform_(w, generator=g)),
        (XavierNormal(), lambda w, g: nn.init.xavier_normal_(w, generator=g)),
        (HeUniform(), lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g)),
        (HeNormal(), lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
        (HeNormal(fan="out"), lambda w, g: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu", generator=g)),
        (Orthogonal(), lambda w, g: nn.init.orthogonal_(w, generator=g)),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(12, 7), nn.Conv1d(3, 5, 4), nn.Conv2d(3, 4, (3, 2)), nn.Conv3d(2, 3, 2)])
def test_numbers_are_torchs(rule, reference, layer):
    initialize(rule, layer, seed=5)
    torch.testing.assert_close(layer.weight, reference(torch.empty_like(layer.weight), seeded(5)))
    assert layer.bias.count_nonzero() == 0


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(6, 4), 6, 4),
        (nn.Conv2d(6, 4, (3, 5)), 90, 60),
        (nn.Conv2d(6, 4, 3, groups=2), 27, 18),
        (nn.Conv1d(4, 4, 3, groups=4), 3, 3),  # depthwise: an output reads one channel, an input feeds one
        (nn.ConvTranspose2d(6, 4, 3), 54, 36),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), 27, 18),
        (nn.Bilinear(3, 5, 2), 15, 10),
    ],
)
def test_fans(layer, fan_in, fan_out):
    assert initialize(Xavier(), layer)["weight"] == str(Uniform(1 / math.sqrt(fan_in)))
    assert initialize(HeNormal(fan="out"), layer)["weight"] == str(Normal(math.sqrt(2 / fan_out)))


@settings(max_examples=15, deadline=None)
@given(rule=st.sampled_from(ALL), inputs=st.integers(120, 300), outputs=st.integers(120, 300), seed=st.integers(0, 2**32))
def test_drawn_numbers_follow_the_law(rule, inputs, outputs, seed):
    layer = nn.Linear(inputs, outputs)
    initialize(rule, layer, seed=seed)
    weight = layer.weight.detach()
    match rule.law(Fans(inputs, outputs), nn.ReLU()):
        case Uniform(bound=bound):
            assert weight.abs().max() <= bound
            assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        case Normal(std=std):
            assert weight.std() == pytest.approx(std, rel=0.05)
        case OrthogonalMatrix(gain=gain):
            assert torch.linalg.svdvals(weight) == pytest.approx(torch.full((min(inputs, outputs),), gain), rel=1e-4)
    assert abs(weight.mean()) < 5 * weight.std() / math.sqrt(weight.numel())


@pytest.mark.parametrize("rule", ALL, ids=ids)
def test_gates_are_initialized_each_on_its_own(rule):
    lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    report = initialize(rule, lstm)
    assert list(report) == [name for name, _ in lstm.named_parameters()]
    assert report["weight_ih_l0"] == f"4 blocks of {rule.law(Fans(3, 5), nn.ReLU())}"
    assert report["weight_ih_l1_reverse"] == f"4 blocks of {rule.law(Fans(10, 5), nn.ReLU())}"  # 5 units of each direction come in
    assert report["weight_hh_l0"] == "4 blocks of orthogonal ×1"
    for gate in lstm.weight_hh_l1_reverse.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5))


def test_an_lstm_starts_with_its_forget_gate_open():
    for lstm in (nn.LSTM(3, 2), nn.LSTMCell(3, 2)):
        report = initialize(Xavier(), lstm)
        names = {name.removesuffix("_l0"): parameter for name, parameter in lstm.named_parameters()}
        assert (names["bias_ih"] + names["bias_hh"]).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]  # torch's order: input, forget, cell, output
        assert "0, 1, 0, 0" in report.values()
    initialize(Xavier(forget_bias=0.0), lstm)
    assert lstm.bias_ih.count_nonzero() == 0


def test_other_recurrent_layers():
    assert initialize(Xavier(), nn.GRU(4, 5)) == {
        "weight_ih_l0": "3 blocks of U(±0.5)",
        "weight_hh_l0": "3 blocks of orthogonal ×1",
        "bias_ih_l0": "0",
        "bias_hh_l0": "0",
    }
    assert initialize(Xavier(), nn.RNNCell(4, 5, bias=False)) == {"weight_ih": "U(±0.5)", "weight_hh": "orthogonal ×1"}
    assert initialize(Xavier(), nn.LSTM(4, 9, proj_size=3, bias=False)) == {
        "weight_ih_l0": "4 blocks of U(±0.5)",
        "weight_hh_l0": "4 blocks of orthogonal ×1",
        "weight_hr_l0": "U(±0.3333)",
    }


def test_attention_is_three_projections():
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    assert initialize(NormalizedXavier(), attention) == {
        "in_proj_weight": f"3 blocks of {Uniform(math.sqrt(6 / 16))}",
        "in_proj_bias": "0",
        "bias_k": "N(0, 0.02²)",
        "bias_v": "N(0, 0.02²)",
        "out_proj.weight": str(Uniform(math.sqrt(6 / 16))),
        "out_proj.bias": "0",
    }
    initialize(Orthogonal(), attention)
    for projection in attention.in_proj_weight.chunk(3):
        torch.testing.assert_close(projection @ projection.T, torch.eye(8))
    apart = initialize(NormalizedXavier(), nn.MultiheadAttention(8, 2, kdim=4, vdim=16, bias=False))
    assert apart["k_proj_weight"] == str(Uniform(math.sqrt(6 / 12)))
    assert apart["v_proj_weight"] == str(Uniform(0.5))


def test_norms_embeddings_and_slopes():
    norms = nn.LayerNorm((3, 4)), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.RMSNorm(3)
    model = nn.Sequential(nn.Embedding(400, 50, padding_idx=2), *norms, nn.PReLU())
    for parameter in model.parameters():
        nn.init.constant_(parameter, 9)
    report = initialize(HeNormal(embedding_std=0.5), model)
    assert report == {
        "0.weight": "N(0, 0.5²)",
        "1.weight": "1",
        "1.bias": "0",
        "2.weight": "1",
        "2.bias": "0",
        "3.weight": "1",
        "3.bias": "0",
        "4.weight": "1",
        "5.weight": "0.25",
    }
    assert model[0].weight[2].count_nonzero() == 0
    assert model[0].weight.std().item() == pytest.approx(0.5, rel=0.03)
    assert model[1].weight.tolist() == [[1] * 4] * 3
    assert model[5].weight.tolist() == [0.25]


class Bare(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, 9.0)))


def test_bare_parameters_by_name_and_shape():
    model = Bare(class_token=(1, 1, 6), positions=(9, 6), query_weight=(4, 16), weight=(6,), scale_residual=(), bias_table=(2, 2))
    assert initialize(Xavier(), model) == {
        "class_token": "N(0, 0.02²)",
        "positions": "N(0, 0.02²)",
        "query_weight": "U(±0.25)",
        "weight": "1",
        "scale_residual": "1",
        "bias_table": "0",
    }
    assert not any((parameter == 9).any() for parameter in model.parameters())


def test_what_fits_no_rule_is_refused_and_nothing_is_touched():
    model = nn.Sequential(nn.Linear(2, 2), Bare(temperature=(1,)))
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"'1.temperature' of shape \(1,\) in Bare"):
        initialize(HeNormal(), model)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match="run one batch"):
        initialize(HeNormal(), nn.LazyLinear(3))


def test_tied_weights_are_set_once():
    model = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 30, bias=False))
    model[1].weight = model[0].weight
    assert initialize(HeNormal(), model) == {"0.weight": "N(0, 0.02²)"}


@pytest.mark.parametrize("rule", ALL, ids=ids)
def test_the_seed_alone_decides(rule):
    def weights(global_seed, seed):
        torch.manual_seed(global_seed)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.GRU(4, 4))
        initialize(rule, model, seed=seed)
        return nn.utils.parameters_to_vector(model.parameters())

    first = weights(1, 7)
    assert torch.equal(first, weights(2, 7))
    assert not torch.equal(first, weights(1, 8))


@pytest.mark.parametrize("rule", ALL, ids=ids)
def test_the_global_generator_is_left_alone(rule):
    model = nn.Linear(3, 3)
    before = torch.get_rng_state()
    initialize(rule, model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rule", ALL, ids=ids)
def test_on_the_meta_device_the_report_is_the_same(rule):
    def build():
        return nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 4), nn.LSTM(4, 4))

    with torch.device("meta"):
        meta = build()
    assert initialize(rule, meta) == initialize(rule, build())


def test_lower_precision_is_the_same_draw_rounded():
    exact, rounded = nn.Linear(5, 5), nn.Linear(5, 5, dtype=torch.bfloat16)
    initialize(HeNormal(), exact)
    initialize(HeNormal(), rounded)
    assert torch.equal(rounded.weight, exact.weight.bfloat16())


def test_he_keeps_a_deep_relu_signal_alive_and_xavier_lets_it_fade():
    """He et al. 2015, section 2.2: with half the variance a layer, thirty layers lose a factor 2^15 in scale."""

    def output_scale(rule):
        model = nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(128, 128), nn.ReLU())))
        initialize(rule, model)
        return model(torch.randn(64, 128, generator=seeded(1))).square().mean().sqrt().item()

    assert 0.1 < output_scale(HeNormal()) < 10
    assert output_scale(XavierNormal()) / output_scale(HeNormal()) == pytest.approx(2**-15, rel=0.01)


def test_the_ends_of_residual_steps_are_smaller_by_the_root_of_their_number():
    """GPT-2's: three blocks have six such weights, so 0.02/√6; all others keep 0.02."""
    from components.models.gpt import GPT

    model = GPT(vocabulary_size=50, context=8, channels=64, heads=2, layers=3, activation=nn.GELU)
    told = dict(RandomNormal(std=0.02, by_depth=True).initialize(model, activation=nn.GELU(), generator=torch.Generator().manual_seed(0)))
    ends = [name for name in told if name.endswith(("attention.output.weight", "narrow.weight"))]
    assert len(ends) == 6
    assert {told[name] for name in ends} == {"N(0, 0.02²) / √6"}
    assert {told[name] for name in told if name.endswith(("query.weight", "widen.weight"))} == {"N(0, 0.02²)"}
    for name in ends:
        assert model.get_parameter(name).std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    assert model.blocks[0].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    plain = GPT(vocabulary_size=50, context=8, channels=64, heads=2, layers=3, activation=nn.GELU)
    RandomNormal(std=0.02).initialize(plain, activation=nn.GELU(), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain.get_parameter(ends[0]) / math.sqrt(6), model.get_parameter(ends[0]))
