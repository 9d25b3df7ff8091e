"""Trials trained together as one program (components/training/stacked), as ordinary trials of a sweep: asked in batches, told in batches.

Every worker has a stack of its own and takes a few dozen trials at a time, so that they are shared among the workers by how quick each
is. Each trial has its run folder and its journal as if it were alone, and its curves agree with those that it would have alone. The
checkpoint is the stack's (places.py): whoever takes up the trials of a worker that died finds it there and goes on exactly.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from components.data.prepared import Prepared
from components.errors import CheckpointError, Interrupted, RequestError, RunError
from components.training.checkpoint import Checkpoints
from components.training.disk import together
from components.training.stacked import StackedFit, StackedTrial, fastest, fit_stacked, group, largest_stack
from components.training.state import Progress, State
from flows import experiment
from flows.parts import Tell, prepare_data
from flows.records import journal as journals
from flows.search import storage
from flows.search.entries import Entry
from flows.search.places import Place, Places
from flows.search.study import Sweep, Taken
from flows.search.trials import conclude_many, folder_of, judge, judged, open_run, run_trial

WIDE = 32
"""Trials of one program that a CPU core trains at a time: fewer cost more each, and more gain nothing (benchmarks/README.md)."""
MOST = 256
"""Trials in one stack at most; each has a file open."""
MOST_ADAPTIVE = 16
"""Trials in training at most, in all workers' stacks, where the sampler or the pruner learns from those that have ended."""
SHARE_OF_MEMORY = 0.5
SECONDS_BETWEEN_LOOKS = 0.5
PROCESSES = "processes"
STACKED = "stacked"


