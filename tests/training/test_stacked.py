"""A trial in a stack comes to what it comes to alone: every optimizer, initializer and activation, in float64 and in float32."""

import pytest
import torch
from stacks import OBJECTIVE, TRAINING, VALIDATION, Clouds, Memory, alone, assert_same_course, curves, mlp, stacked, trial
from torch import nn
from torch.nn import functional as F

from components.activations import ACTIVATIONS
from components.data.batches import Batches
from components.initializers import (
    HeNormal,
    HeUniform,
    NormalizedXavier,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    Xavier,
    XavierNormal,
)
from components.models.vgg import VGG
from components.objectives.classification import Classification
from components.optimizers import Adadelta, Adagrad, Adam, AdamW, GradientDescent, Momentum, Nesterov, RMSprop
from components.schedules import Constant, Step, WarmupCosine

OPTIMIZERS = {
    "gradient descent": [GradientDescent(), GradientDescent(learning_rate=0.02, weight_decay=0.1)],
    "momentum": [Momentum(), Momentum(learning_rate=0.02, momentum=0.5, weight_decay=0.1)],
    "Nesterov": [Nesterov(), Nesterov(learning_rate=0.02, momentum=0.5, weight_decay=0.1)],
    "Adagrad": [Adagrad(), Adagrad(learning_rate=0.05, epsilon=1e-4, weight_decay=0.1)],
    "Adadelta": [Adadelta(), Adadelta(learning_rate=0.5, rho=0.8, epsilon=1e-5, weight_decay=0.1)],
    "RMSprop": [RMSprop(), RMSprop(learning_rate=0.003, decay=0.99, epsilon=1e-5, weight_decay=0.1)],
    "Adam": [Adam(), Adam(learning_rate=0.01, beta1=0.8, beta2=0.99, epsilon=1e-5, weight_decay=0.1)],
    "AdamW": [AdamW(), AdamW(learning_rate=0.01, beta1=0.8, beta2=0.99, epsilon=1e-5, weight_decay=0.5)],
}
INITIALIZERS = [
    HeNormal(), HeUniform(), NormalizedXavier(), Orthogonal(), RandomNormal(std=0.3), RandomUniform(bound=0.3), Xavier(), XavierNormal(),
]  # fmt: skip
PRECISIONS = {"float64": (1e-9, None), "float32": (1e-4, 100)}
"""precision → (largest relative difference, in how many steps; None is all of a training of 108)."""


def check(make, precision, **more):
    """`make` gives the trials, twice; every one of them has to agree with itself."""
    relative, steps = PRECISIONS[precision]
    together, each = make(precision), make(precision)
    ends = stacked(together, **more)
    for ours, theirs, end in zip(together, each, ends, strict=True):
        fitted = alone(theirs)
        assert len(curves(theirs)["train/loss"]) >= 100
        assert_same_course(ours, theirs, relative=relative, steps=steps)
        assert (end.name, end.stopped_early, end.pruned, end.error) == (ours.name, fitted.stopped_early, False, None)
        if precision == "float64":
            assert (end.state.best_step, end.state.best_epoch) == (fitted.state.best_step, fitted.state.best_epoch)
            assert end.weights.keys() == fitted.weights.keys()
            for name, weight in fitted.weights.items():
                torch.testing.assert_close(end.weights[name], weight, rtol=1e-7, atol=1e-9)
            for last, expected in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
                torch.testing.assert_close(last, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_optimizer_comes_to_the_same(rule, precision):
    def make(precision):
        return [trial(seed, optimizer=optimizer, precision=precision) for seed, optimizer in enumerate(OPTIMIZERS[rule])]

    check(make, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda rule: type(rule).__name__)
def test_every_initializer_comes_to_the_same(initializer, precision):
    def make(precision):
        models = [mlp(seed, initializer=rule) for seed, rule in enumerate([initializer, HeUniform()])]
        return [trial(seed, model=model, precision=precision) for seed, model in enumerate(models)]

    check(make, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_comes_to_the_same(activation, precision):
    def make(precision):
        return [trial(seed, model=mlp(seed, activation=activation), precision=precision) for seed in range(2)]

    check(make, precision)


def test_all_rules_go_in_one_stack_whatever_else_differs():
    optimizers = [optimizer for pair in OPTIMIZERS.values() for optimizer in pair]
    schedules = [Constant(), Step(), WarmupCosine()]

    def make(precision):
        return [
            trial(seed, optimizer=optimizer, precision=precision, schedule=schedules[seed % 3], clip_norm=(0.0, 0.3)[seed % 2])
            for seed, optimizer in enumerate(reversed(optimizers))
        ]

    check(make, "float64", width=5, lanes=2)


def test_one_order_for_all_comes_to_the_same_and_is_fed_once():
    served = []

    class Counting(Clouds):
        def batch(self, index, generator=None):
            served.append(len(index))
            return super().batch(index)

    split = Counting()

    def make(precision):
        return [trial(seed, order=7, precision=precision, split=split) for seed in range(3)]

    together = make("float64")
    stacked(together)
    assert max(served) == 16
    apart = make("float64")
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs)
        assert_same_course(ours, theirs, relative=1e-9)


def test_each_trial_has_its_own_order():
    together = [trial(seed, model=mlp(0), epochs=1) for seed in range(2)]
    stacked(together)
    first, second = (curves(ours)["train/loss"] for ours in together)
    assert first[1] != second[1]


@pytest.mark.parametrize("stages", [[[4], [6]], [[24, 24]]], ids=["as groups", "one by one"])
def test_a_small_vgg_comes_to_the_same(stages):
    class Pictures(Clouds):
        def __init__(self):
            super().__init__(count=130, features=64)
            self.inputs = self.inputs.view(-1, 1, 8, 8)

    split = Pictures()
    validation = Batches(split, batch_size=50, seed=0, shuffle=False)

    def make():
        trials = []
        for seed in range(3):
            model = VGG(input_shape=[1, 8, 8], classes=4, stages=stages, head=[8], pool_to=2, activation=nn.ELU)
            HeNormal().initialize(model, activation=nn.ELU(), generator=torch.Generator().manual_seed(seed))
            trials.append(trial(seed, model=model, split=split, batch_size=64, precision="float64", epochs=3))
        return trials

    together, apart = make(), make()
    stacked(together, validation)
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs, validation)
        assert_same_course(ours, theirs, relative=1e-9)


