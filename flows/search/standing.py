"""A sweep's study, opened: what was asked for, and how it stands. How workers take and end its trials is in `study.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from components.errors import RequestError, closest
from flows.config.names import SEARCH, describe
from flows.lab.settings import Settings
from flows.search import attempts, storage
from flows.search import space as spaces
from flows.search.composing import Composer
from flows.search.plan import Plan
from flows.search.presence import Presence
from flows.search.results import Objective, Results
from flows.search.space import Assignment, Parameter, Space
from flows.search.upcoming import Order

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

HOPELESS = 5
"""So many trials may fail before the first succeeds; then the sweep stops with their reason."""


class Standing:
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
        self.compose = Composer(self.overrides, choices={each.key: each.levels for each in space.parameters if each.levels})
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
    ) -> Self:
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
    def load(cls, settings: Settings, name: str) -> Self:
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
        plan, way = self.plan, self.study.user_attrs.get("way")
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
            together=way and way["way"] == "stacked",
            why=way["reason"] if way else "",
        )

    def _chosen(self, params: Mapping[str, Any], level: Any) -> Assignment:
        """What Optuna calls a configuration, as values of the space."""

        def decide(parameter: Parameter) -> Any:
            return attempts.as_level(parameter, params.get(attempts.name(parameter, self.plan.balance, level)))

        return self.space.choose(decide)
