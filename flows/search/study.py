"""One sweep as an Optuna study: which trial comes next, what became of it, and what to do with one whose worker is gone.

Workers share nothing but the databases. Whoever wants a trial takes its **turn** (one at a time, over all processes), looks at all trials,
and takes the next; so a sweep has exactly as many trials as were asked for, whoever dies when. In its turn a worker

    1. takes up trials whose worker is gone: such an attempt ends as failed and the same trial waits again, with its run;
    2. takes a waiting trial, or decides on a new one: the next of the grid, another seed of a configuration, or what the sampler says.

A trial belongs to its worker by the attribute `worker`, set before the turn ends. A trial without it was never begun by anybody.

What is in a trial's attributes: `seed`, `phase`, `configuration` (its number; all seeds of one configuration share it), `run` (the lab's
name of the run; the same for all attempts), `worker`, `stack` (where its stack's checkpoint is, if it was in one), and at the end
`outcome` (JSON-able facts) or `reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.errors import RunError
from flows.search import attempts, sampling, storage
from flows.search.space import Assignment
from flows.search.standing import Standing
from flows.search.upcoming import Next

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


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


class Sweep(Standing):
    """A sweep as its workers change it; everything else about it is in `Standing`."""

    # ------------------------------------------------------------------ taking trials

    def take(self, worker: str) -> Taken | None:
        """The next trial for `worker`; None when there is nothing to begin now (see `finished`)."""
        return next(iter(self.take_many(worker, 1)), None)

    def take_many(
        self, worker: str, count: int, *, stack: int | None = None, elsewhere: Callable[[int], bool] = lambda _: False
    ) -> list[Taken]:
        """The next trials for `worker`, at most `count`, in one turn.

        Args:
            stack: the stack that they will be in: what has been in it already comes first, and of a grid what is alike comes together.
            elsewhere: whether what has been in the stack of that number is left for whoever takes up that stack.
        """
        found: list[Taken] = []
        with storage.turn(self.settings, self.name):
            trials = self._settle_lost()
            while len(found) < count:
                waiting = [trial for trial in trials if trial.state.name == "WAITING"]
                there = {trial.user_attrs["stack"] for trial in waiting if "stack" in trial.user_attrs}
                left = {number for number in there if number != stack and elsewhere(number)}
                mine = [trial for trial in waiting if trial.user_attrs.get("stack") not in left]
                if not mine:
                    if of_grid := self.order.next_of_grid(trials, count - len(found), alike=stack is not None):
                        return [*found, *self._add(worker, of_grid, stack)]
                    upcoming = self.order.next(trials)
                    if upcoming is None:
                        return found
                    fixed, attributes = upcoming
                    self.study.enqueue_trial(fixed, user_attrs={**attributes, "fixed": fixed})
                    trials = self._trials()
                    continue
                first = min(mine, key=lambda trial: (stack is None or trial.user_attrs.get("stack") != stack, trial.number))
                taken = self._begin(worker, first, stack)
                found += [taken] if taken is not None else []
                if len(found) < count:
                    trials = self._trials()
        return found

    def _add(self, worker: str, decided: Sequence[Next], stack: int | None) -> list[Taken]:
        """Trials about which nothing is left to choose, put into the study as running ones."""
        import optuna

        first = len(self.study.get_trials(deepcopy=False))
        found: list[tuple[int, str, Assignment, int]] = []
        templates: list[FrozenTrial] = []
        for number, (fixed, attributes) in enumerate(decided, start=first):
            run = f"{self.name}-{number:04d}"
            own = {**attributes, "fixed": fixed, "run": run, "worker": worker, **({} if stack is None else {"stack": stack})}
            distributions = {name: self._distributions[name] for name in fixed}
            templates.append(
                optuna.create_trial(state=attempts.state("RUNNING"), params=fixed, distributions=distributions, user_attrs=own)
            )
            found.append((number, run, self._chosen(fixed, None), attributes["seed"]))
        identities = dict(storage.storage(self.settings).add(self.study._study_id, templates))
        return [Taken(*each, identities[each[0]]) for each in found]

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's name → choices, where there is no range and no balance."""
        return {attempts.name(each, None, None): attempts.distribution(each) for each in self.space.parameters if each.levels is not None}

    def _begin(self, worker: str, waiting: FrozenTrial, stack: int | None) -> Taken | None:
        """Take the waiting trial; None when what the sampler chose is excluded."""
        import optuna

        self.study.sampler = sampling.sampler(self.plan, len(self.study.get_trials(deepcopy=False)))
        storage.storage(self.settings).set_trial_state_values(waiting._trial_id, attempts.state("RUNNING"))
        self.study._thread_local.cached_all_trials = None  # as `Study.ask`, which would take whichever trial waits first
        trial = optuna.Trial(self.study, waiting._trial_id)
        level = trial.user_attrs.get("level")
        chosen = self.space.choose(lambda parameter: attempts.suggest(trial, parameter, attempts.name(parameter, self.plan.balance, level)))
        if self.space.excluded(chosen):
            trial.set_user_attr("excluded", True)
            self.study.tell(trial, state=attempts.state("PRUNED"))
            return None
        run = trial.user_attrs.get("run") or f"{self.name}-{trial.number:04d}"
        trial.set_user_attr("run", run)
        if stack is not None:
            trial.set_user_attr("stack", stack)
        trial.set_user_attr("worker", worker)
        return Taken(trial.number, run, chosen, trial.user_attrs["seed"], trial._trial_id)

    def trial_of(self, taken: Taken) -> optuna.Trial:
        """Optuna's handle of a trial that was taken: for reporting values and asking the pruner."""
        import optuna

        return optuna.Trial(self.study, taken.identity)

    # ------------------------------------------------------------------ what became of them

    def complete(self, *done: tuple[Taken, Mapping[str, Any], Sequence[float]]) -> None:
        """These trials are done; each with its outcome and values.

        Raises:
            RunError: one was taken up by another worker; what is said of the others holds.
        """
        from flows.search.bulk import End

        for taken, outcome, _ in done if self.plan.constraints else ():
            for metric, bound in self.plan.constraints.items():
                self.trial_of(taken).set_constraint(metric, attempts.violation(outcome, metric, bound))
        ends = [
            End(taken.identity, attempts.state("COMPLETE"), {"outcome": dict(outcome)}, tuple(values)) for taken, outcome, values in done
        ]
        gone = storage.storage(self.settings).end(ends)
        if lost := next((taken for taken, *_ in done if taken.identity in gone), None):
            raise _taken_up(lost)

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
            raise _taken_up(taken) from error

    def put_back(self, *taken: Taken) -> None:
        """Somebody stopped them: they wait to be taken up again, where they were."""
        numbers = {each.number for each in taken}
        with storage.turn(self.settings, self.name):
            self._again([trial for trial in self.study.get_trials(deepcopy=False) if trial.number in numbers], lost=False)

    def _tell(self, taken: Taken, *, state: str) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.tell(taken.number, state=attempts.state(state))
        except (UpdateFinishedTrialError, ValueError) as error:
            raise _taken_up(taken) from error

    def settle(self) -> list[str]:
        """Let the trials of workers that are gone wait again; returns the names of their runs."""
        with storage.turn(self.settings, self.name):
            lost = self._lost(self.study.get_trials(deepcopy=False))
            self._again(lost, lost=True)
        return [trial.user_attrs.get("run") or f"trial {trial.number}" for trial in lost]

    def _settle_lost(self) -> list[FrozenTrial]:
        if lost := self._lost(self.study.get_trials(deepcopy=False)):
            self._again(lost, lost=True)
        return self._trials()

    def _lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        running = [trial for trial in trials if trial.state.name == "RUNNING"]
        alive = {worker: self.presence.alive(worker) for worker in {trial.user_attrs.get("worker") for trial in running} if worker}
        return [trial for trial in running if not alive.get(trial.user_attrs.get("worker", ""), False)]

    def _again(self, trials: Sequence[FrozenTrial], *, lost: bool) -> None:
        """End these attempts, and let the same trials wait again: with their runs, whose checkpoints they go on from."""
        import optuna

        from flows.search.bulk import End

        again: list[FrozenTrial] = []
        for trial in trials:
            attributes = {key: value for key, value in trial.user_attrs.items() if key not in ("worker", "outcome", "reason")}
            attributes["attempts"] = [*attributes.get("attempts", []), trial.number]
            attributes["lost"] = attributes.get("lost", 0) + (lost and "worker" in trial.user_attrs)
            if attributes["lost"] < attempts.ATTEMPTS:
                fixed = {"fixed_params": {**attributes.get("fixed", {}), **trial.params}}  # as `Study.enqueue_trial`
                again.append(optuna.create_trial(state=attempts.state("WAITING"), user_attrs=attributes, system_attrs=fixed))
        database = storage.storage(self.settings)
        database.end([End(trial._trial_id, attempts.state("FAIL")) for trial in trials])
        database.add(self.study._study_id, again)


def _taken_up(taken: Taken) -> RunError:
    return RunError(f"{taken.run} was taken up by another worker in the meantime")
