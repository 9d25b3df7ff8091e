import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.data.batches import Batches
from components.errors import CheckpointError, Interrupted, NotFiniteError
from components.optimizers import Adam, GradientDescent, Momentum
from components.schedules import Constant, Cosine
from components.training import randomness
from components.training.checkpoint import Checkpoints, weights_sha256
from components.training.evaluation import evaluate
from components.training.loop import fit
from components.training.settings import Trainer

CPU = torch.device("cpu")


class Points:
    """Two clouds of points: a split small enough to see through."""

    lengths = None

    def __init__(self, count=40, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % 2
        self.inputs = torch.randn(count, 3, generator=generator) + 2 * self.targets[:, None]

    def __len__(self):
        return len(self.targets)

    def batch(self, index, generator=None):
        return {"inputs": self.inputs[index], "targets": self.targets[index], "index": index}


class Classify:
    """Cross entropy and accuracy, and nothing else."""

    monitor = ("accuracy", "max")

    def losses(self, model, batch):
        return {"loss": F.cross_entropy(model(batch["inputs"]), batch["targets"])}

    def outcomes(self, model, batch):
        return {"index": batch["index"], "correct": model(batch["inputs"]).argmax(1) == batch["targets"]}

    def metrics(self, outcomes):
        return {"accuracy": outcomes["correct"].double().mean().item()}


class Memory:
    """A recorder that remembers."""

    def __init__(self):
        self.series, self.flushed = {}, 0

    def metrics(self, values, *, step, epoch):
        for name, value in values.items():
            self.series.setdefault(name, {}).setdefault(step, value)

    def figure(self, name, figure, *, step):
        raise AssertionError("the loop draws nothing")

    def flush(self):
        self.flushed += 1


def model(dropout=0.5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def train(
    settings, *, folder=None, network=None, optimizer=None, schedule=None, stopping=lambda: False, recorder=None, split=None, batch_size=6
):
    """One training with everything that can vary between two runs held still; returns (fitted, recorder)."""
    recorder = recorder or Memory()
    randomness.seed_everything(7)
    fitted = fit(
        network or model(),
        Classify(),
        Batches(split or Points(), batch_size=batch_size, seed=3, shuffle=True),
        Batches(Points(20, seed=2), batch_size=20, seed=0, shuffle=False),
        optimizer=optimizer or Adam(learning_rate=0.01),
        schedule=schedule or Cosine(),
        settings=settings,
        device=CPU,
        recorder=recorder,
        checkpoints=Checkpoints(folder) if folder else None,
        stopping=stopping,
    )
    return fitted, recorder


def learned(series):
    """The series that must be the same in every repetition; speed is not among them."""
    return {name: points for name, points in series.items() if not name.endswith("samples_per_second")}


def test_three_steps_of_gradient_descent_are_those_written_by_hand():
    points, ours, by_hand = Points(18), model(dropout=0.0), model(dropout=0.0)
    weights = [p.detach().clone().requires_grad_() for p in by_hand.parameters()]
    for batch in Batches(points, batch_size=6, seed=3, shuffle=True).epoch(0):
        w1, b1, w2, b2 = weights
        loss = F.cross_entropy((batch["inputs"] @ w1.T + b1).relu() @ w2.T + b2, batch["targets"])
        gradients = torch.autograd.grad(loss, weights)
        weights = [(w - 0.1 * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)]
    train(Trainer(epochs=1), network=ours, optimizer=GradientDescent(learning_rate=0.1), schedule=Constant(), split=points)
    for parameter, expected in zip(ours.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach(), expected.detach(), rtol=1e-6, atol=1e-7)


def test_it_learns_two_clouds():
    fitted, recorder = train(Trainer(epochs=20, log_every=5), network=model(dropout=0.0))
    assert max(recorder.series["validation/accuracy"].values()) >= 0.95
    assert fitted.state.best_value == max(recorder.series["validation/accuracy"].values())


def test_accumulated_batches_give_the_step_of_one_large_batch():
    large, small = model(dropout=0.0), model(dropout=0.0)
    train(Trainer(epochs=1), network=large, split=Points(24), batch_size=12, optimizer=GradientDescent())
    train(Trainer(epochs=1, accumulate=2), network=small, split=Points(24), batch_size=6, optimizer=GradientDescent())
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_last_group_of_accumulated_batches_is_averaged_over_its_own_size():
    fitted, _ = train(Trainer(epochs=1, accumulate=4), split=Points(30))  # five batches: a group of four and one of one
    assert fitted.state.step == 2


def test_the_learning_rate_follows_the_schedule():
    _, recorder = train(Trainer(epochs=2, log_every=1), schedule=Cosine(), optimizer=GradientDescent(learning_rate=0.5))
    rates = recorder.series["train/learning_rate"]
    total = len(rates)
    assert rates == {step + 1: pytest.approx(0.5 * Cosine().factor(step, total)) for step in range(total)}


def test_clipping_bounds_the_step():
    network = model(dropout=0.0)
    before = [p.detach().clone() for p in network.parameters()]
    train(
        Trainer(epochs=1, max_steps=1, clip_norm=0.01), network=network, optimizer=GradientDescent(learning_rate=1.0), schedule=Constant()
    )
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(before, network.parameters(), strict=True)))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_logging_diagnosing_and_saving_change_no_bit(tmp_path):
    plain, _ = train(Trainer(epochs=3, log_every=1000, diagnose_every=0))
    busy, recorder = train(Trainer(epochs=3, log_every=1, diagnose_every=1, checkpoint_seconds=0), folder=tmp_path)
    assert weights_sha256(plain.weights) == weights_sha256(busy.weights)
    assert {"gradients/0", "gradients/3"} <= recorder.series.keys()


