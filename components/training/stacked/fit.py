"""Training a list of trials in blocks, side by side, with everything around it that the ordinary loop has."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import torch

from components.errors import CheckpointError, Interrupted, RequestError
from components.protocols import Outcomes
from components.training import randomness
from components.training.checkpoint import Checkpoints, Snapshot
from components.training.disk import AT_ONCE
from components.training.evaluation import BatchSource
from components.training.stacked.block import Block, Tell
from components.training.stacked.bound import Architecture, architecture_of
from components.training.stacked.grouping import can_stack, program_of
from components.training.stacked.saved import packed, read, unpacked, written
from components.training.stacked.trials import Member, StackedFit, StackedTrial
from components.training.stacked.validation import outcomes_at_best
from components.training.state import State

LEAVING_AT_ONCE = 64
"""Trials whose outcomes are in memory at the same time."""

OnValidation = Callable[[StackedTrial, Mapping[str, float], State], bool]
"""Told of a trial's metrics (without split prefix) after each of its epochs; False ends the trial as pruned."""


def fit_stacked(
    trials: Sequence[StackedTrial],
    validation: BatchSource | None,
    *,
    device: torch.device,
    width: int = 0,
    lanes: int = 1,
    checkpoints: Checkpoints | None = None,
    on_validation: OnValidation = lambda *_: True,
    on_end: Callable[[Sequence[StackedFit]], None] | None = None,
    joining: Callable[[], Sequence[StackedTrial]] = lambda: (),
    progress: Tell = lambda *_: None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[StackedFit]:
    """Train every trial as `components.training.loop.fit` would alone, going on from the newest checkpoint if there is one.

    Trials that can share a program (see `group`) are trained in blocks, and blocks side by side in lanes, each a thread with one of torch's
    CPU threads. After each epoch all blocks wait for each other: then `on_validation` is asked about each trial, trials that have ended
    leave, new ones join.

    Args:
        trials: any number, of any architectures; when going on, all that have not ended.
        validation: the validation split for all of them; without it the last weights count.
        width: most trials in a block; 0 sets no limit. See `fastest` and `largest_stack`.
        lanes: blocks at the same time. Pays for models whose operations are not tiny: where they are, the threads wait for Python's
            lock, and two processes, each with half of the trials and one lane, are twice as fast.
        checkpoints: where to save the whole stack; None saves nothing.
        on_validation, on_end, joining: called between epochs, in this thread, in the order in which the trials came. `on_end` is told
            of all that end after the same epoch together, at most LEAVING_AT_ONCE in one call; what it is given is kept there and not
            here, so that a long search does not fill memory and checkpoints with old weights. `joining` is asked for new trials until
            there is no trial left and it has none. After a crash the same may be told again.
        progress: told of a trial's name and progress at every point of its curves; called in the lanes' threads, as recorders are.
        stopping: asked at every step, in the lanes' threads; when it says True a checkpoint is written and Interrupted is raised.

    Returns:
        One for each trial, in the order in which they came; with `on_end`, without weights. A trial that failed has its error there: it
        stops nobody else.

    Raises:
        RequestError: a trial cannot be stacked, or two have the same name.
        Interrupted: `stopping` said so.
        CheckpointError: a checkpoint cannot be written, or belongs to other trials.
    """
    return _Fit(validation, device, width, lanes, checkpoints, on_validation, on_end, joining, progress, stopping).run(trials)


class _Fit:
    """A stack in progress."""

    def __init__(  # noqa: PLR0917 — only `fit_stacked` calls it, with its own arguments in order
        self,
        validation: BatchSource | None,
        device: torch.device,
        width: int,
        lanes: int,
        checkpoints: Checkpoints | None,
        on_validation: OnValidation,
        on_end: Callable[[Sequence[StackedFit]], None] | None,
        joining: Callable[[], Sequence[StackedTrial]],
        progress: Tell,
        stopping: Callable[[], bool],
    ) -> None:
        self.validation, self.device, self.checkpoints = validation, device, checkpoints
        self.on_validation, self.on_end, self.joining, self.progress, self.stopping = on_validation, on_end, joining, progress, stopping
        self.threads = torch.get_num_threads()
        self.width, self.lanes = width, lanes
        self.names: list[str] = []
        """All trials, in the order in which they came."""
        self.live: dict[str, Member] = {}
        self.ended: dict[str, StackedFit] = {}
        self.architectures: list[tuple[Any, Architecture]] = []
        self.of: dict[str, Architecture] = {}
        self.blocks: list[Block] = []
        self.best_file: str | None = None
        self.best_forms: list[list[int]] = []
        self.best_is_saved = True
        self._pause = threading.Event()
        self._stop = False

    def run(self, trials: Sequence[StackedTrial]) -> list[StackedFit]:
        snapshot = self.checkpoints.newest() if self.checkpoints else None
        self.saved_at = time.perf_counter()
        coming: Sequence[StackedTrial] = []
        if snapshot is None:
            self._join([*trials, *self.joining()])
        else:
            coming = self._restore(snapshot, trials)
        while self.live or coming:
            self._round()
            self._between_epochs()
            self._join([*coming, *self.joining()])
            coming = []
        if self.checkpoints:
            self._save()
        return [self.ended[name] for name in self.names]

    # ------------------------------------------------------------------ one epoch of everybody

    def _round(self) -> None:
        """Every block to the end of its epoch, with pauses to save."""
        self.seconds_between = min(member.trial.settings.checkpoint_seconds for member in self.live.values())
        while waiting := [block for block in self.blocks if block.members and not block.epoch_done]:
            self._pause.clear()
            self._side_by_side(waiting)
            if self._stop:
                self._interrupt()
            if self._pause.is_set():
                self._save()

    def _side_by_side(self, blocks: Sequence[Block]) -> None:
        if self.lanes == 1:
            for block in blocks:
                self._train(block)
            return
        try:
            with ThreadPoolExecutor(self.lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                lane = [pool.submit(self._train, block) for block in blocks]
                try:
                    for done in lane:
                        done.result()
                except BaseException:
                    self._pause.set()  # the other lanes stop after their step
                    raise
        finally:
            torch.set_num_threads(self.threads)

    def _train(self, block: Block) -> None:
        if not self._pause.is_set():
            block.train(self._paused)

    def _paused(self) -> bool:
        if not self._pause.is_set():
            if self.stopping():
                self._stop = True
                self._pause.set()
            elif self.checkpoints and time.perf_counter() - self.saved_at >= self.seconds_between:
                self._pause.set()
        return self._pause.is_set()

    def _between_epochs(self) -> None:
        """Tell of every trial, let those go that are done, in the order in which they came."""
        for block in self.blocks:
            block.epoch_done = False
        leaving: dict[str, bool] = {}
        """Who leaves, and whether as pruned."""
        for name in [name for name in self.names if name in self.live]:
            member = self.live[name]
            goes_on = True
            if member.validated is not None:
                goes_on = self.on_validation(member.trial, member.validated, member.state)
                member.validated = None
            if member.finished or not goes_on:
                leaving[name] = not goes_on and not member.finished
        for first in range(0, len(leaving), LEAVING_AT_ONCE):
            members = [self.live.pop(name) for name in list(leaving)[first : first + LEAVING_AT_ONCE]]
            outcomes = self._outcomes(members) if self.on_end is not None else {}
            ends = [member.end(outcomes.get(member.trial.name), pruned=leaving[member.trial.name]) for member in members]
            if self.on_end is not None:
                self.on_end(ends)
                ends = [replace(end, weights={}, outcomes=None) for end in ends]
            self.ended |= {end.name: end for end in ends}
            self.best_is_saved = False

    def _outcomes(self, members: Sequence[Member]) -> dict[str, Outcomes]:
        """By trial's name, what the best weights say to every example of the validation split; nothing where there are none."""
        found: dict[str, Outcomes] = {}
        if self.validation is None:
            return found
        for _, architecture in self.architectures:
            well = [member for member in members if self.of[member.trial.name] is architecture and member.best and not member.error]
            if well:
                found |= outcomes_at_best(architecture, self.validation, well, self.device)
        return found

    # ------------------------------------------------------------------ who is in which block

    def _join(self, trials: Sequence[StackedTrial]) -> None:
        """Take in new trials, at an epoch's beginning, and make blocks of all."""
        for trial in trials:
            if trial.name in self.names:
                raise RequestError(f"two trials are called {trial.name!r}")
            self._architecture(trial)
            self.names.append(trial.name)
            self.live[trial.name] = Member.of(trial, self.device)
        self._arrange()

    def _architecture(self, trial: StackedTrial) -> None:
        """Find what a trial shares with others, or make it."""
        key = program_of(trial)
        for other, architecture in self.architectures:
            if other == key:
                self.of[trial.name] = architecture
                return
        reason = can_stack(trial)
        if reason is not None:
            raise RequestError(f"{trial.name} cannot be stacked: {reason}")
        self.of[trial.name] = architecture_of(trial, self.device)
        self.architectures.append((key, self.of[trial.name]))

    def _arrange(self) -> None:
        """Blocks for everybody: as equal as can be, no wider than allowed, one for each lane. Blocks that have not changed stay."""
        before = {tuple(member.trial.name for member in block.members): block for block in self.blocks}
        self.blocks = []
        for _, architecture in self.architectures:
            names = [name for name in self.names if name in self.live and self.of[name] is architecture]
            names.sort(key=lambda name: type(self.live[name].trial.optimizer).__name__)
            for part in _parts(names, self.width, self.lanes):
                self.blocks.append(before.get(tuple(part)) or self._block(architecture, part))

    def _block(self, architecture: Architecture, names: Sequence[str]) -> Block:
        return Block(architecture, [self.live[name] for name in names], self.validation, device=self.device, tell=self.progress)

    # ------------------------------------------------------------------ stopping and going on

    def _interrupt(self) -> None:
        if self.checkpoints:
            self._save()
        self._flush()
        done = sum(member.state.step for member in self.live.values())
        raise Interrupted(
            f"stopped with {len(self.live)} trials in training, {done} steps done of {sum(m.total for m in self.live.values())}"
        )

    def _flush(self) -> None:
        """What the recorders have been told is on the disk; they wait for it together."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda member: member.trial.recorder.flush(), self.live.values()))

    def _save(self) -> None:
        assert self.checkpoints is not None
        self._flush()  # points of the curves before this step will not be computed again
        states = {name: self.live[name].state if name in self.live else self.ended[name].state for name in self.names}
        step = sum(state.step for state in states.values())
        number = {name: place for place, name in enumerate(self.names)}
        if not self.best_is_saved or any(member.best and not member.best_is_saved for member in self.live.values()):
            best = {name: member.best for name, member in self.live.items()} | {name: end.weights for name, end in self.ended.items()}
            tensors, self.best_forms = packed("best", {number[name]: weights for name, weights in best.items()})
            self.best_file = self.checkpoints.save_best(step, {name.removeprefix("best/"): tensor for name, tensor in tensors.items()})
            self.best_is_saved = True
            for member in self.live.values():
                member.best_is_saved = True
        generators, generator_values = randomness.capture()
        tensors = {f"generators/{name}": tensor for name, tensor in generators.items()}
        weights, forms = packed("weights", {number[name]: member.weights for name, member in self.live.items()})
        moments, forms_of_moments = packed("moments", {number[name]: member.named_moments() for name, member in self.live.items()})
        values = {
            "names": self.names,
            "states": {name: asdict(state) for name, state in states.items()},
            "validated": {name: member.validated for name, member in self.live.items()},
            "errors": {name: written(member.error) for name, member in self.live.items() if member.error},
            "ended": {
                name: {"stopped_early": end.stopped_early, "pruned": end.pruned, "error": written(end.error)}
                for name, end in self.ended.items()
            },
            "blocks": [
                {"members": [member.trial.name for member in block.members], "epoch_done": block.epoch_done} for block in self.blocks
            ],
            "generators": generator_values,
            "best_file": self.best_file,
            "forms": {"weights": forms, "moments": forms_of_moments, "best": self.best_forms},
            "width": self.width,
            "lanes": self.lanes,
            "threads": self.threads,
        }
        self.checkpoints.save(step, tensors | weights | moments, values)
        self.saved_at = time.perf_counter()

    def _restore(self, snapshot: Snapshot, trials: Sequence[StackedTrial]) -> list[StackedTrial]:
        """Everything as it was saved; returns the trials that are new."""
        values, given = snapshot.values, {trial.name: trial for trial in trials}
        forms = values["forms"]
        weights, moments, bests = (unpacked(kind, snapshot.tensors, forms[kind]) for kind in ("weights", "moments", "best"))
        self.best_forms = forms["best"]
        self.names, self.best_file = values["names"], values["best_file"]
        self.width, self.lanes, self.threads = values["width"], values["lanes"], values["threads"]
        torch.set_num_threads(self.threads)  # sums depend on how they are split
        for place, name in enumerate(self.names):
            state, best = State(**values["states"][name]), bests.get(place, {})
            if name in values["ended"]:
                end = values["ended"][name]
                self.ended[name] = StackedFit(name, best, state, end["stopped_early"], end["pruned"], read(end["error"]))
                continue
            if name not in given:
                raise CheckpointError(f"the checkpoint has a trial {name!r} that has not ended and is not among those given")
            self._architecture(given[name])
            member = self.live[name] = Member.of(given[name], self.device)
            member.state, member.best_is_saved = state, True
            member.best = {key: tensor.to(self.device) for key, tensor in best.items()}
            member.validated, member.error = values["validated"][name], read(values["errors"].get(name))
            saved = weights[place]
            if {key: tensor.shape for key, tensor in saved.items()} != {key: tensor.shape for key, tensor in member.weights.items()}:
                raise CheckpointError(f"the checkpoint of {name!r} belongs to another model")
            member.weights = {key: tensor.to(self.device) for key, tensor in saved.items()}
            member.remember(moments.get(place, {}), self.device)
        for saved_block in values["blocks"]:
            if names := saved_block["members"]:
                block = self._block(self.of[names[0]], names)
                block.epoch_done = saved_block["epoch_done"]
                self.blocks.append(block)
        generators = {
            name.removeprefix("generators/"): tensor for name, tensor in snapshot.tensors.items() if name.startswith("generators/")
        }
        randomness.restore(generators, values["generators"])
        return [trial for trial in trials if trial.name not in self.names]


def _parts(names: Sequence[str], width: int, lanes: int) -> Iterator[Sequence[str]]:
    """Equal parts: a multiple of the lanes where there are names enough."""
    if not names:
        return
    count = math.ceil(len(names) / width) if width else 1
    count = min(len(names), math.ceil(count / lanes) * lanes)
    for part in range(count):
        yield names[part * len(names) // count : (part + 1) * len(names) // count]
