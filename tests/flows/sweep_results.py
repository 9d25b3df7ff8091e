"""Sweeps that never ran: results as real ones look, from a known truth, so that a report can be held against it."""

import itertools
import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from flows.search.results import Objective, Range, Results, Trial

INITIALIZERS = (
    "he_normal",
    "he_uniform",
    "normalized_xavier",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "xavier",
    "xavier_normal",
)
OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamw", "gradient_descent", "momentum", "nesterov", "rmsprop")
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu")

ACCURACY = Objective("validation/accuracy", "max")
LOSS = Objective("validation/loss", "min")

_INITIALIZER = dict(zip(INITIALIZERS, (0.03, 0.032, 0.015, 0.025, -0.2, -0.1, 0.01, 0.012), strict=True))
_OPTIMIZER = dict(zip(OPTIMIZERS, (0.0, -0.08, 0.04, 0.041, -0.05, 0.03, 0.032, 0.02), strict=True))
_ACTIVATION = dict(zip(ACTIVATIONS, (-0.15, 0.0, 0.03, 0.031, 0.025), strict=True))


def results(trials=(), **changes):
    """A sweep of accuracy over `factors`, whatever is changed."""
    plain = Results(
        name="sweep-1",
        description="",
        overrides=("experiment=mlp_mnist",),
        objectives=(ACCURACY,),
        factors={},
        ranges={},
        sampler="grid",
        pruner="none",
        balance=None,
        seeds=1,
        asked=len(trials),
        trials=tuple(trials),
    )
    return replace(plain, **changes)


def trial(number, params, value, seed=0, **changes):
    """A complete trial, or one whose `state` says otherwise; `value` may be a tuple of several objectives."""
    values = value if isinstance(value, tuple) else (value,)
    made = Trial(
        number=number,
        run=f"sweep-1-{number:04d}",
        params=params,
        seed=seed,
        state="complete",
        values=values,
        curve=_curve(values[0]),
        metrics={"validation/accuracy": values[0]},
        seconds=2.5,
        samples=15_000,
    )
    made = replace(made, **changes)
    return made if made.state == "complete" else replace(made, values=None, metrics={})


def grid(factors, value, seeds=1):
    """A trial for each combination and seed; `value(params, seed)` is its accuracy."""
    combinations = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    pairs = [(params, seed) for seed in range(seeds) for params in combinations]
    trials = [trial(number, params, value(params, seed), seed) for number, (params, seed) in enumerate(pairs)]
    return results(trials, factors=factors, seeds=seeds)


def lecture(failed=6):
    """The whole grid of the lecture with one seed: 320 trials, some of which fail."""
    noise = np.random.default_rng(1)

    def value(params, seed):
        main = 0.85 + _INITIALIZER[params["initializer"]] + _OPTIMIZER[params["optimizer"]] + _ACTIVATION[params["activation"]]
        if params["activation"] == "sigmoid" and params["initializer"] in ("he_normal", "he_uniform"):
            main -= 0.1
        return float(np.clip(main + noise.normal(0, 0.008), 0.1, 1))

    made = grid({"optimizer": OPTIMIZERS, "activation": ACTIVATIONS, "initializer": INITIALIZERS}, value)
    lost = {int(i) for i in np.random.default_rng(2).choice(len(made.trials), failed, replace=False)}
    trials = [
        replace(each, state="failed", values=None, metrics={}, reason=f"the loss is NaN at step {100 + each.number}; try a smaller rate")
        if each.number in lost
        else each
        for each in made.trials
    ]
    return replace(made, name="lecture-1", overrides=("experiment=mlp_mnist", "trainer.epochs=3"), trials=tuple(trials))