def test_samples_are_shown_every_so_many_epochs_and_change_no_bit(monkeypatch):
    shown, drawn = [], []

    def samples(self, network, batch):
        shown.append((network.training, torch.is_grad_enabled(), len(batch["inputs"])))
        return "a picture"

    monkeypatch.setattr(Classify, "samples", samples, raising=False)
    monkeypatch.setattr(Memory, "figure", lambda self, name, figure, *, step: drawn.append((name, figure, step)))
    plain, _ = train(Trainer(epochs=5))
    assert shown == []
    sampled, _ = train(Trainer(epochs=5, sample_every=2))
    steps = sampled.state.step // 5
    assert [(training, gradients) for training, gradients, _ in shown] == [(False, False)] * 2
    assert drawn == [("samples/epoch-002", "a picture", 2 * steps), ("samples/epoch-004", "a picture", 4 * steps)]
    assert weights_sha256(plain.weights) == weights_sha256(sampled.weights)


@pytest.mark.parametrize("stop_at", [1, 2, 6, 7, 8, 13, 14, 20])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_that_is_stopped_anywhere_and_resumed_is_the_run_that_was_not(tmp_path, stop_at, accumulate):
    settings = Trainer(epochs=3 * accumulate, log_every=4, diagnose_every=3, accumulate=accumulate)
    whole, expected = train(settings, optimizer=Momentum())
    recorder, asked = Memory(), 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked == stop_at

    with pytest.raises(Interrupted):
        train(settings, optimizer=Momentum(), folder=tmp_path, stopping=stopping, recorder=recorder)
    resumed, _ = train(settings, optimizer=Momentum(), folder=tmp_path, recorder=recorder)
    assert weights_sha256(resumed.weights) == weights_sha256(whole.weights)
    assert resumed.state == whole.state
    assert learned(recorder.series) == learned(expected.series)


def test_a_finished_training_is_not_trained_again(tmp_path):
    first, _ = train(Trainer(epochs=2), folder=tmp_path)
    again, recorder = train(Trainer(epochs=2), folder=tmp_path)
    assert weights_sha256(first.weights) == weights_sha256(again.weights)
    assert recorder.series == {}


def test_early_stopping_waits_for_its_patience_and_keeps_the_best():
    fitted, recorder = train(Trainer(epochs=200, patience=3), network=model(dropout=0.0), optimizer=Adam(learning_rate=0.05))
    accuracies = list(recorder.series["validation/accuracy"].values())
    assert fitted.stopped_early
    assert len(accuracies) < 200
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 1 + 3
    assert fitted.state.best_epoch == best


def test_max_steps_ends_inside_an_epoch_with_a_validation():
    fitted, recorder = train(Trainer(epochs=5, max_steps=10, log_every=3))
    assert fitted.state.step == 10
    assert list(recorder.series["validation/accuracy"]) == [7, 10]
    assert list(recorder.series["train/loss"]) == [3, 6, 9, 10]


class Exploding(nn.Module):
    """Returns NaN from its third call in training on."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.fine, self.broken = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        self.calls += self.training
        x = self.fine(x)
        if self.training and self.calls >= 3:
            with torch.no_grad():
                self.broken.weight.fill_(math.inf)
        return self.broken(x)


def test_a_loss_that_is_no_number_names_the_step_and_the_layer():
    with pytest.raises(NotFiniteError, match=r"at step 3: the first layer whose output is not finite is broken") as caught:
        train(Trainer(epochs=1), network=Exploding())
    assert (caught.value.step, caught.value.layer) == (3, "broken")


def test_another_model_s_checkpoint_is_refused(tmp_path):
    train(Trainer(epochs=1), folder=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        train(Trainer(epochs=1), folder=tmp_path, network=nn.Linear(3, 2))


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_other_arithmetic_trains_too(precision):
    network = model(dropout=0.0)
    fitted, _ = train(Trainer(epochs=5, precision=precision), network=network)
    assert fitted.state.best_value > 0.7
    assert next(network.parameters()).dtype == (torch.float64 if precision == "float64" else torch.float32)


def test_evaluation_leaves_mode_and_generators_alone():
    network = model().train()
    before = torch.get_rng_state()
    outcomes = evaluate(network, Classify(), Batches(Points(25), batch_size=10, seed=0, shuffle=False), device=CPU)
    assert outcomes["index"].tolist() == list(range(25))
    assert network.training
    assert torch.equal(before, torch.get_rng_state())


def test_randomness_comes_back_whole():
    import random

    import numpy as np

    randomness.seed_everything(5)
    tensors, values = randomness.capture()
    first = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1))
    randomness.restore(tensors, values)
    assert first == (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1))
