"""One run with everything around it: the trainer process, the courier to MLflow, the lab's own records.

The train flow wraps these steps in Prefect tasks; without a running lab `lab train` calls them one after the other. Same functions,
same results, same records.

    with Session(request, settings, watch=show) as session:
        session.accept()                  the request is right and the run exists      (else RequestError, and nothing was made)
        for stage in STAGES:
            session.reach(stage)          prepare, fit, evaluate, draw
        session.record()                  everything has arrived in MLflow, the model is logged and registered
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from components.errors import Interrupted, RunError
from flows.child import GRACE_SECONDS
from flows.lab.settings import Settings
from flows.records.courier import Courier, Receipt
from flows.records.tracking import tracking_uri
from flows.supervise import Training, Watch

STAGES = ("prepare", "fit", "evaluate", "draw")
EXPERIMENT = "lecture-lab"
"""Name of the MLflow experiment that single runs go to."""


class Session:
    """Starts the trainer at once; `accept`, `reach` and `record` follow it.

    Args:
        request: `{"overrides": [...]}` or `{"resume": RUN}`.
        settings: the lab's settings.
        watch: called with every line the trainer says (flows/trainer.py).
        tags: for the MLflow run; what is added to `tags` later arrives, too.
    """

    def __init__(
        self, request: dict[str, Any], settings: Settings, *, watch: Watch = lambda _: None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.settings, self.tags = settings, dict(tags or {})
        self.courier: Courier | None = None
        self.mlflow_run_id: str | None = None
        self.recording = False
        self.receipt: Receipt | None = None
        self.linked: str | None = None
        """The MLflow page that somebody has linked to already."""
        self.training = Training(request, settings, watch=watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.training.close(grace=GRACE_SECONDS)
        if self.courier is not None and self.receipt is None:
            if isinstance(error, Exception) and not isinstance(error, Interrupted):
                self.receipt = self.courier.finish("FAILED", reason=str(error), timeout=20)
            else:
                self.receipt = self.courier.finish("KILLED", reason="stopped on request", timeout=20)
            self.catalogue()

    @property
    def run(self) -> str:
        """The run's name; only after `accept`."""
        assert self.training.run is not None
        return self.training.run

    def accept(self) -> str:
        """Wait until the request is judged; returns the run's name. RequestError: it was wrong, and nothing was made."""
        if self.courier is not None:
            return self.run
        self.training.wait(lambda training: bool(training.config))
        self.courier = Courier(
            self.training.folder,
            tracking_uri=lambda: tracking_uri(self.settings),
            experiment=EXPERIMENT,
            artifacts=self.settings.artifact_root,
            tags=self.tags,
            pid=self.training.pid,
            on_run=self._on_mlflow_run,
        )
        self.courier.start()
        return self.run

    def reach(self, stage: str) -> None:
        """Wait until `stage` is done. A trainer that has died since is started again and goes on from its last checkpoint.

        Raises:
            TrainerDied: the trainer's process was killed; calling again goes on.
            RunError: the run failed.
            Interrupted: it was asked to stop, and has saved a checkpoint.
        """
        if self.training.done:
            return
        later = set(STAGES[STAGES.index(stage) :])
        if self.training.ended and not later & self.training.finished:
            self.training.restart()
            assert self.courier is not None
            self.courier.pid = self.training.pid
        self.training.wait(lambda training: stage in training.finished or bool((later - {stage}) & (training.started | training.finished)))

    def record(self) -> Receipt:
        """Deliver the rest, log and register the model; returns what the courier can say. A server that is away is no error."""
        assert self.courier is not None
        self.recording = True
        self.receipt = self.courier.finish("FINISHED", timeout=120)
        try:
            self.catalogue()
        except RunError as error:
            raise RunError(f"{error}; then finish by lab train --resume {self.run}") from None
        return self.receipt

    def stop(self) -> None:
        """Ask the trainer to save and end; the second time it is killed. Returns at once; `reach` learns of the end.

        When the trainer is done already, what has not reached MLflow stays for later.
        """
        if (self.recording or self.training.done) and self.courier is not None:
            self.courier.give_up()
        elif self.training.stop_asked:
            self.training.process.kill()
        self.training.stop()

    def catalogue(self) -> None:
        """Write the run into the lab's own tables: its data, its evaluations with every example's outcome, its links."""
        from flows.records.catalogue import enter

        enter(self.training.folder, self.settings, mlflow_run_id=self.mlflow_run_id, prefect_run_id=self.tags.get("prefect.flow_run_id"))

    def _on_mlflow_run(self, run_id: str) -> None:
        self.mlflow_run_id = run_id

    def mlflow_url(self) -> str | None:
        """The run's page in the MLflow UI, once it has one."""
        receipt = self.receipt or (self.courier.receipt() if self.courier else None)
        return receipt.url if receipt else None


def train_here(session: Session) -> dict[str, Any]:
    """All steps one after the other, without Prefect; returns the summary that people and `--json` see."""
    session.accept()
    for stage in STAGES:
        session.reach(stage)
    session.record()
    return summary(session)


def summary(session: Session) -> dict[str, Any]:
    """What a finished run has to say, as JSON values."""
    result, receipt = session.training.result, session.receipt
    if result is None:
        raise RunError(f"{session.run} ended without a result")
    return {
        "run": session.run,
        "metrics": result["metrics"],
        "seconds": result["seconds"],
        "weights_sha256": result["weights_sha256"],
        "monitor": result["monitor"],
        "mlflow_run_id": receipt.mlflow_run_id if receipt else None,
        "url": receipt.url if receipt else None,
        "model_id": receipt.model_id if receipt else None,
        "registered": receipt.version if receipt else None,
        "trouble": receipt.trouble if receipt else None,
    }
