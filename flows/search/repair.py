"""After a crash of everything: make the three stores agree again. What is alive is never touched, and what is alive is known, not guessed.

Optuna     a trial that runs without a worker waits again       (the worker's process, or its signs of life: presence.py)
MLflow     a run whose process is gone gets the end that its journal tells of, and everything that has not arrived (the journal's lock)
Prefect    a flow run that claims to run without a process is marked as crashed     (the process, or the lock of its run's journal)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.lab import health, processes
from flows.lab.settings import Settings
from flows.records import journal
from flows.records.carrier import Carrier
from flows.records.courier import deliver_pending
from flows.records.tracking import tracking_uri
from flows.search import session as sweeps
from flows.search import storage
from flows.search.study import Sweep
from flows.session import EXPERIMENT

SECONDS_OF_GRACE = 15.0
"""A flow run may have claimed to run for so long before its process can be seen."""


@dataclass
class Repaired:
    """What was changed.

    Attributes:
        trials: runs of trials that wait again, by sweep.
        delivered: runs that MLflow now has whole.
        undelivered: run → why MLflow does not have it yet.
        flow_runs: names of flow runs that were marked as crashed or queued again.
        task_runs: names of task runs that had outlived their flow run.
        notes: what could not be looked at.
    """

    trials: dict[str, list[str]] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)
    undelivered: dict[str, str] = field(default_factory=dict)
    flow_runs: list[str] = field(default_factory=list)
    task_runs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The same in words."""
        for sweep, runs in self.trials.items():
            lost = f"{len(runs)} trials of {sweep} had lost their worker and wait again ({', '.join(runs)})"
            yield f"{lost}; go on with: lab sweep --resume {sweep}"
        for run in self.delivered:
            yield f"delivered {run} to MLflow"
        for run, why in self.undelivered.items():
            yield f"{run} is not delivered yet: {why}"
        for name in self.flow_runs:
            yield f"the flow run {name} had lost its process and is marked as crashed"
        if self.task_runs:
            yield f"{len(self.task_runs)} task runs had outlived their flow run and are marked as crashed: {', '.join(self.task_runs)}"
        yield from self.notes


def repair(settings: Settings, *, say: Callable[[str], None] = lambda _: None) -> Repaired:
    """Reconcile the stores; says each change as it is made."""
    found = Repaired()
    said: set[str] = set()

    def tell() -> None:
        for line in found.lines():
            if line not in said:
                said.add(line)
                say(line)

    for step in (_trials, _runs, _flow_runs):
        step(settings, found)
        tell()
    return found


def _trials(settings: Settings, found: Repaired) -> None:
    for name in storage.names(settings):
        if lost := Sweep.load(settings, name).settle():
            found.trials[name] = lost


def _runs(settings: Settings, found: Repaired) -> None:
    artifacts = settings.artifact_root
    known = sorted(path.parent for path in settings.sweeps.glob(f"*/{journal.FILE}"))
    if not known and not any(settings.runs.glob(f"*/{journal.FILE}")):
        return
    uri = tracking_uri(settings)
    receipts = deliver_pending(settings.runs, uri, experiment=EXPERIMENT, artifacts=artifacts)
    receipts |= deliver_pending(known, uri, experiment=sweeps.EXPERIMENT, artifacts=artifacts)
    for run, receipt in receipts.items():
        if receipt.complete:
            found.delivered.append(run)
        else:
            found.undelivered[run] = receipt.trouble or "unknown"
    for sweep in known:
        if (sweep / "trials").exists() and not journal.is_open(sweep):
            _trials_of(sweep, uri, artifacts, found)


def _trials_of(sweep: Path, uri: str, artifacts: str | None, found: Repaired) -> None:
    parent = _delivery(sweep).get("mlflow_run_id")
    tags = {"mlflow.parentRunId": parent, "lab.sweep": sweep.name} if parent else None
    carrier = Carrier(sweep / "trials", tracking_uri=lambda: uri, experiment=sweeps.EXPERIMENT, artifacts=artifacts, tags=lambda: tags)
    found.delivered += carrier.deliver()
    if carrier.trouble:
        found.undelivered[f"trials of {sweep.name}"] = carrier.trouble


def _flow_runs(settings: Settings, found: Repaired) -> None:
    """Flow runs of the pool by their processes, those of a terminal by their run's journal. Runs that are neither are not ours to judge."""
    if not health.answers(settings, "prefect"):
        found.notes.append("no Prefect server answers: its flow runs are put right by the next lab up")
        return
    before = datetime.now(UTC) - timedelta(seconds=SECONDS_OF_GRACE)
    alive = processes.flow_run_ids(settings.home)
    if settings.remote_prefect is None:
        found.flow_runs += health.settle_lost_flow_runs(settings, alive, before)
    ours = {_delivery(folder).get("tags", {}).get("prefect.flow_run_id"): folder for folder in _folders(settings)}
    gone = [identity for identity, folder in ours.items() if identity and identity not in alive and not journal.is_open(folder)]
    found.flow_runs += health.crash_flow_runs(settings, gone, before)
    found.task_runs += health.crash_orphaned_task_runs(settings)


def _folders(settings: Settings) -> list[Path]:
    return [path.parent for home in (settings.runs, settings.sweeps) for path in home.glob(f"*/{journal.FILE}")]


def _delivery(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "delivery.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
