"""What a sweep came to, as plain values: all that its report reads. Nothing here knows Optuna, MLflow or Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["complete", "pruned", "failed"]
Phase = Literal["search", "confirm"]


@dataclass(frozen=True)
class Objective:
    """What a sweep makes as large or as small as it can.

    Attributes:
        metric: with its split, as MLflow has it (`validation/accuracy`), or `seconds`, `parameters`.
        direction: what is better.
    """

    metric: str
    direction: Literal["max", "min"]


@dataclass(frozen=True)
class Range:
    """A number that the search may choose: `low` ≤ number ≤ `high`, both > 0 where `log`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whole numbers only."""


@dataclass(frozen=True)
class Trial:
    """One run of the experiment with one configuration and one seed, after its end.

    Attributes:
        number: Optuna's number of the trial, from 0; gaps are attempts that were taken up again under another number.
        run: the lab's name of the run.
        params: space key → value (`{"initializer": "he_normal", "optimizer.learning_rate": 0.01}`); a key whose condition did not
            hold is absent. Two trials are of one configuration when their params are equal.
        seed: of weights, batch order and augmentation; configurations are compared on the same seeds.
        state: `pruned` trials were stopped early as hopeless; `failed` ones have a `reason`.
        values: one for each objective; None unless complete. A pruned trial has its last value in `curve`.
        curve: (epochs done, value of the first objective's metric on validation), ascending; may be empty.
        metrics: every final metric (`validation/…` only; the test split is not looked at in trials).
        phase: `confirm` trials repeat the best of each level on fresh seeds after a search, so their values did not select them.
        seconds: of training and evaluation.
        samples: training examples seen, repetitions counted.
        feasible: whether it keeps the search's constraints; others are never chosen.
    """

    number: int
    run: str
    params: Mapping[str, Any]
    seed: int
    state: State
    values: tuple[float, ...] | None = None
    curve: tuple[tuple[float, float], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    phase: Phase = "search"
    reason: str | None = None
    seconds: float = 0.0
    samples: int = 0
    feasible: bool = True


@dataclass(frozen=True)
class Results:
    """A sweep, finished or not.

    Attributes:
        name: the sweep's name.
        description: one line on what is searched.
        overrides: what every trial has in common (`["experiment=mlp_mnist", "trainer.epochs=3"]`).
        objectives: at least one; the first decides wherever one has to.
        factors: space key → its levels in their order, for choices.
        ranges: space key → range, for numbers.
        sampler, pruner: as `search.sampler` and `search.pruner`.
        balance: the factor whose levels each got the same share of trials and tuned the rest for themselves; None otherwise.
        seeds: how many seeds each configuration was to be run with.
        asked: how many trials were asked for.
        trials: those that have ended.
        test: after the end: seed → the test metrics of the chosen configuration's run with that seed. Empty before.
        tested: how many configurations the test split has been looked at for, the chosen one included, as more trials changed the choice.
        together: whether trials were trained in stacks; None where nobody chose between the ways.
        why: what the choice between the ways was made by.
    """

    name: str
    description: str
    overrides: tuple[str, ...]
    objectives: tuple[Objective, ...]
    factors: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, Range]
    sampler: str
    pruner: str
    balance: str | None
    seeds: int
    asked: int
    trials: tuple[Trial, ...]
    test: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    tested: int = 0
    together: bool | None = None
    why: str = ""