def test_label_smoothing_comes_to_the_same():
    smooth = Classification(classes=4, class_names=["a", "b", "c", "d"], label_smoothing=0.2)
    check(lambda precision: [trial(seed, objective=smooth, precision=precision) for seed in range(2)], "float64")


def test_trials_of_several_architectures_and_objectives_are_stacked_side_by_side():
    smooth = Classification(classes=4, class_names=["a", "b", "c", "d"], label_smoothing=0.2)

    def make(precision):
        given = [(mlp(0), OBJECTIVE), (mlp(1, hidden=(5,)), OBJECTIVE), (mlp(2), smooth), (mlp(3, hidden=(5,)), OBJECTIVE)]
        return [trial(seed, model=model, objective=objective, precision=precision) for seed, (model, objective) in enumerate(given)]

    check(make, "float64", lanes=2)


class Tied(nn.Module):
    """One weight twice, a frozen one, one that nothing depends on, and a buffer; all of them different in each trial."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.frozen, self.unused, self.head = nn.Linear(6, 6).requires_grad_(False), nn.Linear(3, 3), nn.Linear(6, 4)
        self.register_buffer("scale", torch.rand(6) + 0.5)

    def forward(self, inputs):
        return self.head(self.frozen(torch.tanh(self.second(torch.tanh(self.first(inputs * self.scale))))))


def test_tied_frozen_and_unused_weights_and_buffers_come_to_the_same():
    def make(precision):
        return [trial(seed, model=Tied(seed), optimizer=AdamW(weight_decay=0.3), precision=precision) for seed in range(3)]

    check(make, "float64")


class TwoQuestions:
    """Asks the model twice for its outcomes, which cannot be answered in one pass for all."""

    monitor = ("accuracy", "max")

    def losses(self, model, batch):
        return {"loss": F.cross_entropy(model(batch["inputs"]), batch["targets"])}

    def outcomes(self, model, batch):
        first = model(batch["inputs"]).argmax(1)
        again = model(batch["inputs"] + 0.1 * F.one_hot(first, 6)).argmax(1)
        return {"index": batch["index"], "correct": again == batch["targets"]}

    def metrics(self, outcomes):
        return {"accuracy": outcomes["correct"].double().mean().item()}


def test_an_objective_that_asks_a_model_twice_is_evaluated_trial_by_trial():
    objective = TwoQuestions()
    check(lambda precision: [trial(seed, objective=objective, precision=precision) for seed in range(2)], "float64")


def test_without_validation_the_last_weights_count():
    together, apart = [trial(0, epochs=2)], trial(0, epochs=2)
    (end,) = stacked(together, None)
    fitted = alone(apart, None)
    assert end.state.best_value is None
    for name, weight in fitted.weights.items():
        torch.testing.assert_close(end.weights[name], weight)


def test_early_stopping_waits_for_each_trials_own_patience():
    def make():
        return [trial(seed, epochs=60, patience=patience, precision="float64") for seed, patience in enumerate([1, 3, 5])]

    together, apart = make(), make()
    ends = stacked(together)
    assert len({end.state.epoch for end in ends}) > 1
    for ours, theirs, end in zip(together, apart, ends, strict=True):
        fitted = alone(theirs)
        assert fitted.stopped_early
        assert end.state == fitted.state
        assert_same_course(ours, theirs, relative=1e-9)


def test_each_trial_ends_after_its_own_steps_also_inside_an_epoch():
    def make():
        lengths = [{"epochs": 2}, {"epochs": 5, "max_steps": 13}, {"epochs": 1}, {"epochs": 5, "max_steps": 18}]
        return [trial(seed, precision="float64", **length) for seed, length in enumerate(lengths)]

    together, apart = make(), make()
    ends = stacked(together)
    assert [end.state.step for end in ends] == [18, 13, 9, 18]
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs)
        assert_same_course(ours, theirs, relative=1e-9)


def test_points_of_the_curves_come_where_each_trial_wants_them():
    def make():
        return [trial(seed, epochs=3, log_every=every, diagnose_every=2 * every, precision="float64") for seed, every in enumerate([4, 7])]

    together, apart = make(), make()
    stacked(together)
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs)
        assert_same_course(ours, theirs, relative=1e-9)
    assert list(curves(together[1])["train/loss"]) == [7, 14, 21, 27]
    assert list(curves(together[1])["gradients/layers.hidden1"]) == [1, 14]


def test_the_same_trial_comes_to_the_same_in_any_company():
    def end_of_the_first(count, **more):
        return curves_of(stacked_trials(count, **more)[0])

    def stacked_trials(count, **more):
        trials = [trial(seed, model=mlp(seed, dropout=0.4), epochs=4) for seed in range(count)]
        stacked(trials, **more)
        return trials

    def curves_of(given):
        return [value for points in curves(given).values() for value in points.values()]

    assert end_of_the_first(1) == pytest.approx(end_of_the_first(5), rel=1e-4)
    assert end_of_the_first(5, lanes=2) == pytest.approx(end_of_the_first(5, width=2), rel=1e-4)


def test_dropout_differs_between_trials_and_comes_again_from_the_seed():
    def losses(seeds):
        trials = [trial(seed, name=f"{place}", model=mlp(0, dropout=0.5), order=0, epochs=2) for place, seed in enumerate(seeds)]
        stacked(trials)
        return [list(curves(given)["train/loss"].values()) for given in trials]

    first, second, again = losses([1, 2, 1])
    assert first == pytest.approx(again, rel=1e-5)
    assert all(abs(a - b) > 1e-6 for a, b in zip(first, second, strict=True))
    assert losses([1, 2, 1])[1] == second


def test_dropout_lets_the_loss_be_what_it_is_alone_on_average():
    """The masks are other ones than the ordinary loop's; at the same weights their mean loss is the same."""
    still = {"optimizer": Adam(learning_rate=1e-12), "diagnose_every": 0, "epochs": 60}
    ours, theirs = trial(0, model=mlp(0, dropout=0.5), **still), trial(0, model=mlp(0, dropout=0.5), **still)
    torch.manual_seed(0)
    stacked([ours])
    alone(theirs)
    means = [torch.tensor(list(curves(given)["train/loss"].values())).mean().item() for given in (ours, theirs)]
    assert means[0] == pytest.approx(means[1], rel=0.03)
    undropped = trial(0, **still)
    alone(undropped)
    assert abs(torch.tensor(list(curves(undropped)["train/loss"].values())).mean().item() - means[1]) > 0.1 * means[1]