def initializers(seeds=5, spread=0.006):
    """Every initializer with the same seeds; a seed shifts all of them alike, and each a little for itself."""
    noise = np.random.default_rng(3)
    of_seed = noise.normal(0, 0.01, seeds)

    def value(params, seed):
        return float(0.9 + _INITIALIZER[params["initializer"]] + of_seed[seed] + noise.normal(0, spread))

    made = grid({"initializer": INITIALIZERS}, value, seeds)
    test = {seed: {"test/accuracy": 0.92 + 0.004 * seed, "test/nll": 0.3 - 0.01 * seed} for seed in range(seeds)}
    return replace(made, name="initializers-1", test=test)


def optimizer_tuning(configurations=10, confirm=5):
    """Each optimizer with its own learning rate: `configurations` of each, and its best again with `confirm` fresh seeds."""
    noise = np.random.default_rng(4)
    best_rate = dict(zip(OPTIMIZERS, (1.0, 0.03, 0.002, 0.002, 0.3, 0.1, 0.1, 0.001), strict=True))
    trials = []

    def run(optimizer, rate, seed, phase, momentum=0.9):
        away = math.log10(rate / best_rate[optimizer])
        value = 0.93 + _OPTIMIZER[optimizer] / 4 - 0.05 * away**2 + noise.normal(0, 0.004)
        params = {"optimizer": optimizer, "optimizer.learning_rate": rate}
        if optimizer in ("momentum", "nesterov"):
            params["optimizer.momentum"] = momentum
        trials.append(trial(len(trials), params, float(np.clip(value, 0.05, 1)), seed, phase=phase))

    for _ in range(configurations):
        for optimizer in OPTIMIZERS:
            run(optimizer, float(best_rate[optimizer] * 10 ** noise.normal(0, 0.7)), 0, "search", float(noise.uniform(0.5, 0.99)))
    searched = list(trials)
    for seed in range(1, confirm + 1):
        for optimizer in OPTIMIZERS:
            best = max((each for each in searched if each.params["optimizer"] == optimizer), key=lambda each: each.values[0])
            run(optimizer, best.params["optimizer.learning_rate"], seed, "confirm", best.params.get("optimizer.momentum"))
    return results(
        trials,
        name="optimizer-tuning-1",
        factors={"optimizer": OPTIMIZERS},
        ranges={"optimizer.learning_rate": Range(3e-5, 30.0, log=True), "optimizer.momentum": Range(0.5, 0.99)},
        sampler="tpe",
        balance="optimizer",
        asked=len(trials),
    )


def tpe(trials=120, objectives=(ACCURACY,)):
    """A search over numbers and choices, with momentum where there is one; a sixth is pruned, some fail, one diverges."""
    noise = np.random.default_rng(5)
    made = []
    for number in range(trials):
        rate = float(10 ** noise.uniform(-4, 0))
        optimizer = ("adam", "momentum", "adagrad")[noise.integers(3)]
        params = {
            "optimizer": optimizer,
            "optimizer.learning_rate": rate,
            "model.hidden": [[128], [256, 128], [512]][noise.integers(3)],
            "model.dropout": float(noise.uniform(0, 0.5)),
            "trainer.batch_size": int(noise.choice([32, 64, 128])),
        }
        if optimizer == "momentum":
            params["optimizer.momentum"] = float(noise.uniform(0.5, 0.99))
        value = float(np.clip(0.95 - 0.04 * (math.log10(rate) + 2.3) ** 2 + noise.normal(0, 0.01), 0.1, 1))
        values = (value, 1 - value + float(noise.normal(0, 0.02)))[: len(objectives)]
        state = "failed" if number % 23 == 7 else "pruned" if value < 0.85 and number > 10 and number % 2 else "complete"
        reason = ("out of memory", f"the loss is infinite at step {number}")[number % 2] if state == "failed" else None
        one = trial(number, params, values, state=state, reason=reason, curve=_curve(value)[: 1 if state == "failed" else 3])
        made.append(replace(one, values=(math.nan,) * len(objectives)) if number == 40 else one)
    return results(
        made,
        name="tpe-1",
        objectives=objectives,
        factors={
            "optimizer": ("adam", "momentum", "adagrad"),
            "model.hidden": ([128], [256, 128], [512]),
            "trainer.batch_size": (32, 64, 128),
        },
        ranges={
            "optimizer.learning_rate": Range(1e-4, 1.0, log=True),
            "model.dropout": Range(0.0, 0.5),
            "optimizer.momentum": Range(0.5, 0.99),
        },
        sampler="tpe",
        pruner="median",
    )


