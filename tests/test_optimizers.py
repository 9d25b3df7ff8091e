"""Every rule against the papers' formulas in plain Python, and the parameter groups."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from components.models.mlp import MLP
from components.optimizers import Adadelta, Adagrad, Adam, AdamW, GradientDescent, Momentum, Nesterov, RMSprop, decays

STEPS = 4


class Quadratic(nn.Module):
    """f(θ) = θ₁² + 3 θ₂²/2 with gradient (2 θ₁, 3 θ₂), as a 1×2 weight so that weight decay holds for it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))

    def forward(self):
        return (self.weight**2 * torch.tensor([1.0, 1.5], dtype=torch.float64)).sum()


CURVATURE = (2.0, 3.0)
START = (1.0, -2.0)


def by_hand(rule):
    """The path of θ, coordinate by coordinate: `rule(gradient, θ)` yields each new θ."""
    columns = []
    for curvature, start in zip(CURVATURE, START, strict=True):
        path = rule(lambda theta, c=curvature: c * theta, start)
        columns.append([next(path) for _ in range(STEPS)])
    return list(zip(*columns, strict=True))


def gradient_descent(gradient, theta, eta=0.1, decay=0.01):
    while True:
        theta -= eta * (gradient(theta) + decay * theta)
        yield theta


def momentum(gradient, theta, eta=0.1, mu=0.8):
    velocity = 0.0
    while True:  # Sutskever et al. 2013, equations 1 and 2
        velocity = mu * velocity - eta * gradient(theta)
        theta += velocity
        yield theta


def nesterov(gradient, theta, eta=0.1, mu=0.8):
    velocity = 0.0
    while True:  # Sutskever et al. 2013, equations 3 and 4; torch keeps the looked-ahead point
        velocity = mu * velocity - eta * gradient(theta + mu * velocity)
        theta += velocity
        yield theta + mu * velocity


def adagrad(gradient, theta, eta=0.3, epsilon=1e-3):
    total = 0.0
    while True:
        total += gradient(theta) ** 2
        theta -= eta * gradient(theta) / (math.sqrt(total) + epsilon)
        yield theta


def adadelta(gradient, theta, rho=0.9, epsilon=1e-2):
    mean_g2 = mean_d2 = 0.0
    while True:  # Zeiler 2012, algorithm 1
        g = gradient(theta)
        mean_g2 = rho * mean_g2 + (1 - rho) * g**2
        step = -math.sqrt(mean_d2 + epsilon) / math.sqrt(mean_g2 + epsilon) * g
        mean_d2 = rho * mean_d2 + (1 - rho) * step**2
        theta += step
        yield theta


def rmsprop(gradient, theta, eta=0.05, rho=0.9, epsilon=1e-3):
    mean = 0.0
    while True:
        mean = rho * mean + (1 - rho) * gradient(theta) ** 2
        theta -= eta * gradient(theta) / (math.sqrt(mean) + epsilon)
        yield theta


def adam(gradient, theta, eta=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, penalty=0.0, decay=0.0):
    m = v = 0.0
    t = 0
    while True:  # Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2
        t += 1
        g = gradient(theta) + penalty * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta -= eta * (m_hat / (math.sqrt(v_hat) + epsilon) + decay * theta)
        yield theta


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (GradientDescent(learning_rate=0.1, weight_decay=0.01), gradient_descent),
        (Momentum(learning_rate=0.1, momentum=0.8), momentum),
        (Nesterov(learning_rate=0.1, momentum=0.8), nesterov),
        (Adagrad(learning_rate=0.3, epsilon=1e-3), adagrad),
        (Adadelta(rho=0.9, epsilon=1e-2), adadelta),
        (RMSprop(learning_rate=0.05, decay=0.9, epsilon=1e-3), rmsprop),
        (Adam(learning_rate=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3), adam),
        (
            Adam(learning_rate=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.2),
            lambda gradient, theta: adam(gradient, theta, penalty=0.2),
        ),
        (
            AdamW(learning_rate=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.2),
            lambda gradient, theta: adam(gradient, theta, decay=0.2),
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "build") else "",
)
def test_the_textbooks_steps(optimizer, rule):
    model = Quadratic()
    built = optimizer.build(model)
    for expected in by_hand(rule):
        built.zero_grad()
        model().backward()
        built.step()
        assert model.weight[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_adagrads_steps_die_away_and_adadeltas_and_rmsprops_do_not():
    """The lecture's claim on a straight slope: G grows until the updates stop; a mean of squares does not."""

    def step_sizes(optimizer):
        weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
        model = nn.ParameterList([weight])
        built = optimizer.build(model)
        sizes = []
        for _ in range(100):
            before = weight.item()
            weight.grad = torch.ones_like(weight)
            built.step()
            sizes.append(before - weight.item())
        return sizes

    dying = step_sizes(Adagrad(learning_rate=1.0))
    assert dying[0] == pytest.approx(1.0)
    assert dying[99] == pytest.approx(0.1)  # 1/√100
    steady = step_sizes(RMSprop(learning_rate=1.0, epsilon=1e-10))
    assert steady[99] == pytest.approx(1.0, abs=1e-4)
    growing = step_sizes(Adadelta())
    assert growing[99] > growing[9] > 0


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4)
        self.norm = nn.LayerNorm((2, 4))  # two-dimensional scale, yet a norm
        self.positions = nn.Parameter(torch.zeros(3, 4))
        self.output = nn.Linear(4, 7)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


