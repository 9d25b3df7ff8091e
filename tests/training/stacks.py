"""Trials small enough for a test, twice over: one list to train alone, one to train stacked."""

import torch
from torch import nn

from components.data.batches import Batches
from components.initializers import HeUniform
from components.models.mlp import MLP
from components.objectives.classification import Classification
from components.optimizers import Adam
from components.schedules import Cosine
from components.training.loop import fit
from components.training.settings import Trainer
from components.training.stacked import StackedTrial, fit_stacked

CPU = torch.device("cpu")
CLASSES = 4


class Clouds:
    """Clouds of points, one a class, that overlap."""

    lengths = None

    def __init__(self, count=130, features=6, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % CLASSES
        centres = torch.randn(CLASSES, features, generator=torch.Generator().manual_seed(9))
        self.inputs = centres[self.targets] + torch.randn(count, features, generator=generator)

    def __len__(self):
        return len(self.targets)

    def batch(self, index, generator=None):
        return {"inputs": self.inputs[index], "targets": self.targets[index], "index": index}


class Memory:
    """A recorder that remembers: series → step → (value, epoch)."""

    def __init__(self):
        self.series, self.flushed = {}, 0

    def metrics(self, values, *, step, epoch):
        for name, value in values.items():
            self.series.setdefault(name, {}).setdefault(step, (value, epoch))

    def figure(self, name, figure, *, step):
        raise AssertionError("a stack draws nothing")

    def flush(self):
        self.flushed += 1


TRAINING, VALIDATION = Clouds(), Batches(Clouds(50, seed=1), batch_size=30, seed=0, shuffle=False)
OBJECTIVE = Classification(classes=CLASSES, class_names=["a", "b", "c", "d"])


def mlp(seed=0, *, activation=nn.ReLU, initializer=None, hidden=(12, 8), dropout=0.0):
    model = MLP(input_shape=[6], classes=CLASSES, hidden=list(hidden), activation=activation, dropout=dropout)
    (initializer or HeUniform()).initialize(model, activation=activation(), generator=torch.Generator().manual_seed(seed))
    return model


def trial(
    seed=0,
    *,
    name=None,
    model=None,
    objective=OBJECTIVE,
    optimizer=None,
    schedule=None,
    split=TRAINING,
    batch_size=16,
    order=None,
    epochs=12,
    log_every=1,
    diagnose_every=20,
    recorder=None,
    **settings,
):
    """A trial of nine steps an epoch, the last of them on two examples."""
    return StackedTrial(
        name=name or f"trial {seed}",
        model=model or mlp(seed),
        objective=objective,
        optimizer=optimizer or Adam(learning_rate=0.01),
        schedule=schedule or Cosine(),
        batches=Batches(split, batch_size=batch_size, seed=seed if order is None else order, shuffle=True),
        settings=Trainer(epochs=epochs, batch_size=batch_size, log_every=log_every, diagnose_every=diagnose_every, **settings),
        recorder=recorder or Memory(),
        seed=seed,
    )


def alone(given, validation=VALIDATION, **more):
    """What the ordinary loop comes to."""
    return fit(
        given.model,
        given.objective,
        given.batches,
        validation,
        optimizer=given.optimizer,
        schedule=given.schedule,
        settings=given.settings,
        device=CPU,
        recorder=given.recorder,
        **more,
    )


def stacked(trials, validation=VALIDATION, *, lanes=1, **more):
    return fit_stacked(trials, validation, device=CPU, lanes=lanes, **more)


def curves(given):
    """series → step → value, without what the clock decides."""
    series = given.recorder.series
    return {
        name: {step: value for step, (value, _) in points.items()} for name, points in series.items() if not name.endswith("per_second")
    }


def assert_same_course(stacked_trial, alone_trial, *, relative, steps=None):
    """Both said the same things at the same steps and epochs, with values that agree."""
    ours, theirs = stacked_trial.recorder.series, alone_trial.recorder.series
    assert list(ours) == list(theirs)
    for name, points in theirs.items():
        assert {step: epoch for step, (_, epoch) in ours[name].items()} == {step: epoch for step, (_, epoch) in points.items()}
    for name, points in curves(alone_trial).items():
        for step, value in points.items():
            if steps is None or step <= steps:
                found = curves(stacked_trial)[name][step]
                assert abs(found - value) <= relative * abs(value) + 1e-12, (name, step, found, value)
