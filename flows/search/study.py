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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.errors import RequestError, RunError, closest
from flows.config.names import SEARCH, describe
from flows.lab.settings import Settings
from flows.search import attempts, sampling, storage
from flows.search import space as spaces
from flows.search.composing import Composer
from flows.search.plan import Plan
from flows.search.presence import Presence
from flows.search.results import Objective, Results
from flows.search.space import Assignment, Parameter, Space
from flows.search.upcoming import Next, Order

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

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
        identity: Optuna's id of the trial in its database.
    """

    number: int
    run: str
    chosen: Assignment
    seed: int
    identity: int


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
        self.order = Order(self.plan, space, self.objectives, self.base_seed)
        self.compose = Composer(self.overrides)
        self.presence = Presence(settings)

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(
        cls,
        settings: Settings,
        name: str,
        *,
        overrides: Sequence[str],
        plan: Plan,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
    ) -> Sweep:
        """Make the study. RequestError: there is one of that name."""
        facts = {
            "overrides": list(overrides),
            "plan": asdict(plan),
            "space": spaces.to_json(space),
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
        return cls(settings, study, facts, spaces.from_json(facts["space"]))

    def extend(self, changes: Mapping[str, Any]) -> None:
        """Another budget (`trials`, `hours`, `samples`, `seeds`, `confirm`, `workers`, `backend`). RequestError: less than is there."""
        there = len(self._trials())
        if 0 < changes.get("trials", there) < there:
            raise RequestError(f"search.trials: {changes['trials']} is too few (allowed: {there} or more, which {self.name} has already)")
        facts = dict(self.study.user_attrs["sweep"])
        facts["plan"] = {**facts["plan"], **changes}
        self.study.set_user_attr("sweep", facts)
        self.plan = Plan(**facts["plan"])
        self.order = Order(self.plan, self.space, self.objectives, self.base_seed)

    # ------------------------------------------------------------------ taking trials

    def take(self, worker: str) -> Taken | None:
        """The next trial for `worker`; None when there is nothing to begin now (see `finished`)."""
        return next(iter(self.take_many(worker, 1)), None)

    def take_many(self, worker: str, count: int) -> list[Taken]:
        """The next trials for `worker`, at most `count`, in one turn."""
        found: list[Taken] = []
        with storage.turn(self.settings, self.name):
            trials = self._settle_lost()
            while len(found) < count:
                if not any(trial.state.name == "WAITING" for trial in trials):
                    if of_grid := self.order.next_of_grid(trials, count - len(found)):
                        return [*found, *self._add(worker, of_grid)]
                    upcoming = self.order.next(trials)
                    if upcoming is None:
                        return found
                    fixed, attributes = upcoming
                    self.study.enqueue_trial(fixed, user_attrs={**attributes, "fixed": fixed})
                taken = self._begin(worker)
                found += [taken] if taken is not None else []
                if len(found) < count:
                    trials = self._trials()
        return found

    def _add(self, worker: str, decided: Sequence[Next]) -> list[Taken]:
        """Trials about which nothing is left to choose, put into the study as running ones, each in one transaction."""
        import optuna

        first = len(self.study.get_trials(deepcopy=False))
        found: list[tuple[int, str, Assignment, int]] = []
        for number, (fixed, attributes) in enumerate(decided, start=first):
            run = f"{self.name}-{number:04d}"
            trial = optuna.create_trial(
                state=attempts.state("RUNNING"),
                params=fixed,
                distributions={name: self._distributions[name] for name in fixed},
                user_attrs={**attributes, "fixed": fixed, "run": run, "worker": worker},
            )
            self.study.add_trial(trial)
            found.append((number, run, self._chosen(fixed, None), attributes["seed"]))
        identities = {trial.number: trial._trial_id for trial in self.study.get_trials(deepcopy=False)[first:]}
        return [Taken(*each, identities[each[0]]) for each in found]

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's name → choices, where there is no range and no balance."""
        return {attempts.name(each, None, None): attempts.distribution(each) for each in self.space.parameters if each.levels is not None}

    def _begin(self, worker: str) -> Taken | None:
        """Take the waiting trial; None when what the sampler chose is excluded."""
        self.study.sampler = sampling.sampler(self.plan, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask()
        level = trial.user_attrs.get("level")
        chosen = self.space.choose(lambda parameter: attempts.suggest(trial, parameter, attempts.name(parameter, self.plan.balance, level)))
        if self.space.excluded(chosen):
            trial.set_user_attr("excluded", True)
            self.study.tell(trial, state=attempts.state("PRUNED"))
            return None
        run = trial.user_attrs.get("run") or f"{self.name}-{trial.number:04d}"
        trial.set_user_attr("run", run)
        trial.set_user_attr("worker", worker)
        return Taken(trial.number, run, chosen, trial.user_attrs["seed"], trial._trial_id)

    def trial_of(self, taken: Taken) -> optuna.Trial:
        """Optuna's handle of a trial that was taken: for reporting values and asking the pruner."""
        import optuna

        return optuna.Trial(self.study, taken.identity)

    # ------------------------------------------------------------------ what became of them

    def complete(self, taken: Taken, outcome: Mapping[str, Any], values: Sequence[float]) -> None:
        """The trial is done."""
        self._note(taken, outcome=dict(outcome))
        for metric, bound in self.plan.constraints.items():
            self.trial_of(taken).set_constraint(metric, attempts.violation(outcome, metric, bound))
        self._tell(taken, state="COMPLETE", values=values)

    def prune(self, taken: Taken, outcome: Mapping[str, Any]) -> None:
        """The pruner stopped it."""
        self._note(taken, outcome=dict(outcome))
        self._tell(taken, state="PRUNED")

    def fail(self, taken: Taken, reason: str, outcome: Mapping[str, Any]) -> None:
        """It cannot be finished, and would fail again."""
        self._note(taken, outcome=dict(outcome), reason=reason)
        self._tell(taken, state="FAIL")

    def _note(self, taken: Taken, **attributes: Any) -> None:
        """Attributes of a trial, written without reading what is there."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            for key, value in attributes.items():
                storage.storage(self.settings).set_trial_user_attr(taken.identity, key, value)
        except UpdateFinishedTrialError as error:
            raise _taken_up(taken, error) from error

    def put_back(self, taken: Taken) -> None:
        """Somebody stopped it: it waits to be taken up again, where it was."""
        with storage.turn(self.settings, self.name):
            self._again(next(trial for trial in self.study.get_trials(deepcopy=False) if trial.number == taken.number), lost=False)

    def _tell(self, taken: Taken, *, state: str, values: Sequence[float] | None = None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.tell(taken.number, list(values) if values is not None else None, state=attempts.state(state))
        except (UpdateFinishedTrialError, ValueError) as error:
            raise _taken_up(taken, error) from error

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
        self.study.tell(trial.number, state=attempts.state("FAIL"))
        attributes = {key: value for key, value in trial.user_attrs.items() if key not in ("worker", "outcome", "reason")}
        attributes["attempts"] = [*attributes.get("attempts", []), trial.number]
        attributes["lost"] = attributes.get("lost", 0) + (lost and "worker" in trial.user_attrs)
        if attributes["lost"] < attempts.ATTEMPTS:
            self.study.enqueue_trial({**attributes.get("fixed", {}), **trial.params}, user_attrs=attributes)

    # ------------------------------------------------------------------ looking

    def _trials(self) -> list[FrozenTrial]:
        """All trials that count."""
        return attempts.counted(self.study.get_trials(deepcopy=False))

    def standing(self) -> tuple[dict[str, int], float | None]:
        """How many trials are `complete`, `pruned`, `failed`, `running`, `waiting`, and the best value of one that is complete."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
        found = dict.fromkeys(names.values(), 0)
        values: list[float] = []
        for trial in self._trials():
            found[names[trial.state.name]] += 1
            values += trial.values[:1] if trial.state.name == "COMPLETE" else []
        return found, (max if self.objectives[0].direction == "max" else min)(values, default=None)

    def counts(self) -> dict[str, int]:
        """How many trials are `complete`, `pruned`, `failed`, `running`, `waiting`."""
        return self.standing()[0]

    def way(self) -> str:
        """`stacked` where trials are to be trained together, or it is yet to be seen whether they should; else `processes`."""
        if self.plan.backend == "vectorised":
            return "stacked"
        chosen = self.study.user_attrs.get("way")
        return str((chosen or {"way": "stacked"})["way"]) if self.plan.backend == "auto" else "processes"

    def finished(self) -> bool:
        """Whether everything that was asked for has ended."""
        trials = self._trials()
        return not any(attempts.goes_on(trial) for trial in trials) and self.order.next(trials) is None

    def hopeless(self) -> str | None:
        """Why nothing succeeds, once HOPELESS trials have failed and none has succeeded."""
        ended = [trial for trial in self._trials() if not attempts.goes_on(trial)]
        reasons = [attempts.reason(trial) for trial in ended if trial.state.name == "FAIL"]
        if ended and len(reasons) == len(ended) and (len(reasons) >= HOPELESS or self.finished()):
            return f"all {len(reasons)} trials failed, the last one because {reasons[-1]}"
        return None

    def total(self) -> int:
        """How many trials there will be, as far as can be said now."""
        return self.order.total

    def results(self, test: Mapping[int, Mapping[str, float]] | None = None, *, tested: int = 0) -> Results:
        """What the sweep has come to so far; `test` and `tested` as in `Results`."""
        plan = self.plan
        return Results(
            name=self.name,
            description=dict(describe(SEARCH)).get(plan.name, ""),
            overrides=self.overrides,
            objectives=self.objectives,
            factors=self.space.factors,
            ranges=self.space.ranges,
            sampler=plan.sampler,
            pruner=plan.pruner,
            balance=plan.balance,
            seeds=plan.seeds,
            asked=self.total(),
            trials=tuple(
                attempts.as_trial(trial, self._chosen(trial.params, trial.user_attrs.get("level")), plan)
                for trial in self._trials()
                if not attempts.goes_on(trial)
            ),
            test=test or {},
            tested=tested,
        )

    def _chosen(self, params: Mapping[str, Any], level: Any) -> Assignment:
        """What Optuna calls a configuration, as values of the space."""

        def decide(parameter: Parameter) -> Any:
            return attempts.as_level(parameter, params.get(attempts.name(parameter, self.plan.balance, level)))

        return self.space.choose(decide)


def _taken_up(taken: Taken, error: Exception) -> RunError:
    return RunError(f"{taken.run} was taken up by another worker in the meantime: {error}")
