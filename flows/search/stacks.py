"""Trials trained together as one program (components/training/stacked), as ordinary trials of a sweep: asked in batches, told in batches.

Each trial has its run folder and its journal as if it were alone, and its curves agree with those that it would have alone. The
checkpoint is the stack's, in `sweeps/NAME/stacks/N`: whoever takes up the trials of a worker that died finds it there and goes on exactly.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch

from components.data.prepared import Prepared
from components.errors import CheckpointError, Interrupted, RequestError
from components.training.checkpoint import Checkpoints
from components.training.stacked import StackedFit, StackedTrial, fastest, fit_stacked, group, largest_stack
from components.training.state import Fitted, Progress, State
from flows import experiment
from flows.parts import Tell, prepare_data, save_model
from flows.records import journal as journals
from flows.records.journal import Journal
from flows.records.reproducible import environment
from flows.search.study import Sweep, Taken
from flows.search.trials import Ended, conclude, folder_of, judge, judged, open_run, run_trial

if TYPE_CHECKING:
    import optuna

MOST = 1000
"""Trials in one stack, where nothing is learned from one about the next."""
MOST_ADAPTIVE = 16
"""The same where the sampler learns from trials that have ended."""
SHARE_OF_MEMORY = 0.5
PROCESSES = "processes"
STACKED = "stacked"


@dataclass
class _Entry:
    """A trial in a stack."""

    taken: Taken | None
    """None: it has ended, and is in the stack only because the checkpoint has it."""
    folder: Path
    config: dict[str, Any]
    prepared: Prepared
    parts: experiment.Parts
    journal: Journal
    handle: optuna.Trial | None
    seconds: float = 0.0
    """Its share of the stack's time."""