class Stack:
    """What one worker trains together.

    Args:
        sweep: whose trials.
        worker: this worker's name.
        place: where its checkpoints are.
        most: trials in it at the same time.
        lanes: how many cores it has.
        tell: hears of every trial's beginning, progress and end (flows/search/worker.py).
        stopping: whether it is time to stop.
    """

    def __init__(self, sweep: Sweep, worker: str, place: Place, *, most: int, lanes: int, tell: Tell, stopping: Callable[[], bool]) -> None:
        self.sweep, self.worker, self.place, self.tell, self.stopping = sweep, worker, place, tell, stopping
        self.places = Places(sweep.settings, sweep.name)
        self.most, self.lanes = most, lanes
        self.entries: dict[str, Entry] = {}
        self.data: dict[str, Prepared] = {}
        self.counted_at = time.perf_counter()
        self.exhausted = False
        """There was nothing left to begin: asking again would read every running trial for nothing."""
        self.objection: str | None = None
        """Why a trial that came cannot be stacked."""
        self.fruitless = False
        """Trials came, and none of them could be stacked."""

    # ------------------------------------------------------------------ from beginning to end

    def run(self) -> bool:
        """Train trials until there is nothing to begin; returns whether stacking is the way. Where single processes are quicker, the
        trials that were taken to find that out are trained one by one, as are those that cannot be stacked: what comes after may be
        of another kind.

        Raises:
            RequestError: stacking was asked for, and a trial cannot be stacked.
            Interrupted: it is time to stop; every trial waits and the checkpoint is written.
        """
        checkpoints = self.place.checkpoints
        snapshot = checkpoints.newest()
        saved = len(snapshot.values["names"]) - len(snapshot.values["ended"]) if snapshot else 0
        trials = [*self._take(max(self.most, saved)), *self._ghosts(checkpoints)]
        try:
            self.fruitless = not trials and self.objection is not None
            way = self._way(trials) if trials else {"way": STACKED}
            if way["way"] == PROCESSES:
                self._one_by_one()
                return not way.get("timed", True)
            if trials:
                self._train(trials, checkpoints, way)
        finally:
            self._put_back()
        checkpoints.clear()
        return True

    def _train(self, trials: Sequence[StackedTrial], checkpoints: Checkpoints, way: Mapping[str, Any]) -> None:
        parts = self.entries[trials[0].name].parts
        self.counted_at = time.perf_counter()

        def train(whole: Checkpoints) -> list[StackedFit]:
            return fit_stacked(
                trials,
                parts.validation,
                device=parts.device,
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
        self._on_end([fitted for fitted in ended if fitted.name in self.entries])

    def _way(self, trials: Sequence[StackedTrial]) -> Mapping[str, Any]:
        """How the sweep's trials are trained (`way`, `width`, `lanes`, `reason`): what the first worker that has timed it has said.

        Where there was nothing to time, that is said for these trials only.
        """
        way: Mapping[str, Any] | None = self.sweep.study.user_attrs.get("way")
        if way is not None and way["lanes"] in (0, self.lanes):
            return way
        way = self._choose(trials)
        if not way["timed"]:
            return way
        with storage.turn(self.sweep.settings, self.sweep.name):
            said = self.sweep.study.user_attrs.get("way")
            if said is not None and said["lanes"] in (0, self.lanes):
                return dict(said)
            self.sweep.study.set_user_attr("way", dict(way))
        self.tell({"kind": "way", **way})
        return way

    def _choose(self, trials: Sequence[StackedTrial]) -> dict[str, Any]:
        """The quickest way for the largest group of these trials, by timing a few steps of each."""
        largest = max(group(trials).together, key=len)
        choice = fastest(largest, device=self.entries[largest[0].name].parts.device, lanes=self.lanes, most=self.most)
        found = {"timed": bool(choice.seconds), "reason": choice.reason}
        if choice.way != STACKED and self.sweep.plan.backend == "auto":
            return {"way": PROCESSES, "width": 0, "lanes": 0, **found}
        return {"way": STACKED, "width": choice.width, "lanes": choice.lanes or self.lanes, **found}

    # ------------------------------------------------------------------ trials that come

    def _take(self, count: int) -> list[StackedTrial]:
        """At most `count` more trials of the sweep. What cannot be stacked, or has a checkpoint of its own, is run at once, by itself."""
        if count <= 0 or self.exhausted or self.stopping():
            return []
        came = self.sweep.take_many(self.worker, count, stack=self.place.number, elsewhere=self.places.begun)
        self.exhausted = len(came) < count
        found: list[StackedTrial] = []
        alone: list[Taken] = []
        with together():
            for taken in came:
                folder, config = open_run(self.sweep, taken)
                said = journals.read(folder)
                if any(line.get("event") == "result" for line in said) or any(folder.glob("checkpoints/*")):
                    alone.append(taken)
                else:
                    self.tell({**_facts(taken), "state": "began"})
                    found.append(self._open(taken, folder, config))
        for taken in alone:
            self._run_alone(taken)
        return self._stackable(found)

    def _stackable(self, trials: list[StackedTrial]) -> list[StackedTrial]:
        """Those that can be stacked and fit into memory; the rest are run by themselves, or refused where stacking was asked for."""
        if not trials:
            return trials
        sorted_out = group(trials)
        for _, reason in sorted_out.alone:
            self.objection = reason
        if self.objection and self.sweep.plan.backend == "vectorised":
            raise RequestError(
                f"search.backend: these trials cannot be stacked: {self.objection} "
                f"(one by one: lab sweep --resume {self.sweep.name} search.backend=auto)"
            )
        for trial, _ in sorted_out.alone:
            self._close_and_run(trial.name)
        for alike in sorted_out.together:
            parts = self.entries[alike[0].name].parts
            memory = _free_memory(parts.device)
            self.most = min(self.most, max(1, largest_stack(alike[0], parts.validation, device=parts.device, memory=memory)))
        return [trial for alike in sorted_out.together for trial in alike]

    def _open(self, taken: Taken | None, folder: Path, config: dict[str, Any]) -> StackedTrial:
        section = json.dumps(config["data"], sort_keys=True)
        if section not in self.data:
            self.data[section] = prepare_data(config, self.sweep.settings, tell=self.tell)
        pruning = taken is not None and self.sweep.plan.pruner not in ("none", "wilcoxon")
        handle = judged(self.sweep, taken, folder, config) if pruning and taken is not None else None
        entry = self.entries[folder.name] = Entry.open(
            taken, folder, config, self.data[section], handle=handle, settings=self.sweep.settings
        )
        return entry.trial

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

    # ------------------------------------------------------------------ trials by themselves

    def _run_alone(self, taken: Taken) -> None:
        self.tell({**_facts(taken), "state": "began"})
        self.tell({**_facts(taken), "state": run_trial(self.sweep, taken, tell=self.tell, stopping=self.stopping)})

    def _close_and_run(self, name: str) -> None:
        """Run a trial by itself that was opened to be stacked."""
        entry = self.entries.pop(name)
        entry.journal.close()
        if entry.taken is not None:
            self._run_alone(entry.taken)

    def _one_by_one(self) -> None:
        for name in list(self.entries):
            if self.stopping():
                return
            self._close_and_run(name)

    # ------------------------------------------------------------------ trials that go

    def _on_progress(self, name: str, now: Progress) -> None:
        self.tell({**experiment.as_progress(now), "run": name})

    def _on_validation(self, trial: StackedTrial, metrics: Mapping[str, float], state: State) -> bool:
        """Whether the trial goes on."""
        entry, metric = self.entries[trial.name], self.sweep.objectives[0].metric
        value = metrics.get(metric.removeprefix("validation/"))
        return entry.handle is None or value is None or judge(entry.handle, state.epoch, value) is None

    def _on_end(self, ends: Sequence[StackedFit]) -> None:
        """Keep what has come of these trials, and say so: the disk and the study are waited for once for all of them."""
        self._count_time()
        gone = [(self.entries.pop(fitted.name), fitted) for fitted in ends]
        mine = [(entry, fitted, entry.taken) for entry, fitted in gone if entry.taken is not None]
        with contextlib.ExitStack() as journals_open:
            for entry, _ in gone:
                journals_open.enter_context(entry.journal)
            with together():
                kept = [entry.keep(fitted) for entry, fitted, _ in mine]
            with together():  # a result is only said of what is there
                said = [entry.say(fitted, metrics) for (entry, fitted, _), metrics in zip(mine, kept, strict=True)]
        told = [(taken, entry.folder, ended) for (entry, _, taken), ended in zip(mine, said, strict=True)]
        for (_, _, taken), state in zip(mine, conclude_many(self.sweep, told), strict=True):
            self.tell({**_facts(taken), "state": state})

    def _count_time(self) -> None:
        """Share the time since the last count among the trials that are there."""
        now = time.perf_counter()
        for entry in self.entries.values():
            entry.seconds += (now - self.counted_at) / len(self.entries)
        self.counted_at = now

    def _put_back(self) -> None:
        """What has not ended waits."""
        waiting = [entry.taken for entry in self.entries.values() if entry.taken is not None]
        with together():
            for entry in self.entries.values():
                with entry.journal, contextlib.suppress(Exception):
                    entry.journal.event("interrupted", reason="stopped with its stack")
        self.entries.clear()
        if waiting:
            self.sweep.put_back(*waiting)
        for taken in waiting:
            self.tell({**_facts(taken), "state": "stopped"})


def work(sweep: Sweep, worker: str, *, cores: int, workers: int, tell: Tell, stopping: Callable[[], bool]) -> bool:
    """Train the sweep's trials as stacks until none is left or it is time to stop; False where single processes are quicker.

    Args:
        cores: this worker's.
        workers: how many work like this one, to share the trials with.

    Raises:
        RunError: nothing succeeds.
    """
    torch.set_num_threads(1)
    most = size(sweep, workers=workers, lanes=cores)
    fruitless = said = False
    while not stopping():
        with Places(sweep.settings, sweep.name).taken() as place:
            # What is run one by one is taken one by one, so that the workers share it.
            stack = Stack(sweep, worker, place, most=1 if fruitless else most, lanes=cores, tell=tell, stopping=stopping)
            try:
                if not stack.run():
                    return False
            except Interrupted:
                return True
        if stack.objection and not said:
            said = True
            which = "" if stack.fruitless else " (the others together)"
            tell({"kind": "way", "way": PROCESSES, "reason": f"{stack.objection}; one by one{which}"})
        fruitless = stack.fruitless
        if sweep.finished():
            return True
        if reason := sweep.hopeless():
            raise RunError(reason)
        if stack.exhausted:
            time.sleep(SECONDS_BETWEEN_LOOKS)  # others still train trials, which may come back
    return True


def size(sweep: Sweep, *, workers: int, lanes: int) -> int:
    """How many trials a worker's stack has at most, memory aside."""
    plan = sweep.plan
    if plan.pruner != "none" or plan.sampler not in ("grid", "random", "qmc"):
        return max(1, MOST_ADAPTIVE // workers)
    share = max(1, math.ceil(sweep.total() / workers))
    if torch.cuda.is_available():
        return min(MOST, share)
    kinds = 1 if plan.sampler == "grid" else sweep.order.kinds  # of a grid, trials come kind by kind
    return min(MOST, share, WIDE * lanes * kinds)


def _facts(taken: Taken) -> dict[str, Any]:
    return {"kind": "trial", "run": taken.run, "number": taken.number, "chosen": taken.chosen, "seed": taken.seed}


def _free_memory(device: torch.device) -> int:
    """Bytes that a stack may take."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free * SHARE_OF_MEMORY)
