"""Which trial comes next: a function of the plan and of the trials that there are, so that any worker can decide it in its turn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.search import attempts, sampling
from flows.search.plan import Plan
from flows.search.results import Objective
from flows.search.space import Assignment, Parameter, Space, label

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CONFIGURATIONS = 30
"""How many configurations a search without a budget tries, unless it is a grid."""

MOST = 100_000
"""Trials of a search that only hours or samples end."""

SAME_PROGRAM = ("optimizer", "initializer", "schedule", "seed", "trainer.epochs", "trainer.patience", "trainer.clip_norm")
"""Keys, with those below them, that may differ between trials that are trained as one program (components/training/stacked)."""

Next = tuple[dict[str, Any], dict[str, Any]]
"""Optuna parameters that are decided already, and the trial's attributes."""


class Order:
    """The order of the trials.

    Args:
        plan, space, objectives: what is searched, and for what.
        base_seed: the first seed of every configuration.
    """

    def __init__(self, plan: Plan, space: Space, objectives: Sequence[Objective], base_seed: int) -> None:
        self.plan, self.space, self.objectives, self.base_seed = plan, space, objectives, base_seed
        self._kinds: dict[str, int] = {}

    @cached_property
    def grid(self) -> list[Assignment]:
        """Every configuration of the space, which has only choices."""
        return self.space.grid()

    @property
    def open_ended(self) -> bool:
        """Whether hours or samples end the search, and not a number of trials."""
        return not self.plan.trials and self.plan.sampler != "grid" and bool(self.plan.hours or self.plan.samples)

    @property
    def asked(self) -> int:
        """How many trials the search has in all, before confirmation."""
        if self.plan.trials:
            return self.plan.trials
        if self.open_ended:
            return MOST
        return (len(self.grid) if self.plan.sampler == "grid" else CONFIGURATIONS) * self.plan.seeds

    @property
    def total(self) -> int:
        """How many trials there will be, as far as can be said before: with those that confirm."""
        levels = len(self.space.factors[self.plan.balance]) if self.plan.balance else 1
        return self.asked + levels * self.plan.confirm

    def next(self, trials: Sequence[FrozenTrial]) -> Next | None:
        """The trial that comes next, where `trials` are all that count; None when there is none now."""
        search = [trial for trial in trials if trial.user_attrs.get("phase") == "search"]
        if len(search) < self.asked and not self._spent(search):
            return self.next_of_grid(trials, 1)[0] if self.plan.sampler == "grid" else self._next_of_search(search)
        if self.plan.confirm and not any(attempts.goes_on(trial) for trial in search):
            return self._next_to_confirm(search, [trial for trial in trials if trial.user_attrs.get("phase") == "confirm"])
        return None

    def next_of_grid(self, trials: Sequence[FrozenTrial], count: int, *, alike: bool = False) -> list[Next]:
        """The next trials of a grid, at most `count`; none where there is no grid, or nothing left of it.

        Every combination comes with the first seed, then all of them with the next, so that whatever is done is balanced. Where trials
        are to be `alike`, those of one seed that can be trained as one program come one after the other.
        """
        search = [trial for trial in trials if trial.user_attrs.get("phase") == "search"]
        if self.plan.sampler != "grid" or self._spent(search):
            return []
        there = {(trial.user_attrs["configuration"], trial.user_attrs["seed"]) for trial in search}
        missing = (
            (place, self.base_seed + turn)
            for turn in range(self.asked // len(self.grid) + 1)
            for place in range(len(self.grid))
            if (place, self.base_seed + turn) not in there
        )
        wanted = list(itertools.islice(missing, self.asked - len(search) if alike else min(count, self.asked - len(search))))
        if alike:
            wanted.sort(key=lambda each: (each[1], self._kinds.setdefault(self._kind(each[0]), len(self._kinds))))
        return [(self._of_grid(place), {"phase": "search", "configuration": place, "seed": seed}) for place, seed in wanted[:count]]

    @cached_property
    def kinds(self) -> int:
        """How many different programs the configurations of the space need, as far as its choices decide it."""
        return math.prod(len(each.levels or ()) or 1 for each in self.space.parameters if not each.key.startswith(SAME_PROGRAM))

    def _kind(self, place: int) -> str:
        """What of a combination decides which program it needs."""
        return repr([(key, value) for key, value in self.grid[place].items() if not key.startswith(SAME_PROGRAM)])

    def _of_grid(self, place: int) -> dict[str, Any]:
        """A combination in Optuna's words."""
        fixed: dict[str, Any] = {}

        def decide(parameter: Parameter) -> Any:
            fixed[attempts.name(parameter, None, None)] = label(self.grid[place][parameter.key])
            return self.grid[place][parameter.key]

        self.space.choose(decide)
        return fixed

    def _next_of_search(self, search: Sequence[FrozenTrial]) -> Next:
        """Another seed of a configuration that has not had all, else a new configuration."""
        by_configuration: dict[int, list[FrozenTrial]] = {}
        for trial in search:
            by_configuration.setdefault(trial.user_attrs["configuration"], []).append(trial)
        for number, there in by_configuration.items():
            seeds = {trial.user_attrs["seed"] for trial in there}
            missing = [seed for seed in range(self.base_seed, self.base_seed + self.plan.seeds) if seed not in seeds]
            if missing and not self._abandoned(number, by_configuration):
                first = there[0]
                return dict(first.params), {**_kept(first), "phase": "search", "seed": missing[0]}
        number = max(by_configuration, default=-1) + 1
        attributes: dict[str, Any] = {"phase": "search", "configuration": number, "seed": self.base_seed}
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

    def _next_to_confirm(self, search: Sequence[FrozenTrial], confirmed: Sequence[FrozenTrial]) -> Next | None:
        """A fresh seed for the best configuration of each level (of `balance`) whose confirmation is not complete."""
        seeds = range(self.base_seed + self.plan.seeds, self.base_seed + self.plan.seeds + self.plan.confirm)
        there = {(trial.user_attrs["configuration"], trial.user_attrs["seed"]) for trial in confirmed}
        for seed in seeds:
            for best in self._best_of_levels(search):
                if (best.user_attrs["configuration"], seed) not in there:
                    return dict(best.params), {**_kept(best), "phase": "confirm", "seed": seed}
        return None

    def _best_of_levels(self, search: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """A trial of the best configuration, by its mean over seeds, of each level of `balance`."""
        sign = 1 if self.objectives[0].direction == "max" else -1
        means: dict[int, list[float]] = {}
        examples: dict[int, FrozenTrial] = {}
        for trial in search:
            if trial.state.name == "COMPLETE" and attempts.feasible(trial, self.plan):
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


def _kept(trial: FrozenTrial) -> dict[str, Any]:
    """What all trials of one configuration have in common."""
    return {key: trial.user_attrs[key] for key in ("configuration", "level") if key in trial.user_attrs}
