"""A sweep with everything around it: its workers, what it says in MLflow, its report. Without Prefect; the sweep flow wraps it in tasks.

with SweepSession(request, settings, watch=show) as session:
    session.accept()         the request is right and the sweep exists      (else RequestError, and nothing was made)
    session.prepare()        the data is there
    session.begin()          the workers work
    session.reach(20)        twenty trials have ended
    session.reach()          all have
    session.conclude()       the chosen configuration on the test split, the report, everything in MLflow

sweeps/NAME/journal.jsonl, delivery.json     the sweep's own run in MLflow, said and carried as a training's
       trials/RUN/…                          the run folders of its trials
       report/report.html, report.json, …
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.errors import Interrupted, RequestError, RunError
from flows.child import GRACE_SECONDS
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab import limits
from flows.lab.settings import Settings
from flows.lineage import ancestors
from flows.parts import prepare_data
from flows.pretraining import needed, train_first
from flows.records import journal
from flows.records.carrier import Carrier
from flows.records.courier import Courier, Receipt, words
from flows.records.journal import Journal
from flows.records.reproducible import environment
from flows.records.tracking import tracking_uri
from flows.search import request as requests
from flows.search.crew import Crew, Watch, room
from flows.search.study import Sweep

EXPERIMENT = "lecture-lab-sweeps"
"""Name of the MLflow experiment that sweeps go to, with their trials below them."""
SECONDS_BETWEEN_LOOKS = 1.0


class SweepSession:
    """One sweep being worked on by this process.

    Args:
        request: `{"overrides": [...], "name": …}` for a new sweep, `{"resume": NAME, "overrides": ["search.trials=60"]}` to go on with one,
            `{"join": NAME, "workers": 2}` to add workers to one that another process looks after.
        settings: the lab's settings.
        watch: called with every line that a worker says (flows/search/worker.py), and `{"kind": "counts", …}` when counts change.
        tags: for the sweep's run in MLflow.
    """

    def __init__(
        self, request: Mapping[str, Any], settings: Settings, *, watch: Watch = lambda _: None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.request, self.settings, self.watch, self.tags = request, settings, watch, dict(tags or {})
        self.sweep: Sweep | None = None
        self.crew: Crew | None = None
        self.journal: Journal | None = None
        self.courier: Courier | None = None
        self.carrier: Carrier | None = None
        self.receipt: Receipt | None = None
        self.linked: str | None = None
        """The MLflow page that somebody has linked to already."""
        self.mlflow_run_id: str | None = None
        self.counted = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0)
        self.stop_asked = False
        self.left = False

    # ------------------------------------------------------------------ beginning

    @property
    def name(self) -> str:
        """The sweep's name; only after `accept`."""
        assert self.sweep is not None
        return self.sweep.name

    @property
    def folder(self) -> Path:
        """The sweep's folder; only after `accept`."""
        return self.settings.sweeps / self.name

    @property
    def total(self) -> int:
        """How many trials it will have; only after `accept`."""
        assert self.sweep is not None
        return self.sweep.total()

    @property
    def open_ended(self) -> bool:
        """Whether hours or samples end it, and not a number of trials."""
        assert self.sweep is not None
        return self.sweep.order.open_ended

    @property
    def over(self) -> bool:
        """Whether everything that was asked for has ended."""
        assert self.sweep is not None
        return self.sweep.finished()

    def accept(self) -> str:
        """Judge the request and make or open the sweep; returns its name. RequestError: it was wrong, and nothing was made."""
        if self.sweep is not None:
            return self.name
        if "join" in self.request:
            self.sweep = Sweep.load(self.settings, self.request["join"])
            self._carry_trials(lambda: self._tags_of_trials(self._study_run_id()))
            return self.name
        if full := limits.warning(self.settings):
            self.watch({"kind": "warning", "message": full})
        if "resume" in self.request:
            changes = requests.changes(self.request.get("overrides", []))
            sweep = Sweep.load(self.settings, self.request["resume"])
            if journal.is_open(self.settings.sweeps / sweep.name):
                raise _busy(sweep.name)
            if changes:
                sweep.extend(changes)
            config: dict[str, Any] = validate(compose(list(sweep.overrides)))
        else:
            wanted = requests.read(self.request.get("overrides", []))
            config = wanted.config
            ancestors(config)  # a circle is refused before anything is made
            name = requests.checked_name(self.request.get("name") or "") or requests.new_name(config, wanted.plan)
            facts: dict[str, Any] = {
                "overrides": wanted.overrides,
                "plan": wanted.plan,
                "space": wanted.space,
                "objectives": wanted.objectives,
            }
            sweep = Sweep.create(self.settings, name, **facts, seed=config["seed"])
        try:
            self.journal = Journal(self.settings.sweeps / sweep.name)
        except RunError as error:  # another process was faster
            if journal.is_open(self.settings.sweeps / sweep.name):
                raise _busy(sweep.name) from error
            raise
        self.sweep, self.config = sweep, config
        sweep.settle()
        recorded = {**config, "name": sweep.name, "search": sweep.plan.as_said()}
        self.journal.event("started", run=sweep.name, config=recorded, **environment())
        self._carry()
        return sweep.name

    def _carry(self) -> None:
        """Start what brings the sweep and its trials to MLflow."""
        assert self.sweep is not None
        self.tags |= {"lab.sweep": self.name, "lab.search": self.sweep.plan.name}
        self.courier = Courier(
            self.folder,
            tracking_uri=lambda: tracking_uri(self.settings),
            experiment=EXPERIMENT,
            artifacts=self.settings.artifact_root,
            tags=self.tags,
            on_run=self._on_mlflow_run,
        )
        self.courier.start()
        self._carry_trials(lambda: self._tags_of_trials(self.mlflow_run_id))

    def _carry_trials(self, tags: Any) -> None:
        self.carrier = Carrier(
            self.folder / "trials",
            tracking_uri=lambda: tracking_uri(self.settings),
            experiment=EXPERIMENT,
            artifacts=self.settings.artifact_root,
            tags=tags,
        )
        self.carrier.start()

    def _on_mlflow_run(self, run_id: str) -> None:
        assert self.sweep is not None
        self.mlflow_run_id = run_id
        self.sweep.study.set_user_attr("mlflow_run_id", run_id)

    def _study_run_id(self) -> str | None:
        assert self.sweep is not None
        found: str | None = self.sweep.study.user_attrs.get("mlflow_run_id")
        return found

    def _tags_of_trials(self, run_id: str | None) -> dict[str, str] | None:
        return {"mlflow.parentRunId": run_id, "lab.sweep": self.name} if run_id else None

    # ------------------------------------------------------------------ working

    def prepare(self) -> None:
        """Prepare the experiment's data once, before the workers ask for it, and train what its trials begin with."""
        assert self.sweep is not None
        with self._stage("prepare"):
            for earlier in needed(self.sweep.overrides, self.settings):
                self.watch({"kind": "note", "text": f"training {earlier.experiment} first: its weights are what the trials begin with"})
                train_first(earlier, self.settings)
            prepared = prepare_data(self.config, self.settings, tell=self.watch)
            assert self.journal is not None
            self.journal.event("data", name=prepared.name, fingerprint=prepared.fingerprint, card=prepared.card)
            if "validation" not in prepared.splits:
                raise RunError(f"{prepared.name} has no validation split, and a sweep never selects by the test split")
            self.has_test = "test" in prepared.splits

    def begin(self, workers: int | None = None) -> None:
        """Start the workers: `workers`, or as many as the request or the plan says, or as the machine has room for."""
        assert self.sweep is not None
        plan = self.sweep.plan
        wanted = workers or self.request.get("workers") or plan.workers or (room() if plan.backend in ("vectorised", "auto") else 1)
        self.crew = Crew(self.name, wanted, self.settings, stacked=self.sweep.way() == "stacked", watch=self.watch_now)
        if self.stop_asked:
            self.crew.stop()

    def reach(self, wanted: int | None = None) -> dict[str, int]:
        """Wait until so many trials have ended, or all; returns the counts (`complete`, `pruned`, `failed`, `running`, `waiting`).

        Raises:
            RunError: the sweep cannot go on.
            Interrupted: it was asked to stop; every trial that ran is saved and waits.
        """
        assert self.crew is not None
        assert self.sweep is not None
        look_at = 0.0
        while True:
            if not self.crew.running:
                if self.stop_asked:
                    raise Interrupted(f"stopped after {ended(self._count())} of {self.sweep.total()} trials")
                counts = self._count()
                if self.sweep.finished():
                    return counts
                self.begin()  # another process's workers left something behind
            if (now := time.monotonic()) >= look_at:
                counts = self._count()
                look_at = time.monotonic() + max(SECONDS_BETWEEN_LOOKS, 10 * (time.monotonic() - now))  # a large study takes its time
                if wanted is not None and ended(counts) >= wanted:
                    return counts
            self.crew.listen(0.2)

    def stop(self) -> None:
        """Ask the workers to save their trials and end. Returns at once; `reach` learns of the end. The second time they are killed.

        When they are done already, what has not reached MLflow stays for later.
        """
        if self.crew is not None and self.crew.running:
            (self.crew.kill if self.stop_asked else self.crew.stop)()
        elif self.crew is not None:
            for each in (self.carrier, self.courier):
                if each is not None:
                    each.give_up()
        self.stop_asked = True

    def watch_now(self, line: dict[str, Any]) -> None:
        """Pass a worker's line on to whoever watches at the moment."""
        self.watch(line)

    def _count(self) -> dict[str, int]:
        """Look at the study, and say how it stands."""
        assert self.sweep is not None
        counts, best = self.sweep.standing()
        if counts != self.counted:
            self.counted = counts
            self.watch({"kind": "counts", **counts, "total": 0 if self.open_ended else self.sweep.total()})
            if self.journal is not None:
                points = {f"sweep/{name}": float(counts[name]) for name in ("complete", "pruned", "failed")}
                points |= {} if best is None else {f"sweep/best {self.sweep.objectives[0].metric.replace('/', ' ')}": best}
                self.journal.metrics(points, step=ended(counts), epoch=None)
        return counts

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        assert self.journal is not None
        began = time.perf_counter()
        yield
        facts = {"name": name, "state": "finished", "seconds": round(time.perf_counter() - began, 3)}
        self.journal.event("stage", **facts)
        self.watch({"kind": "stage", **facts})

    # ------------------------------------------------------------------ ending

    def conclude(self) -> dict[str, Any]:
        """Look at the test split for the chosen configuration, write the report, deliver everything; returns the summary."""
        from flows.search.reporting import conclude

        assert self.journal is not None
        assert self.sweep is not None
        with self._stage("report"):
            if self.carrier is not None:
                self.carrier.finish(timeout=300.0)  # evaluations go to the trials' runs, which have to be there
            written = conclude(self.sweep, self.settings, self.journal, tell=self.watch)
        self._finish("FINISHED", None, timeout=120.0)
        if written["best_run"]:
            self._register(written["best_run"])
        return {
            "sweep": self.name,
            **written,
            "trials": self.sweep.counts(),
            "mlflow_run_id": self.receipt.mlflow_run_id if self.receipt else None,
            "url": self.receipt.url if self.receipt else None,
            "trouble": (self.receipt.trouble if self.receipt else None) or (self.carrier.trouble if self.carrier else None),
        }

    def _register(self, run: str) -> None:
        """The best run's model competes for champion; what goes wrong there is no reason to fail a sweep that is done."""
        from flows.search.reporting import register_best

        assert self.sweep is not None
        try:
            register_best(self.sweep, self.settings, run)
        except Exception as error:  # whatever MLflow, a database or a network raises
            self.watch({"kind": "warning", "message": f"the model of {run} could not be registered: {words(error)}"})

    def leave(self) -> dict[str, Any]:
        """The end of a process that only joined: its trials delivered; returns the summary."""
        assert self.sweep is not None
        assert self.carrier is not None
        self.carrier.finish(timeout=60)
        return {"sweep": self.name, "trials": self.sweep.counts(), "trouble": self.carrier.trouble}

    def _finish(self, status: Any, reason: str | None, *, timeout: float) -> None:
        """Bring the rest to MLflow; what does not arrive in time stays in its folder for the next `lab up` or `lab repair`."""
        if self.carrier is not None:
            self.carrier.finish(timeout=timeout)
        if self.courier is not None and self.receipt is None:
            self.receipt = self.courier.finish(status, reason=reason, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.left:
            return  # the sweep flow has the session, too, and leaves it first
        self.left = True
        if self.crew is not None:
            self.crew.end(grace=GRACE_SECONDS)
        if self.sweep is not None and self.sweep.study is not None:
            with contextlib.suppress(Exception):  # a full disk, a database that is away: what went wrong first is what counts
                self.sweep.settle()  # of workers that had to be killed; the next start does it, too
        if self.journal is not None and error is not None:
            event = "failed" if isinstance(error, Exception) and not isinstance(error, Interrupted) else "interrupted"
            with contextlib.suppress(RunError):
                self.journal.event(event, reason=str(error) or "stopped on request")
        if self.receipt is None:
            failed = isinstance(error, Exception) and not isinstance(error, Interrupted)
            self._finish("FAILED" if failed else "KILLED", str(error) if failed else "stopped on request", timeout=20)
        if self.journal is not None:
            self.journal.close()

    def mlflow_url(self) -> str | None:
        """The sweep's page in the MLflow UI, once it has one."""
        receipt = self.receipt or (self.courier.receipt() if self.courier else None)
        return receipt.url if receipt else None


def sweep_here(session: SweepSession) -> dict[str, Any]:
    """All steps one after the other, without Prefect; returns the summary that people and `--json` see."""
    session.accept()
    if "join" in session.request:
        session.begin()
        session.reach()
        return session.leave()
    session.prepare()
    session.begin()
    session.reach()
    return session.conclude()


def _busy(name: str) -> RequestError:
    return RequestError(f"{name} is being worked on already; more workers for it: lab sweep --join {name}")


def ended(counts: Mapping[str, int]) -> int:
    """How many trials have ended."""
    return counts["complete"] + counts["pruned"] + counts["failed"]
