"""What a trial in Optuna's study says of itself: its attempts, its end, and its values as those of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from flows.search.plan import Plan
from flows.search.results import State, Trial
from flows.search.space import Assignment, Parameter, label

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import FrozenTrial

ENDS: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
"""Optuna's words for how a trial ended, and ours."""
ATTEMPTS = 3
"""How often a trial may lose its worker before it counts as failed."""


def goes_on(trial: FrozenTrial) -> bool:
    """Whether a trial runs or waits to."""
    return trial.state.name in ("RUNNING", "WAITING")


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None for an attempt that was only broken off."""
    given: str | None = trial.user_attrs.get("reason")
    lost = trial.user_attrs.get("lost", 0) + 1
    return given or (f"its worker was lost {lost} times" if lost >= ATTEMPTS else None)


def state(name: str) -> optuna.trial.TrialState:
    """Optuna's state of that name."""
    from optuna.trial import TrialState

    return TrialState[name]


def violation(outcome: Mapping[str, Any], metric: str, bound: Mapping[Literal["at_most", "at_least"], float]) -> float:
    """How far a metric is beyond its bound; 0 or less where it keeps it. A metric that is not there breaks it."""
    value = {**outcome.get("metrics", {}), **outcome}.get(metric)
    if not isinstance(value, int | float) or math.isnan(value):
        return math.inf
    return value - bound["at_most"] if "at_most" in bound else bound["at_least"] - value


def name(parameter: Parameter, balance: str | None, level: Any) -> str:
    """What Optuna calls the parameter: its own name for each alternative and each level that is searched for itself."""
    alternative = parameter.place[2:3] if len(parameter.place) > 2 else ()
    name = parameter.key + "".join(f"#{place}" for place in alternative)
    return name if balance is None or parameter.key == balance else f"{name}@{level}"


def suggest(trial: optuna.Trial, parameter: Parameter, name: str) -> Any:
    """What the sampler chooses for `parameter`, which it knows by `name`; as a value of the space."""
    if parameter.levels is not None:
        return as_level(parameter, trial.suggest_categorical(name, [label(level) for level in parameter.levels]))
    assert parameter.range is not None
    low, high, log = parameter.range.low, parameter.range.high, parameter.range.log
    if parameter.range.whole:
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, low, high, log=log)


def distribution(parameter: Parameter) -> CategoricalDistribution:
    """A choice, in Optuna's words."""
    from optuna.distributions import CategoricalDistribution

    assert parameter.levels is not None
    return CategoricalDistribution([label(level) for level in parameter.levels])


def as_level(parameter: Parameter, value: Any) -> Any:
    """A value that Optuna kept, as a value of the space."""
    if parameter.levels is None:
        return value
    return next((level for level in parameter.levels if label(level) == value and type(label(level)) is type(value)), value)


def feasible(trial: FrozenTrial, plan: Plan) -> bool:
    """Whether it keeps the plan's constraints."""
    outcome = trial.user_attrs.get("outcome") or {}
    return all(violation(outcome, metric, bound) <= 0 for metric, bound in plan.constraints.items())


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: no attempt that was taken up again, nothing that is excluded, nothing that others put into the study."""
    ours = [trial for trial in trials if "phase" in trial.user_attrs and "excluded" not in trial.user_attrs]
    superseded = {number for trial in ours for number in trial.user_attrs.get("attempts", ())}
    return [trial for trial in ours if trial.state.name != "FAIL" or (trial.number not in superseded and reason(trial) is not None)]


def as_trial(trial: FrozenTrial, params: Assignment, plan: Plan) -> Trial:
    """A trial that has ended, for the report."""
    outcome = trial.user_attrs.get("outcome") or {}
    state: State = ENDS[trial.state.name]
    return Trial(
        number=trial.number,
        run=trial.user_attrs.get("run", ""),
        params=params,
        seed=trial.user_attrs["seed"],
        state=state,
        values=tuple(trial.values) if state == "complete" else None,
        curve=tuple((epoch, value) for epoch, value in outcome.get("curve", ())),
        metrics=outcome.get("metrics", {}),
        phase=trial.user_attrs["phase"],
        reason=reason(trial) if state == "failed" else None,
        seconds=outcome.get("seconds", 0.0),
        samples=outcome.get("samples", 0),
        feasible=feasible(trial, plan),
    )
