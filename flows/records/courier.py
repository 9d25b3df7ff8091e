"""The courier: a thread beside a training that carries its run folder to MLflow while the training goes on.

It runs in the process that supervises the training, never in the training itself, so the training waits for nobody. MLflow is imported
in the thread. A server that is away is tried again, ever more patiently; what has not arrived when the supervisor ends stays in
the run folder, and `deliver_pending` brings it later.

    courier = Courier(folder, tracking_uri=uri, experiment="lecture-lab")
    courier.start()
    …
    receipt = courier.finish("FINISHED", timeout=60)
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.durable import is_full
from flows.records import journal, translate
from flows.records.conclusion import conclude
from flows.records.delivery import Delivery, Progress, Status, exclusive
from flows.records.system import Sampler
from flows.records.tracking import run_page

SECONDS_BETWEEN = 1.0
SECONDS_TO_RETRY = (0.5, 15.0)  # doubling from the first to the second
NICENESS = 10  # the training has the processor first; matters only where there are no more cores than it uses


@dataclass(frozen=True)
class Receipt:
    """What a courier can say about its run.

    Attributes:
        complete: everything has arrived and the MLflow run is ended.
        mlflow_run_id, experiment_id: None while no server was ever reached.
        url: the run's page, where the tracking store is a server.
        model_id: the logged model; None without one.
        version: `{"name", "version", "aliases"}` in the registry; None where the run was not the best of anything.
        trouble: why it is not complete, in words.
    """

    complete: bool
    mlflow_run_id: str | None
    experiment_id: str | None
    url: str | None
    model_id: str | None
    version: dict[str, Any] | None
    trouble: str | None


class Courier:
    """Carries one run folder to MLflow in the background; no method raises what a server did.

    Args:
        folder: the run folder; need not hold a journal yet.
        tracking_uri: where to (`http://…`, `sqlite:///…`), or who knows: asked again after every failure.
        experiment: name of the MLflow experiment.
        artifacts: where a new experiment keeps its files (a `file://` address for a lab on this machine); None leaves it to the server.
        tags: more tags for the MLflow run (who started it, in which flow run); what is added to them later arrives, too.
        pid: the training process, for its processor time and memory; may be set later (`courier.pid = …`).
        on_run: called once with the MLflow run's id, from the courier's thread.
        on_trouble: called with one line when delivery stops working and with None when it works again, from the courier's thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tracking_uri: str | Callable[[], str],
        experiment: str,
        artifacts: str | None = None,
        tags: dict[str, str] | None = None,
        pid: int | None = None,
        on_run: Callable[[str], None] | None = None,
        on_trouble: Callable[[str | None], None] | None = None,
    ) -> None:
        self.folder = folder
        self._uri: Callable[[], str] = tracking_uri if callable(tracking_uri) else lambda: tracking_uri
        self._experiment, self._artifacts, self._tags = experiment, artifacts, {} if tags is None else tags
        self.pid, self._on_run, self._on_trouble = pid, on_run, on_trouble
        self._ending: tuple[Status, str | None] | None = None
        self._wake, self._given_up = threading.Event(), threading.Event()
        self._delivery: Delivery | None = None
        self._progress: Progress | None = None
        self._address: str | None = None
        self._trouble: str | None = "the courier has not started"
        self._thread = threading.Thread(target=self._work, name=f"courier {folder.name}", daemon=True)

    def start(self) -> None:
        """Begin carrying, in the background."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trouble = None
        self._thread.start()

    def finish(self, status: Status, *, reason: str | None = None, timeout: float = 60.0) -> Receipt:
        """Deliver the rest, log and register the model of a finished run, end the MLflow run.

        Args:
            status: how the training ended (KILLED: somebody stopped it).
            reason: why it did not finish, for the run's tags.
            timeout: seconds after which the rest is left in the run folder for `deliver_pending`.
        """
        self._ending = (status, reason)
        self._wake.set()
        wait_for(self._thread, timeout, self._given_up)
        self.give_up()
        return self.receipt()

    def give_up(self) -> None:
        """Leave what has not arrived in the run folder; a `finish` that waits returns."""
        self._given_up.set()
        self._wake.set()

    def receipt(self) -> Receipt:
        """How far things are now."""
        return _receipt(self._progress, self._address, self._trouble)

    def _work(self) -> None:
        give_way()
        with exclusive(self.folder) as alone:
            if not alone:
                self._say("another process is delivering this run already")
                return
            progress = Progress.load(self.folder, experiment=self._experiment, artifacts=self._artifacts)
            progress.status, progress.reason, progress.settled = None, None, False
            progress.tags |= self._tags
            progress.save(self.folder)
            self._progress = progress
            sampler = Sampler(self.folder, lambda: self.pid)
            sampler.start()
            try:
                self._until_done(sampler)
            finally:
                sampler.stop()

    def _until_done(self, sampler: Sampler) -> None:
        patience = SECONDS_TO_RETRY[0]
        while not self._given_up.is_set():
            ending = self._ending
            try:
                if ending is not None:
                    sampler.stop()
                if self._pass(ending):
                    return
                pause, patience = SECONDS_BETWEEN, SECONDS_TO_RETRY[0]
                self._say(None)
            except Exception as error:  # whatever MLflow, a database or a network raises is a reason to try again, never to stop the run
                self._delivery = None
                self._say(words(error))
                if ending is not None and is_full(error):
                    return  # nobody will make room while the end is waited for
                pause, patience = patience, min(patience * 2, SECONDS_TO_RETRY[1])
            self._wake.wait(pause)
            self._wake.clear()

    def _pass(self, ending: tuple[Status, str | None] | None) -> bool:
        """Carry what is there; True when the run is ended and everything has arrived."""
        assert self._progress is not None
        if ending is not None:
            self._progress.status, self._progress.reason = ending
            self._progress.save(self.folder)
        if self._delivery is None:
            self._address = self._uri()
            fresh = Delivery(self.folder, self._progress, self._address)
            fresh.open()
            self._delivery, self._progress = fresh, fresh.progress
            if self._on_run is not None:
                with suppress(Exception):
                    self._on_run(str(fresh.progress.mlflow_run_id))
                self._on_run = None
        self._delivery.tag(dict(self._tags))
        self._delivery.carry()
        if ending is None:
            return False
        conclude(self._delivery)
        self._say(None)
        return True

    def _say(self, trouble: str | None) -> None:
        changed = (self._trouble is None) != (trouble is None)
        self._trouble = trouble
        if changed and self._on_trouble is not None:
            with suppress(Exception):
                self._on_trouble(trouble)


def deliver_pending(runs: Path | Iterable[Path], tracking_uri: str, *, experiment: str, artifacts: str | None = None) -> dict[str, Receipt]:
    """Deliver what earlier couriers left in run folders; MLflow is imported only when there is something.

    Runs that are being trained or delivered right now are passed by, and so are runs that an unreachable server keeps waiting.

    Args:
        runs: LAB_HOME/runs, or the run folders themselves.
        tracking_uri: where to.
        experiment, artifacts: as for `Courier`; for runs that never had one.

    Returns:
        A receipt for each run that had something left, by its name.
    """
    receipts: dict[str, Receipt] = {}
    folders = sorted(path.parent for path in runs.glob(f"*/{journal.FILE}")) if isinstance(runs, Path) else runs
    for folder in folders:
        with exclusive(folder) as alone:
            progress = Progress.load(folder, experiment=experiment, artifacts=artifacts)
            if not alone or journal.is_open(folder) or (progress.settled and not progress.behind(folder)):
                continue
            if progress.status is None:
                progress.status, progress.reason = translate.ending(journal.read(folder))
            receipts[folder.name] = _deliver(folder, progress, tracking_uri)
    return receipts


def _deliver(folder: Path, progress: Progress, uri: str) -> Receipt:
    try:
        there = Delivery(folder, progress, uri)
        if not there.open():
            progress.settled = True
            progress.save(folder)
            return _receipt(progress, uri, "its MLflow run was deleted")
        progress = there.progress
        there.carry()
        conclude(there)
    except Exception as error:  # as in the courier: the folder keeps what did not arrive
        return _receipt(progress, uri, words(error))
    return _receipt(there.progress, uri, None)


def _receipt(progress: Progress | None, uri: str | None, trouble: str | None) -> Receipt:
    if progress is None:
        return Receipt(False, None, None, None, None, None, trouble)
    url = None
    if progress.mlflow_run_id is not None and uri is not None and uri.startswith("http"):
        url = run_page(uri, progress.experiment_id, progress.mlflow_run_id)
    return Receipt(
        complete=progress.settled,
        mlflow_run_id=progress.mlflow_run_id,
        experiment_id=progress.experiment_id,
        url=url,
        model_id=progress.model_id,
        version=progress.version,
        trouble=trouble,
    )


def wait_for(thread: threading.Thread, timeout: float, given_up: threading.Event) -> None:
    """Wait until `thread` has ended, but no longer than `timeout` seconds nor than somebody gives up."""
    deadline = time.monotonic() + timeout
    while thread.is_alive() and not given_up.is_set() and time.monotonic() < deadline:
        thread.join(0.1)


def words(error: Exception) -> str:
    """An exception as one line of at most 200 characters."""
    if is_full(error):
        return "the disk is full; free some space"
    text = " ".join(str(error).split()) or type(error).__name__
    return translate.clip(text, 200)


def give_way() -> None:
    """Let the training have the processor first: on Linux a thread has a niceness of its own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