def large(trials=5000):
    """A grid of two seeds, as many trials as a report has to be quick with (5 × 10 × 10 × 5 combinations)."""
    noise = np.random.default_rng(6)
    factors = {
        "optimizer": tuple("abcde"),
        "initializer": tuple("abcdefghij"),
        "activation": tuple("abcdefghij"),
        "model.dropout": (0.0, 0.1, 0.2, 0.3, 0.4),
    }
    made = grid(factors, lambda params, seed: float(0.8 + 0.01 * ord(params["optimizer"]) / 100 + noise.normal(0, 0.02)), 2)
    return replace(made, trials=made.trials[:trials])


def large_search(trials=5000):
    """A search over numbers, as many trials as a report has to be quick with."""
    return tpe(trials)


def _curve(value):
    """Accuracy after one, two and three epochs."""
    return tuple((float(epoch), value * (1 - 0.3 * 0.4**epoch)) for epoch in (1, 2, 3))


@st.composite
def messy(draw):
    """Any sweep at all: levels of every kind, keys that come and go, doubles, no numbers, names that no format likes."""
    nasty = st.sampled_from(["relu", "<b>&\"'", "a|b`c*", "µ 고양이", "$x$ \\ % # _", "x" * 90, "", "1", "null", "two\nlines", "a=b, [c]"])
    level = st.one_of(nasty, st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, width=32), st.just([256, 128]))
    keys = st.sampled_from(["optimizer", "activation", "model.hidden", "trainer.x", "optimizer.momentum"])
    factors = {
        key: tuple(draw(st.lists(level, min_size=1, max_size=4, unique_by=repr))) for key in draw(st.lists(keys, max_size=3, unique=True))
    }
    ranges = {"optimizer.learning_rate": Range(1e-5, 1.0, log=True), "layers": Range(1, 4, whole=True)} if draw(st.booleans()) else {}
    value = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([0.5, 0.9, math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0]))
    several = draw(st.integers(1, 3))
    trials = []
    for number in range(draw(st.integers(0, 30))):
        params = {key: draw(st.sampled_from(levels)) for key, levels in factors.items() if draw(st.integers(0, 9))}
        if ranges and draw(st.booleans()):
            params |= {"optimizer.learning_rate": draw(st.floats(1e-5, 1.0)), "layers": draw(st.integers(1, 4))}
        trials.append(
            trial(
                number,
                params,
                tuple(draw(value) for _ in range(several)),
                draw(st.integers(0, 3)),
                state=draw(st.sampled_from(["complete", "complete", "complete", "pruned", "failed"])),
                phase=draw(st.sampled_from(["search", "search", "confirm"])),
                reason=draw(st.one_of(st.none(), nasty)),
                feasible=draw(st.integers(0, 4)) > 0,
                curve=tuple((float(epoch), draw(value)) for epoch in range(1, draw(st.integers(0, 3)) + 1)),
            )
        )
    return results(
        trials,
        name=draw(nasty),
        description=draw(nasty),
        objectives=tuple(
            Objective(draw(st.sampled_from(["validation/accuracy", "validation/loss", "seconds"])), draw(st.sampled_from(["max", "min"])))
            for _ in range(several)
        ),
        factors=factors,
        ranges=ranges,
        balance=draw(st.sampled_from([None, *factors])),
        seeds=draw(st.integers(1, 4)),
        asked=draw(st.integers(0, 40)),
        test={0: {"test/accuracy": draw(value)}} if draw(st.booleans()) else {},
    )
