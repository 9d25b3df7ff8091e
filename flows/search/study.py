"""One sweep as an Optuna study: which trial comes next, what became of it, and what to do with one whose worker is gone.

Workers share nothing but the databases. Whoever wants a trial takes its **turn** (one at a time, over all processes), looks at all trials,
and takes the next; so a sweep has exactly as many trials as were asked for, whoever dies when. In its turn a worker

    1. takes up trials whose worker is gone: such an attempt ends as failed and the same trial waits again, with its run;
    2. takes a waiting trial, or decides on a new one: the next of the grid, another seed of a configuration, or what the sampler says.

A trial belongs to its worker by the attribute `worker`, set before the turn ends. A trial without it was never begun by anybody.

What is in a trial's attributes: `seed`, `phase`, `configuration` (its number; all seeds of one configuration share it), `run` (the lab's
name of the run; the same for all attempts), `worker`, and at the end `outcome` (JSON-able facts) or `reason`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from components.errors import RequestError, RunError, closest
from flows.lab.settings import Settings
from flows.search import sampling, storage
from flows.search.plan import Plan
from flows.search.presence import Presence
from flows.search.results import Objective, Results, Trial
from flows.search.space import Assignment, Parameter, Space, label

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

ATTEMPTS = 3
"""How often a trial may lose its worker before it counts as failed."""
CONFIGURATIONS = 30
"""How many configurations a search without a budget tries, unless it is a grid."""
HOPELESS = 5
"""So many trials may fail before the first succeeds; then the sweep stops with their reason."""


@dataclass(frozen=True)
class Taken:
    """A trial that this worker has to run.

    Attributes:
        number: Optuna's number.
        run: the lab's name of its run; a folder of that name may be there already, from an earlier attempt.
        chosen: key of the space → value.
        seed: of the training.
        trial: for reporting values and asking the pruner.
    """

    number: int
    run: str
    chosen: Assignment
    seed: int
    trial: optuna.Trial


class Sweep:
    """The study of one sweep; open it with `create` or `load`.

    Attributes:
        name: the sweep's name, also the study's.
        overrides: what all trials have in common.
        plan, space, objectives: what is searched, and for what.
        base_seed: seed of the first run of every configuration.
    """

    def __init__(self, settings: Settings, study: optuna.Study, facts: Mapping[str, Any], space: Space) -> None:
        self.settings, self.study, self.space = settings, study, space
        self.name: str = study.study_name
        self.overrides: tuple[str, ...] = tuple(facts["overrides"])
        self.plan = Plan(**facts["plan"])
        self.objectives = tuple(Objective(**each) for each in facts["objectives"])
        self.base_seed: int = facts["seed"]
        self.presence = Presence(settings)

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(
        cls, settings: Settings, name: str, overrides: Sequence[str], plan: Plan, space: Space, objectives: Sequence[Objective], seed: int
    ) -> Sweep:
        """Make the study. RequestError: there is one of that name."""
        facts = {
            "overrides": list(overrides),
            "plan": asdict(plan),
            "space": space_to_json(space),
            "objectives": [asdict(each) for each in objectives],
            "seed": seed,
        }
        study = storage.create(settings, name, ["maximize" if each.direction == "max" else "minimize" for each in objectives])
        study.set_user_attr("sweep", facts)
        return cls(settings, study, facts, space)

    @classmethod
    def load(cls, settings: Settings, name: str) -> Sweep:
        """Open the sweep `name` (its whole name, its beginning where only one begins so, or `last`); RequestError when there is none."""
        known = storage.names(settings)
        starting = [each for each in known if each == name] or [each for each in known if name and each.startswith(name)]
        if len(starting) > 1:
            raise RequestError(f"{name!r} may be any of {len(starting)} sweeps: {', '.join(starting[-5:])}")
        found = known[-1] if name == "last" and known else next(iter(starting), None)
        study = storage.load(settings, found) if found else None
        facts = study.user_attrs.get("sweep") if study else None
        if study is None or facts is None:
            near = closest(name, known) or (f" (the newest is {known[-1]})" if known else " (there are none yet: lab sweep …)")
            raise RequestError(f"there is no sweep {name!r}{near}")
        return cls(settings, study, facts, space_from_json(facts["space"]))

    def extend(self, changes: Mapping[str, Any]) -> None:
        """Another budget for a sweep that is there: `trials`, `hours`, `samples`, `seeds`, `confirm`, `workers`, `backend`."""
        facts = dict(self.study.user_attrs["sweep"])
        facts["plan"] = {**facts["plan"], **changes}
        self.study.set_user_attr("sweep", facts)
        self.plan = Plan(**facts["plan"])

    # ------------------------------------------------------------------ taking trials

    @property
    def asked(self) -> int:
        """How many trials the search has in all (before confirmation)."""
        if self.plan.trials:
            return self.plan.trials
        return (len(self.space.grid()) if self.plan.sampler == "grid" else CONFIGURATIONS) * self.plan.seeds

    def take(self, worker: str) -> Taken | None:
        """The next trial for `worker`; None when there is nothing to begin now (see `finished`)."""
        with storage.turn(self.settings, self.name):
            trials = self._settle_lost()
            while True:
                if not any(trial.state.name == "WAITING" for trial in trials):
                    upcoming = self._upcoming(trials)
                    if upcoming is None:
                        return None
                    fixed, attributes = upcoming
                    self.study.enqueue_trial(fixed, user_attrs={**attributes, "fixed": fixed})
                taken = self._begin(worker)
                if taken is not None:
                    return taken
                trials = self._trials()

    def _begin(self, worker: str) -> Taken | None:
        """Take the waiting trial; None when what the sampler chose is excluded."""
        self.study.sampler = sampling.sampler(self.plan, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask()
        level = trial.user_attrs.get("level")
        chosen = self.space.choose(lambda parameter: _suggest(trial, parameter, _name(parameter, self.plan.balance, level)))
        if self.space.excluded(chosen):
            trial.set_user_attr("excluded", True)
            self.study.tell(trial, state=_state("PRUNED"))
            return None
        run = trial.user_attrs.get("run") or f"{self.name}-{trial.number:04d}"
        trial.set_user_attr("run", run)
        trial.set_user_attr("worker", worker)
        return Taken(trial.number, run, chosen, trial.user_attrs["seed"], trial)

    def _upcoming(self, trials: Sequence[FrozenTrial]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Optuna parameters that are decided already, and attributes, of the trial that comes next; None when there is none now."""
        search = [trial for trial in trials if trial.user_attrs.get("phase") == "search"]
        if len(search) < self.asked and not self._spent(search):
            return self._next_of_grid(search) if self.plan.sampler == "grid" else self._next_of_search(search)
        if self.plan.confirm and not any(_is_running(trial) for trial in search):
            return self._next_to_confirm(search, [trial for trial in trials if trial.user_attrs.get("phase") == "confirm"])
        return None

    def _next_of_grid(self, search: Sequence[FrozenTrial]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every combination with the first seed, then all of them with the next, so that whatever is done is balanced."""
        grid = self.space.grid()
        there = {(trial.user_attrs["configuration"], trial.user_attrs["seed"]) for trial in search}
        turn, place = next(
            (turn, place)
            for turn in range(len(there) // len(grid) + 1)
            for place in range(len(grid))
            if (place, self.base_seed + turn) not in there
        )
        fixed: dict[str, Any] = {}

        def decide(parameter: Parameter) -> Any:
            fixed[_name(parameter, None, None)] = label(grid[place][parameter.key])
            return grid[place][parameter.key]

        self.space.choose(decide)
        return fixed, {"phase": "search", "configuration": place, "seed": self.base_seed + turn}

    def _next_of_search(self, search: Sequence[FrozenTrial]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Another seed of a configuration that has not had all, else a new configuration."""
        by_configuration: dict[int, list[FrozenTrial]] = {}
        for trial in search:
            by_configuration.setdefault(trial.user_attrs["configuration"], []).append(trial)
        for number, there in by_configuration.items():
            seeds = {trial.user_attrs["seed"] for trial in there}
            missing = [seed for seed in range(self.base_seed, self.base_seed + self.plan.seeds) if seed not in seeds]
            if missing and not self._abandoned(number, by_configuration):
                first = there[0]
                attributes = {key: first.user_attrs[key] for key in ("phase", "configuration", "level") if key in first.user_attrs}
                return dict(first.params), {**attributes, "seed": missing[0]}
        number = max(by_configuration, default=-1) + 1
        attributes = {"phase": "search", "configuration": number, "seed": self.base_seed}
        balance = self.plan.balance
        if balance is None:
            return {}, attributes
        levels = self.space.factors[balance]
        used = [there[0].user_attrs.get("level") for there in by_configuration.values()]
        level = min(levels, key=lambda each: used.count(label(each)))
        return {balance: label(level)}, {**attributes, "level": label(level)}

    def _abandoned(self, number: int, by_configuration: Mapping[int, Sequence[FrozenTrial]]) -> bool:
        """Whether the other seeds of a configuration are not worth their time: its first was pruned, or it is clearly worse (Wilcoxon)."""
        if any(trial.state.name == "PRUNED" for trial in by_configuration[number]):
            return True
        if self.plan.pruner != "wilcoxon":
            return False
        values = {
            each: {trial.user_attrs["seed"]: trial.values[0] for trial in there if trial.state.name == "COMPLETE"}
            for each, there in by_configuration.items()
        }
        return sampling.clearly_worse(values.pop(number), list(values.values()), self.objectives[0].direction, seeds=self.plan.seeds)

    def _next_to_confirm(
        self, search: Sequence[FrozenTrial], confirmed: Sequence[FrozenTrial]
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """A fresh seed for the best configuration of each level (of `balance`) whose confirmation is not complete."""
        seeds = range(self.base_seed + self.plan.seeds, self.base_seed + self.plan.seeds + self.plan.confirm)
        there = {(trial.user_attrs["configuration"], trial.user_attrs["seed"]) for trial in confirmed}
        for seed in seeds:
            for best in self._best_of_levels(search):
                if (best.user_attrs["configuration"], seed) not in there:
                    attributes = {key: best.user_attrs[key] for key in ("configuration", "level") if key in best.user_attrs}
                    return dict(best.params), {**attributes, "phase": "confirm", "seed": seed}
        return None

    def _best_of_levels(self, search: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """A trial of the best configuration, by its mean over seeds, of each level of `balance`."""
        sign = 1 if self.objectives[0].direction == "max" else -1
        means: dict[int, list[float]] = {}
        examples: dict[int, FrozenTrial] = {}
        for trial in search:
            if trial.state.name == "COMPLETE" and self._feasible(trial):
                means.setdefault(trial.user_attrs["configuration"], []).append(sign * trial.values[0])
                examples.setdefault(trial.user_attrs["configuration"], trial)
        best: dict[Any, int] = {}
        for number, values in means.items():
            level = examples[number].user_attrs.get("level")
            score = math.fsum(values) / len(values)
            if level not in best or score > math.fsum(means[best[level]]) / len(means[best[level]]):
                best[level] = number
        return [examples[number] for number in best.values()]

    def _spent(self, search: Sequence[FrozenTrial]) -> bool:
        """Whether the hours or the samples are used up."""
        outcomes = [trial.user_attrs.get("outcome") or {} for trial in search]
        hours = sum(each.get("seconds", 0.0) for each in outcomes) / 3600
        samples = sum(each.get("samples", 0) for each in outcomes)
        return bool((self.plan.hours and hours >= self.plan.hours) or (self.plan.samples and samples >= self.plan.samples))

    # ------------------------------------------------------------------ what became of them

    def complete(self, taken: Taken, outcome: Mapping[str, Any], values: Sequence[float]) -> None:
        """The trial is done."""
        taken.trial.set_user_attr("outcome", dict(outcome))
        for metric, bound in self.plan.constraints.items():
            taken.trial.set_constraint(metric, _violation(outcome, metric, bound))
        self._tell(taken, state="COMPLETE", values=values)

    def prune(self, taken: Taken, outcome: Mapping[str, Any]) -> None:
        """The pruner stopped it."""
        taken.trial.set_user_attr("outcome", dict(outcome))
        self._tell(taken, state="PRUNED")

    def fail(self, taken: Taken, reason: str, outcome: Mapping[str, Any]) -> None:
        """It cannot be finished, and would fail again."""
        taken.trial.set_user_attr("outcome", dict(outcome))
        taken.trial.set_user_attr("reason", reason)
        self._tell(taken, state="FAIL")

    def put_back(self, taken: Taken) -> None:
        """Somebody stopped it: it waits to be taken up again, where it was."""
        with storage.turn(self.settings, self.name):
            self._again(next(trial for trial in self.study.get_trials(deepcopy=False) if trial.number == taken.number), lost=False)

    def _tell(self, taken: Taken, *, state: str, values: Sequence[float] | None = None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.tell(taken.trial, list(values) if values is not None else None, state=_state(state))
        except (UpdateFinishedTrialError, ValueError) as error:
            raise RunError(f"{taken.run} was taken up by another worker in the meantime: {error}") from error

    def settle(self) -> list[str]:
        """Let the trials of workers that are gone wait again; returns the names of their runs."""
        with storage.turn(self.settings, self.name):
            lost = self._lost(self.study.get_trials(deepcopy=False))
            for trial in lost:
                self._again(trial, lost=True)
        return [trial.user_attrs.get("run") or f"trial {trial.number}" for trial in lost]

    def _settle_lost(self) -> list[FrozenTrial]:
        for trial in self._lost(self.study.get_trials(deepcopy=False)):
            self._again(trial, lost=True)
        return self._trials()

    def _lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        running = [trial for trial in trials if trial.state.name == "RUNNING"]
        alive = {worker: self.presence.alive(worker) for worker in {trial.user_attrs.get("worker") for trial in running} if worker}
        return [trial for trial in running if not alive.get(trial.user_attrs.get("worker", ""), False)]

    def _again(self, trial: FrozenTrial, *, lost: bool) -> None:
        """End this attempt, and let the same trial wait again: with its run, whose checkpoint it goes on from."""
        self.study.tell(trial.number, state=_state("FAIL"))
        attributes = {key: value for key, value in trial.user_attrs.items() if key not in ("worker", "outcome", "reason")}
        attributes["attempts"] = [*attributes.get("attempts", []), trial.number]
        attributes["lost"] = attributes.get("lost", 0) + (lost and "worker" in trial.user_attrs)
        if attributes["lost"] < ATTEMPTS:
            self.study.enqueue_trial({**attributes.get("fixed", {}), **trial.params}, user_attrs=attributes)

    # ------------------------------------------------------------------ looking

    def _trials(self) -> list[FrozenTrial]:
        """All trials that count: no attempt that was taken up again, nothing excluded."""
        trials = [
            trial for trial in self.study.get_trials(deepcopy=False) if "phase" in trial.user_attrs and "excluded" not in trial.user_attrs
        ]
        superseded = {number for trial in trials for number in trial.user_attrs.get("attempts", ())}
        return [trial for trial in trials if trial.state.name != "FAIL" or (trial.number not in superseded and _reason(trial) is not None)]

    def counts(self) -> dict[str, int]:
        """How many trials are `complete`, `pruned`, `failed`, `running`, `waiting`."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
        found = dict.fromkeys(names.values(), 0)
        for trial in self._trials():
            found[names[trial.state.name]] += 1
        return found

    def best_value(self) -> float | None:
        """The best value of a single finished trial; None while there is none."""
        values = [trial.values[0] for trial in self._trials() if trial.state.name == "COMPLETE"]
        return (max if self.objectives[0].direction == "max" else min)(values, default=None)

    def finished(self) -> bool:
        """Whether everything that was asked for has ended."""
        trials = self._trials()
        return not any(_is_running(trial) for trial in trials) and self._upcoming(trials) is None

    def hopeless(self) -> str | None:
        """Why nothing succeeds, once HOPELESS trials have failed and none has succeeded."""
        ended = [trial for trial in self._trials() if not _is_running(trial)]
        reasons = [_reason(trial) for trial in ended if trial.state.name == "FAIL"]
        if ended and len(reasons) == len(ended) and (len(reasons) >= HOPELESS or self.finished()):
            return f"all {len(reasons)} trials failed, the last one because {reasons[-1]}"
        return None

    def total(self) -> int:
        """How many trials there will be, as far as can be said now: with those that confirm."""
        levels = len(self.space.factors[self.plan.balance]) if self.plan.balance else 1
        return self.asked + levels * self.plan.confirm

    def results(self, test: Mapping[int, Mapping[str, float]] | None = None) -> Results:
        """What the sweep has come to so far."""
        plan = self.plan
        return Results(
            name=self.name,
            description=self.study.user_attrs.get("description", ""),
            overrides=self.overrides,
            objectives=self.objectives,
            factors=self.space.factors,
            ranges=self.space.ranges,
            sampler=plan.sampler,
            pruner=plan.pruner,
            balance=plan.balance,
            seeds=plan.seeds,
            asked=self.total(),
            trials=tuple(self._as_trial(trial) for trial in self._trials() if not _is_running(trial)),
            test=test or {},
        )

    def _as_trial(self, trial: FrozenTrial) -> Trial:
        outcome = trial.user_attrs.get("outcome") or {}
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]
        return Trial(
            number=trial.number,
            run=trial.user_attrs.get("run", ""),
            params=self.chosen(trial),
            seed=trial.user_attrs["seed"],
            state=state,  # type: ignore[arg-type]
            values=tuple(trial.values) if state == "complete" else None,
            curve=tuple((epoch, value) for epoch, value in outcome.get("curve", ())),
            metrics=outcome.get("metrics", {}),
            phase=trial.user_attrs["phase"],
            reason=_reason(trial) if state == "failed" else None,
            seconds=outcome.get("seconds", 0.0),
            samples=outcome.get("samples", 0),
            feasible=self._feasible(trial),
        )

    def chosen(self, trial: FrozenTrial) -> Assignment:
        """The configuration of a trial, as values of the space."""
        level = trial.user_attrs.get("level")

        def decide(parameter: Parameter) -> Any:
            value = trial.params.get(_name(parameter, self.plan.balance, level))
            return _as_level(parameter, value)

        return self.space.choose(decide)

    def _feasible(self, trial: FrozenTrial) -> bool:
        outcome = trial.user_attrs.get("outcome") or {}
        return all(_violation(outcome, metric, bound) <= 0 for metric, bound in self.plan.constraints.items())


def _is_running(trial: FrozenTrial) -> bool:
    return trial.state.name in ("RUNNING", "WAITING")


def _reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None for an attempt that was only broken off."""
    given: str | None = trial.user_attrs.get("reason")
    lost = trial.user_attrs.get("lost", 0) + 1
    return given or (f"its worker was lost {lost} times" if lost >= ATTEMPTS else None)


def _state(name: str) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    return TrialState[name]


def _violation(outcome: Mapping[str, Any], metric: str, bound: Mapping[str, float]) -> float:
    """How far a metric is beyond its bound; 0 or less where it keeps it. A metric that is not there breaks it."""
    value = {**outcome.get("metrics", {}), **outcome}.get(metric)
    if not isinstance(value, int | float) or math.isnan(value):
        return math.inf
    return value - bound["at_most"] if "at_most" in bound else bound["at_least"] - value


def _name(parameter: Parameter, balance: str | None, level: Any) -> str:
    """What Optuna calls the parameter: its own name for each alternative and each level that is searched for itself."""
    alternative = parameter.place[2:3] if len(parameter.place) > 2 else ()
    name = parameter.key + "".join(f"#{place}" for place in alternative)
    return name if balance is None or parameter.key == balance else f"{name}@{level}"


def _suggest(trial: optuna.Trial, parameter: Parameter, name: str) -> Any:
    if parameter.levels is not None:
        return _as_level(parameter, trial.suggest_categorical(name, [label(level) for level in parameter.levels]))
    assert parameter.range is not None
    low, high, log = parameter.range.low, parameter.range.high, parameter.range.log
    if parameter.range.whole:
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, low, high, log=log)


def _as_level(parameter: Parameter, value: Any) -> Any:
    if parameter.levels is None:
        return value
    return next((level for level in parameter.levels if label(level) == value and type(label(level)) is type(value)), value)


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as JSON values."""
    return {
        "parameters": [asdict(parameter) for parameter in space.parameters],
        "exclude": [dict(each) for each in space.exclude],
    }


def space_from_json(kept: Mapping[str, Any]) -> Space:
    """What `space_to_json` gave, after it was JSON."""
    from flows.search.results import Range

    parameters = [
        Parameter(
            each["key"],
            levels=None if each["levels"] is None else tuple(each["levels"]),
            range=None if each["range"] is None else Range(**each["range"]),
            when={key: tuple(values) for key, values in each["when"].items()},
            place=tuple(each["place"]),
        )
        for each in kept["parameters"]
    ]
    return Space(tuple(parameters), tuple({key: tuple(values) for key, values in each.items()} for each in kept["exclude"]))