class Stack:
    """What one worker trains together.

    Args:
        sweep: whose trials.
        worker: this worker's name.
        cores: how many cores it has.
        tell: hears of every trial's beginning, progress and end (flows/search/worker.py).
        stopping: whether it is time to stop.
    """

    def __init__(self, sweep: Sweep, worker: str, *, cores: int, tell: Tell, stopping: Callable[[], bool]) -> None:
        self.sweep, self.worker, self.cores, self.tell, self.stopping = sweep, worker, cores, tell, stopping
        self.entries: dict[str, _Entry] = {}
        self.data: dict[str, Prepared] = {}
        self.environment = environment()
        self.most = MOST if sweep.plan.sampler in ("grid", "random", "qmc") and sweep.plan.pruner == "none" else MOST_ADAPTIVE
        self.counted_at = time.perf_counter()
        self.exhausted = False
        """There was nothing left to begin: asking again would read every running trial for nothing."""
        self.objections: dict[str, str] = {}
        """Trial → why it cannot be stacked."""

    # ------------------------------------------------------------------ from beginning to end

    def run(self, way: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Train trials until there is nothing to begin; returns the way they were trained (`way`, `width`, `lanes`, `reason`).

        Args:
            way: what was chosen earlier; None to choose now. Where single processes are quicker, nothing is trained.

        Raises:
            RequestError: stacking was asked for, and a trial cannot be stacked.
            Interrupted: it is time to stop; every trial waits and the checkpoint is written.
        """
        with self._place() as place:
            checkpoints = Checkpoints(place)
            trials = [*self._take(self.most), *self._ghosts(checkpoints)]
            try:
                way = way or self._choose(trials)
                if way["way"] == PROCESSES:
                    return way
                self._train(trials, checkpoints, way)
            finally:
                self._put_back()
            checkpoints.clear()
        return way

    def _train(self, trials: Sequence[StackedTrial], checkpoints: Checkpoints, way: Mapping[str, Any]) -> None:
        if not trials:
            return
        validation = self.entries[trials[0].name].parts.validation
        device = self.entries[trials[0].name].parts.device
        self.counted_at = time.perf_counter()

        def train(whole: Checkpoints) -> list[StackedFit]:
            return fit_stacked(
                trials,
                validation,
                device=device,
                width=way["width"],
                lanes=way["lanes"],
                checkpoints=whole,
                on_validation=self._on_validation,
                on_end=self._on_end,
                joining=lambda: self._take(self.most - len(self.entries)),
                progress=self._on_progress,
                stopping=self.stopping,
            )

        try:
            ended = train(checkpoints)
        except CheckpointError:  # of trials that others have taken up: these begin anew, and their points are there already
            checkpoints.clear()
            ended = train(checkpoints)
        for fitted in ended:
            if fitted.name in self.entries:
                self._on_end(fitted)

    def _choose(self, trials: Sequence[StackedTrial]) -> dict[str, Any]:
        """The quickest way for the largest group of these trials, by timing a few steps of each."""
        sorted_out = group(trials)
        if not sorted_out.together:
            reason = sorted_out.alone[0][1] if sorted_out.alone else next(iter(self.objections.values()), "there is nothing to stack")
            return {"way": PROCESSES, "width": 0, "lanes": 0, "reason": f"{reason}; one by one in {self.cores} processes"}
        largest = max(sorted_out.together, key=len)
        choice = fastest(largest, device=self.entries[largest[0].name].parts.device, lanes=self.cores, most=self.most)
        alone = choice.seconds.get("one by one", 0.0) / self.cores
        if choice.way == STACKED and min(choice.seconds.values()) < alone:
            return {"way": STACKED, "width": choice.width, "lanes": choice.lanes, "reason": choice.reason}
        reason = f"{choice.reason}; in {self.cores} processes that is {alone * 1e6:.0f} µs"
        return {"way": PROCESSES, "width": 0, "lanes": 0, "reason": reason}

    # ------------------------------------------------------------------ trials that come

    def _take(self, count: int) -> list[StackedTrial]:
        """At most `count` more trials of the sweep. What cannot be stacked, or has a checkpoint of its own, is run at once, by itself."""
        found: list[StackedTrial] = []
        if count <= 0 or self.exhausted or self.stopping():
            return found
        came = self.sweep.take_many(self.worker, count)
        self.exhausted = len(came) < count
        for taken in came:
            self.tell({**_facts(taken), "state": "began"})
            folder, config = open_run(self.sweep, taken)
            alone = any(line.get("event") == "result" for line in journals.read(folder)) or any(folder.glob("checkpoints/*"))
            trial = None if alone else self._open(taken, folder, config)
            if trial is None:
                self.tell({**_facts(taken), "state": run_trial(self.sweep, taken, tell=self.tell, stopping=self.stopping)})
            else:
                found.append(trial)
        return self._stackable(found)

    def _stackable(self, trials: list[StackedTrial]) -> list[StackedTrial]:
        """Those that can be stacked and fit into memory; the rest are run by themselves, or refused where stacking was asked for."""
        if not trials:
            return trials
        sorted_out = group(trials)
        for trial, reason in sorted_out.alone:
            self.objections[trial.name] = reason
        if sorted_out.alone and self.sweep.plan.backend == "vectorised":
            reason = sorted_out.alone[0][1]
            raise RequestError(f"search.backend: these trials cannot be stacked: {reason} (allowed: auto, which runs them one by one)")
        for trial, _ in sorted_out.alone:
            entry = self.entries.pop(trial.name)
            entry.journal.close()
            assert entry.taken is not None
            self.tell({**_facts(entry.taken), "state": run_trial(self.sweep, entry.taken, tell=self.tell, stopping=self.stopping)})
        for together in sorted_out.together:
            parts = self.entries[together[0].name].parts
            memory = _free_memory(parts.device)
            self.most = min(self.most, max(1, largest_stack(together[0], parts.validation, device=parts.device, memory=memory)))
        return [trial for together in sorted_out.together for trial in together]

    def _open(self, taken: Taken | None, folder: Path, config: dict[str, Any]) -> StackedTrial:
        """A trial's journal, model and data, as `flows.experiment.run` would open them."""
        journal = Journal(folder)
        journal.event("started", run=folder.name, config=config, **self.environment)
        section = json.dumps(config["data"], sort_keys=True)
        if section not in self.data:
            self.data[section] = prepare_data(config, self.sweep.settings, tell=self.tell)
        prepared = self.data[section]
        journal.event("data", name=prepared.name, fingerprint=prepared.fingerprint, card=prepared.card)
        parts = experiment.assemble(config, prepared, self.sweep.settings, journal)
        pruning = taken is not None and self.sweep.plan.pruner not in ("none", "wilcoxon")
        handle = judged(self.sweep, taken, folder, config) if pruning and taken is not None else None
        self.entries[folder.name] = _Entry(taken, folder, config, prepared, parts, journal, handle)
        return StackedTrial(
            name=folder.name,
            model=parts.model,
            objective=parts.objective,
            optimizer=parts.optimizer,
            schedule=parts.schedule,
            batches=parts.batches,
            settings=parts.trainer,
            recorder=journal,
            seed=config["seed"],
        )

    def _ghosts(self, checkpoints: Checkpoints) -> list[StackedTrial]:
        """Trials that the checkpoint has and that have ended since; the stack cannot go on without them."""
        snapshot = checkpoints.newest()
        if snapshot is None:
            return []
        missing = [name for name in snapshot.values["names"] if name not in snapshot.values["ended"] and name not in self.entries]
        folders = [folder_of(self.sweep.settings, self.sweep.name, name) for name in missing]
        if any(journals.is_open(folder) or not (folder / "config.json").exists() for folder in folders):
            checkpoints.clear()  # somebody else has taken them up
            return []
        return [self._open(None, folder, experiment.read_config(folder)) for folder in folders]

    # ------------------------------------------------------------------ trials that go

    def _on_progress(self, name: str, now: Progress) -> None:
        self.tell({**experiment.as_progress(now), "run": name})

    def _on_validation(self, trial: StackedTrial, metrics: Mapping[str, float], state: State) -> bool:
        """Whether the trial goes on."""
        entry, metric = self.entries[trial.name], self.sweep.objectives[0].metric
        value = metrics.get(metric.removeprefix("validation/"))
        return entry.handle is None or value is None or judge(entry.handle, state.epoch, value) is None

    def _on_end(self, fitted: StackedFit) -> None:
        self._count_time()
        entry = self.entries.pop(fitted.name)
        with entry.journal:
            if entry.taken is None:
                return
            samples = round(fitted.state.step / max(1, entry.parts.batches.steps_per_epoch) * len(entry.prepared.splits["train"]))
            state: Literal["complete", "pruned", "failed"] = "complete"
            result: dict[str, Any] = {}
            if fitted.error is not None:
                state, reason = "failed", str(fitted.error)
                entry.journal.event("failed", reason=reason)
            elif fitted.pruned:
                state, reason = "pruned", f"hopeless beside the other trials after {fitted.state.epoch} epochs"
                entry.journal.event("pruned", reason=reason)
            else:
                reason = ""
                save_model(entry.folder / "model", fitted.weights, entry.config, entry.prepared)
                done = Fitted(fitted.weights, fitted.state, fitted.stopped_early)
                began = time.perf_counter() - entry.seconds
                result = experiment.evaluate_fitted(
                    entry.parts, done, entry.prepared, entry.folder, entry.journal, splits=("validation",), began=began
                )
        ended = Ended(state, reason, result, seconds=entry.seconds, samples=samples)
        self.tell({**_facts(entry.taken), "state": conclude(self.sweep, entry.taken, entry.folder, ended)})

    def _count_time(self) -> None:
        """Share the time since the last count among the trials that are there."""
        now = time.perf_counter()
        for entry in self.entries.values():
            entry.seconds += (now - self.counted_at) / len(self.entries)
        self.counted_at = now

    def _put_back(self) -> None:
        """What has not ended waits."""
        for name in list(self.entries):
            entry = self.entries.pop(name)
            with entry.journal, contextlib.suppress(Exception):
                entry.journal.event("interrupted", reason="stopped with its stack")
            if entry.taken is not None:
                self.sweep.put_back(entry.taken)
                self.tell({**_facts(entry.taken), "state": "stopped"})

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """The first stack folder of this sweep that nobody uses; the lock is let go with the process, too."""
        number = 0
        while True:
            place = self.sweep.settings.sweeps / self.sweep.name / "stacks" / str(number)
            place.mkdir(parents=True, exist_ok=True)
            with (place / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    number += 1
                    continue
                yield place / "checkpoints"
                return


def work(sweep: Sweep, worker: str, *, cores: int, tell: Tell, stopping: Callable[[], bool]) -> None:
    """Train the sweep's trials as stacks, or say that single processes are quicker and end."""
    torch.set_num_threads(1)
    chosen = sweep.study.user_attrs.get("way") if sweep.plan.backend == "auto" else None
    if sweep.plan.backend == "vectorised":
        chosen = {"way": STACKED, "width": 0, "lanes": cores, "reason": "asked for"}
    stack = Stack(sweep, worker, cores=cores, tell=tell, stopping=stopping)
    try:
        way = stack.run(chosen)
    except Interrupted:
        return
    if chosen is None:
        sweep.study.set_user_attr("way", dict(way))
        tell({"kind": "way", **way})


def _facts(taken: Taken) -> dict[str, Any]:
    return {"kind": "trial", "run": taken.run, "number": taken.number, "chosen": taken.chosen, "seed": taken.seed}


def _free_memory(device: torch.device) -> int:
    """Bytes that a stack may take."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free * SHARE_OF_MEMORY)