EXPECTED = {
    "positions": True,
    "embedding.weight": True,
    "lstm.weight_ih_l0": True,
    "lstm.weight_hh_l0": True,
    "lstm.bias_ih_l0": False,
    "lstm.bias_hh_l0": False,
    "norm.weight": False,
    "norm.bias": False,
    "output.weight": True,
    "output.bias": False,
    "frozen.weight": True,
    "frozen.bias": False,
}
ALL = [GradientDescent, Momentum, Nesterov, Adagrad, Adadelta, RMSprop, Adam, AdamW]


def test_weight_decay_skips_biases_and_norms():
    assert decays(Everything()) == EXPECTED


@pytest.mark.parametrize("optimizer", ALL)
def test_two_groups_of_trainable_parameters(optimizer):
    model = Everything()
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    built = optimizer(learning_rate=0.25, weight_decay=0.125).build(model)
    groups = [(group["weight_decay"], group["lr"], {name_of[id(p)] for p in group["params"]}) for group in built.param_groups]
    trainable = {name: decayed for name, decayed in EXPECTED.items() if not name.startswith("frozen")}
    assert groups == [
        (0.125, 0.25, {name for name, decayed in trainable.items() if decayed}),
        (0.0, 0.25, {name for name, decayed in trainable.items() if not decayed}),
    ]


@pytest.mark.parametrize("optimizer", ALL)
def test_one_group_where_weight_decay_makes_no_difference(optimizer):
    assert [len(group["params"]) for group in optimizer(weight_decay=0.0).build(Everything()).param_groups] == [10]
    assert [len(group["params"]) for group in optimizer(weight_decay=0.1).build(nn.Linear(2, 2, bias=False)).param_groups] == [1]
    assert [group["weight_decay"] for group in optimizer(weight_decay=0.1).build(nn.LayerNorm(2)).param_groups] == [0.0]


def test_nothing_to_train():
    with pytest.raises(ValueError, match="Linear has no trainable parameter"):
        Adam().build(nn.Linear(1, 1).requires_grad_(False))


@pytest.mark.parametrize("optimizer", ALL)
def test_every_optimizer_learns(optimizer):
    torch.manual_seed(0)
    model = MLP(input_shape=[8], classes=3, hidden=[16], activation=nn.Tanh)
    inputs, targets = torch.randn(12, 8), torch.arange(12) % 3
    built = optimizer().build(model)
    losses = []
    for _ in range(60):
        built.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        built.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("optimizer", ALL)
def test_builds_on_the_meta_device(optimizer):
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    assert len(optimizer().build(model).param_groups[0]["params"]) >= 1


RULES = [
    (GradientDescent(), torch.optim.SGD, {"lr": 0.1}),
    (Momentum(), torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "fused": True}),
    (Nesterov(), torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "fused": True}),
    (Adagrad(), torch.optim.Adagrad, {"lr": 0.01, "fused": True}),
    (Adadelta(), torch.optim.Adadelta, {"lr": 1.0, "rho": 0.95}),
    (RMSprop(), torch.optim.RMSprop, {"lr": 0.001, "alpha": 0.9}),
    (Adam(), torch.optim.Adam, {"lr": 0.001, "fused": True}),
    (AdamW(weight_decay=0.0), torch.optim.AdamW, {"lr": 0.001, "weight_decay": 0.0, "fused": True}),
]


@pytest.mark.parametrize(("rule", "kind", "arguments"), RULES, ids=lambda part: type(part).__name__)
def test_the_bare_methods_compute_what_torchs_own_do_bit_for_bit(rule, kind, arguments):
    weights = []
    for build in (rule.build, lambda model: kind(model.parameters(), **arguments)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
        optimizer = build(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)
    assert isinstance(rule.build(model), kind)


def test_a_step_does_not_import_the_compiler():
    """It takes longer than the rest of torch, at the start of every training."""
    program = """
import sys, torch
from torch import nn
from components.optimizers import Adadelta, Adagrad, Adam, AdamW, GradientDescent, Momentum, Nesterov, RMSprop
for rule in (GradientDescent, Momentum, Nesterov, Adagrad, Adadelta, RMSprop, Adam, AdamW):
    model = nn.Linear(2, 2)
    optimizer = rule().build(model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
assert not any(parameter.grad is not None for parameter in model.parameters())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