def test_validation_drops_nothing():
    ours, theirs = (trial(0, model=mlp(0, dropout=0.5), optimizer=Adam(learning_rate=1e-12), epochs=1) for _ in range(2))
    stacked([ours])
    alone(theirs)
    assert curves(ours)["validation/nll"] == {9: pytest.approx(curves(theirs)["validation/nll"][9], rel=1e-6)}


def test_progress_is_told_by_name():
    told = []
    trials = [trial(0, epochs=1, log_every=4), trial(1, epochs=1, log_every=9)]
    stacked(trials, progress=lambda name, now: told.append((name, now.step, now.total, next(iter(now.values)))))
    assert told == [
        ("trial 0", 4, 9, "train/loss"),
        ("trial 0", 8, 9, "train/loss"),
        ("trial 0", 9, 9, "train/loss"),
        ("trial 1", 9, 9, "train/loss"),
        ("trial 0", 9, 9, "validation/accuracy"),
        ("trial 1", 9, 9, "validation/accuracy"),
    ]


def test_a_source_of_batches_that_is_no_batches_is_stacked_too():
    class Plain:
        def __init__(self, seed):
            self.inside = Batches(TRAINING, batch_size=16, seed=seed, shuffle=True)
            self.steps_per_epoch = self.inside.steps_per_epoch

        def epoch(self, number, *, first=0):
            return self.inside.epoch(number, first=first)

    def make():
        from dataclasses import replace

        return [replace(trial(seed, precision="float64", epochs=2), batches=Plain(seed), recorder=Memory()) for seed in range(2)]

    together, apart = make(), make()
    stacked(together, VALIDATION)
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs)
        assert_same_course(ours, theirs, relative=1e-9)
