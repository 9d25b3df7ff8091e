"""A trial of a sweep while it is in a stack: opened, kept and told of as `flows.experiment.run` would, had it the trial to itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data.prepared import Prepared
from components.errors import RunError
from components.training.evaluation import evaluate
from components.training.stacked import StackedFit, StackedTrial
from components.training.state import Fitted
from flows import experiment
from flows.lab.settings import Settings
from flows.parts import save_model
from flows.records.journal import Journal
from flows.records.reproducible import environment
from flows.search.study import Taken
from flows.search.trials import Ended

if TYPE_CHECKING:
    import optuna


@dataclass
class Entry:
    """One trial.

    Attributes:
        taken: None: it has ended, and is in the stack only because the checkpoint has it.
        handle: Optuna's, where its pruner is to be asked.
        seconds: its share of the stack's time.
    """

    taken: Taken | None
    folder: Path
    config: dict[str, Any]
    prepared: Prepared
    parts: experiment.Parts
    journal: Journal
    handle: optuna.Trial | None
    seconds: float = 0.0

    @classmethod
    def open(
        cls,
        taken: Taken | None,
        folder: Path,
        config: dict[str, Any],
        prepared: Prepared,
        *,
        handle: optuna.Trial | None,
        settings: Settings,
    ) -> Entry:
        """Open its journal and build its parts."""
        journal = Journal(folder)
        journal.event("started", run=folder.name, config=config, **_environment())
        journal.event("data", name=prepared.name, fingerprint=prepared.fingerprint, card=prepared.card)
        return cls(taken, folder, config, prepared, experiment.assemble(config, prepared, settings, journal), journal, handle)

    @property
    def trial(self) -> StackedTrial:
        """What the stack trains."""
        parts = self.parts
        return StackedTrial(
            name=self.folder.name,
            model=parts.model,
            objective=parts.objective,
            optimizer=parts.optimizer,
            schedule=parts.schedule,
            batches=parts.batches,
            settings=parts.trainer,
            recorder=self.journal,
            seed=self.config["seed"],
        )

    def keep(self, fitted: StackedFit) -> dict[str, float] | RunError:
        """Write its model and outcomes; returns its metrics, or why there are none."""
        if fitted.error is not None or fitted.pruned:
            return fitted.error or {}
        parts, outcomes = self.parts, fitted.outcomes
        try:
            if outcomes is None and parts.validation is not None:
                parts.model.load_state_dict(fitted.weights)
                outcomes = evaluate(parts.model, parts.objective, parts.validation, device=parts.device, precision=parts.trainer.precision)
            save_model(self.folder / "model", fitted.weights, self.config, self.prepared)
            return experiment.keep_outcomes(parts.objective, {} if outcomes is None else {"validation": outcomes}, self.folder)
        except RunError as error:
            return error

    def say(self, fitted: StackedFit, metrics: Mapping[str, float] | RunError) -> Ended:
        """Say in its journal how it ended, with what `keep` returned."""
        self.journal.event("together")
        epochs = fitted.state.step / max(1, self.parts.batches.steps_per_epoch)
        numbers: dict[str, Any] = {"seconds": self.seconds, "samples": round(epochs * len(self.prepared.splits["train"]))}
        if isinstance(metrics, RunError):
            self.journal.event("failed", reason=str(metrics))
            return Ended("failed", str(metrics), **numbers)
        if fitted.pruned:
            reason = f"hopeless beside the other trials after {fitted.state.epoch} epochs"
            self.journal.event("pruned", reason=reason)
            return Ended("pruned", reason, **numbers)
        done = Fitted(fitted.weights, fitted.state, fitted.stopped_early)
        result = experiment.say_result(self.parts, done, self.prepared, self.journal, metrics, seconds=self.seconds)
        return Ended("complete", "", result, **numbers)


@cache
def _environment() -> dict[str, Any]:
    """What a run is reproduced with; the same for all of this process."""
    return environment()
