"""The carrier: one thread that brings all trials of a sweep to MLflow, as child runs of the sweep's own run.

A courier a trial (flows/records/courier.py) would be a thread, a client and a dozen questions each; here one client writes what a trial
has to say in three calls: the run with its tags, one batch of parameters, tags and points, and its end. Trials that take longer than
`SECONDS_SHORT` are carried while they run, so that their curves can be watched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.records import journal, translate
from flows.records.conclusion import conclude
from flows.records.courier import give_way, wait_for, words
from flows.records.delivery import Delivery, Progress, exclusive

SECONDS_BETWEEN = 1.0
SECONDS_SHORT = 10.0
LONGEST_PAUSE = 15.0
REST = 5.0
"""After a round the carrier rests so many times as long, so that hundreds of trials that run together are not slowed down by it."""
SILENT: translate.Ending = ("KILLED", "interrupted; it goes on with its sweep")
"""How a trial stands whose worker is gone, whether the worker could still say so or not: it has not failed, it waits."""
ENDED = ("result", "failed", "pruned", "interrupted")


class Carrier:
    """Carries the trials below one folder in the background; no method raises what a server did.

    Args:
        trials: the folder with a run folder for each trial.
        tracking_uri: asked for the address of the tracking store, again after every failure.
        experiment: name of the MLflow experiment.
        artifacts: where a new experiment keeps its files; None leaves it to the server.
        tags: for every trial's run; asked when the first is made; None while the sweep's own run is not there yet.
    """

    def __init__(
        self,
        trials: Path,
        *,
        tracking_uri: Callable[[], str],
        experiment: str,
        artifacts: str | None,
        tags: Callable[[], Mapping[str, str] | None],
    ) -> None:
        self._trials, self._uri, self._tags = trials, tracking_uri, tags
        self._experiment, self._artifacts = experiment, artifacts
        self._ending, self._wake, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._deliveries: dict[Path, Delivery] = {}
        self._settled: dict[str, int] = {}  # name → bytes of its journal; one that is taken up again grows
        self._moved: set[str] = set()
        self._address: str | None = None
        self.trouble: str | None = None
        """Why the last round did not succeed, in words."""
        self._thread = threading.Thread(target=self._work, name=f"carrier {trials.parent.name}", daemon=True)

    def start(self) -> None:
        """Begin carrying."""
        self._thread.start()

    def finish(self, *, timeout: float) -> bool:
        """Bring the rest, for at most `timeout` seconds; returns whether everything has arrived. What has not stays in its folder."""
        self._ending.set()
        self._wake.set()
        wait_for(self._thread, timeout, self._given_up)
        self.give_up()
        return not self._thread.is_alive() and self.trouble is None

    def give_up(self) -> None:
        """Leave what has not arrived in the folders; a `finish` that waits returns."""
        self._given_up.set()
        self._wake.set()

    def deliver(self) -> list[str]:
        """Bring everything now, in this thread, once; returns the names of the trials that were not settled before. See `trouble`."""
        try:
            self._round(last=True)
        except Exception as error:  # as below
            self.trouble = words(error)
        return [name for name in self._settled if name in self._moved]

    def _work(self) -> None:
        give_way()
        pause = SECONDS_BETWEEN
        while not self._given_up.is_set():
            last, began = self._ending.is_set(), time.monotonic()
            try:
                complete = self._round(last)
                self.trouble, pause = None, max(SECONDS_BETWEEN, REST * (time.monotonic() - began))
                if last and complete:
                    return
            except Exception as error:  # whatever MLflow, a database or a network raises is a reason to try again
                self._deliveries.clear()
                self._address, self.trouble, pause = None, words(error), min(pause * 2, LONGEST_PAUSE)
            self._wake.wait(pause)
            self._wake.clear()

    def _round(self, last: bool) -> bool:
        """Carry what is there of every trial that is not settled; True when all are."""
        tags = self._tags()
        if tags is None:
            return not self._trials.exists()
        complete = True
        for folder in sorted(self._trials.iterdir()) if self._trials.exists() else ():
            size = (folder / journal.FILE).stat().st_size if (folder / journal.FILE).exists() else 0
            if self._settled.get(folder.name, 0) == size:
                continue
            if self._given_up.is_set():
                return False
            with exclusive(folder) as alone:
                if alone and self._carry(folder, tags, last=last):
                    self._settled[folder.name] = size
                    self._deliveries.pop(folder, None)
                else:
                    complete = complete and not last
        return complete

    def _carry(self, folder: Path, tags: Mapping[str, str], *, last: bool) -> bool:
        """Whether the trial is settled now."""
        running = journal.is_open(folder)
        lines = journal.read(folder)
        over = not running and (last or any(line.get("event") in ENDED for line in lines[-3:]))
        if not over and (not running or not lines or time.time() * 1000 - lines[0]["t"] < SECONDS_SHORT * 1000):
            return False
        delivery = self._deliveries.get(folder)
        if delivery is None:
            progress = Progress.load(folder, experiment=self._experiment, artifacts=self._artifacts)
            if progress.settled and not progress.behind(folder):
                return True
            progress.tags |= tags
            progress.model, progress.brief, progress.settled = False, True, False
            progress.status, progress.reason = translate.ending(lines, silent=SILENT) if over else (None, None)
            self._address = self._address or self._uri()
            delivery = Delivery(folder, progress, self._address)
            if not delivery.open():
                return True
            self._deliveries[folder] = delivery
        self._moved.add(folder.name)
        if over:
            delivery.progress.status, delivery.progress.reason = translate.ending(lines, silent=SILENT)
        delivery.carry()
        if over:
            conclude(delivery)
        return over
