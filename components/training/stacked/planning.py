"""How many trials fit into memory, and whether stacking them pays: counted and timed before anything is trained."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from components.data.batches import Batches
from components.errors import NotFiniteError, RequestError
from components.schedules import Constant
from components.training.evaluation import BatchSource
from components.training.loop import fit
from components.training.stacked.block import Block
from components.training.stacked.bound import architecture_of
from components.training.stacked.grouping import can_stack, program_of
from components.training.stacked.trials import Member, StackedTrial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALONE: Literal["one by one"] = "one by one"
WORTH = 0.95
"""Stacking is chosen where a step takes at most this part of the time alone."""
CLEAR = 3
"""Stacking as widely as possible is looked into no further where it is this many times quicker."""
SLOW = 0.01
"""Seconds a step from which an operation fills a core whatever the width: only the widest and the narrowest stack are timed."""
SEVERAL = 12
"""Steps in which most lengths of texts occur."""
TURN_SECONDS = 0.02
"""About how long one way is timed in a turn."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a stack takes."""

    fixed: int
    each: int
    """For each trial."""

    def trials(self, available: int) -> int:
        """How many trials fit."""
        return max(0, (available - self.fixed) // self.each)


@dataclass(frozen=True)
class Choice:
    """How to train some trials.

    Attributes:
        way: what is quickest.
        width, lanes: for `fit_stacked`, the quickest stacked way, even where another way is quicker; 0 where there is none.
        seconds: way in words → seconds a step and trial.
        reason: one line for a person.
    """

    way: Literal["stacked", "one by one"]
    width: int
    lanes: int
    seconds: Mapping[str, float]
    reason: str


def memory_of(trial: StackedTrial, validation: BatchSource | None, *, device: torch.device) -> Memory:
    """What a stack of trials like this one takes: weights, gradients, moments, everything between input and loss, batches, masks.

    Two small stacks, of one and of two trials, are bound to memory and counted; what a stack needs grows by the same amount with each
    trial. Counted as well: a trial's own model, its best weights, and a second copy of weights and moments for when others leave or join.

    Raises:
        RequestError: the trial cannot be stacked.
    """
    reason = can_stack(trial)
    if reason is not None:
        raise RequestError(f"{trial.name} cannot be stacked: {reason}")
    one, two = (_counted(trial, validation, device, count) for count in (1, 2))
    return Memory(fixed=max(0, 2 * one - two), each=two - one)


def largest_stack(trial: StackedTrial, validation: BatchSource | None, *, device: torch.device, memory: int) -> int:
    """How many trials like this one fit into `memory` bytes at once; 0 where not even one does. Raises as `memory_of`."""
    return memory_of(trial, validation, device=device).trials(memory)


def fastest(trials: Sequence[StackedTrial], *, device: torch.device, lanes: int = 0, most: int = 0) -> Choice:
    """Time a few steps of each way on copies of the trials, and say which is quickest and why.

    Args:
        trials: trials that share a program (see `group`); otherwise they are timed one by one only.
        device: where they are to be trained.
        lanes: most lanes; 0 means as many as torch has threads on the CPU, and 1 elsewhere.
        most: trials that fit into memory (see `largest_stack`); 0 sets no limit.
    """
    reason = can_stack(trials[0])
    if reason is not None:
        return Choice(ALONE, 0, 0, {}, f"{trials[0].name} cannot be stacked: {reason}")
    if any(program_of(trial) != program_of(trials[0]) for trial in trials[1:]):
        return Choice(ALONE, 0, 0, {}, "they share no program")
    count = min(len(trials), most or len(trials))
    if count < 2:
        return Choice(ALONE, 0, 0, {}, "there is only one" if len(trials) < 2 else "only one fits into memory")
    lanes = min(count, lanes or (torch.get_num_threads() if device.type == "cpu" else 1))
    one_by_one = _Alone(trials, device)
    timed = {way: _Stacked(trials, *way, device) for way in dict.fromkeys([(count, 1), (-(-count // lanes), lanes)])}
    seconds = _in_turns({ALONE: one_by_one, **_in_words(timed)}, rounds=2)
    if min(seconds[_words(*way)] for way in timed) * CLEAR > seconds[ALONE]:
        # Where it is close the models are not tiny, and what is timed here is little beside their training.
        narrower = (1, 2, 4, 8, 16, 32) if seconds[ALONE] < SLOW else (1,)
        others = {(width, lanes) for width in narrower if width < -(-count // lanes)}
        timed |= {way: _Stacked(trials, *way, device) for way in sorted(others)}
        seconds = _in_turns({ALONE: one_by_one, **_in_words(timed)}, rounds=3)
    width, lanes = min(timed, key=lambda way: seconds[_words(*way)])
    best = _words(width, lanes)
    numbers = f"{best} takes {seconds[best] * 1e6:.0f} µs a step and trial, {ALONE} {seconds[ALONE] * 1e6:.0f} µs"
    if seconds[best] > WORTH * seconds[ALONE]:
        return Choice(ALONE, width, lanes, seconds, numbers)
    return Choice("stacked", width, lanes, seconds, numbers)


def _words(width: int, lanes: int) -> str:
    return f"stacked {width} at a time" + (f" in {lanes} lanes" if lanes > 1 else "")


def _in_words(timed: Mapping[tuple[int, int], _Stacked]) -> dict[str, Callable[[], float]]:
    return {_words(*way): run for way, run in timed.items()}


def _in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Way → its shortest time in so many turns: other work on the machine only ever adds."""
    times = [{way: run() for way, run in ways.items()} for _ in range(rounds)]
    return {way: min(turn[way] for turn in times) for way in ways}


class _Nobody:
    """A recorder that forgets."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Forget."""

    def figure(self, name: str, figure: Figure, *, step: int) -> None:
        """Forget."""

    def flush(self) -> None:
        """Nothing is kept."""


def _copy_of(trial: StackedTrial, *, max_steps: int = 0) -> StackedTrial:
    """A trial that can be trained for a while without anybody noticing: so slowly that it does not leave the numbers."""
    optimizer: Any = trial.optimizer
    settings = replace(trial.settings, epochs=10**6, max_steps=max_steps, patience=0, log_every=10**6, diagnose_every=0)
    return replace(
        trial,
        model=copy.deepcopy(trial.model),
        optimizer=replace(optimizer, learning_rate=1e-9),
        settings=settings,
        schedule=Constant(),
        recorder=_Nobody(),
    )


def _spread(trials: Sequence[StackedTrial], count: int) -> list[StackedTrial]:
    """`count` of the trials from all over, some several times where there are not so many."""
    return [trials[place * len(trials) // count] for place in range(count)]


class _Alone:
    """Times the ordinary loop: a few trials after each other."""

    def __init__(self, trials: Sequence[StackedTrial], device: torch.device) -> None:
        self.trials, self.device = _spread(trials, min(4, len(trials))), device
        self.steps = 3

    def __call__(self) -> float:
        taken = sum(self._time(trial) for trial in self.trials)
        each = taken / len(self.trials) / self.steps
        self.steps = max(2, min(200, round(TURN_SECONDS / each / len(self.trials))))
        return each

    def _time(self, trial: StackedTrial) -> float:
        began: list[float] = []

        def stopping() -> bool:
            began.append(time.perf_counter())
            return False

        copied = _copy_of(trial, max_steps=self.steps + 2)
        try:
            fit(
                copied.model,
                copied.objective,
                copied.batches,
                None,
                optimizer=copied.optimizer,
                schedule=copied.schedule,
                settings=copied.settings,
                device=self.device,
                recorder=copied.recorder,
                stopping=stopping,
            )
        except NotFiniteError:  # it fails in its first steps, whichever way it is trained
            return math.inf
        return began[-1] - began[1]  # the first steps choose kernels and make room


class _Stacked:
    """Times blocks side by side."""

    def __init__(self, trials: Sequence[StackedTrial], width: int, lanes: int, device: torch.device) -> None:
        self.lanes, self.count = lanes, width * lanes
        chosen = [_copy_of(trial) for trial in _spread(trials, self.count)]
        architecture = architecture_of(chosen[0], device)
        self.blocks = [
            Block(architecture, [Member.of(trial, device) for trial in chosen[lane::lanes]], None, device=device, tell=lambda *_: None)
            for lane in range(lanes)
        ]
        self.steps = 3
        texts = isinstance(chosen[0].batches, Batches) and chosen[0].batches.split.lengths is not None
        self._run(SEVERAL if texts else 1)  # binds the program, of texts one for each length

    def __call__(self) -> float:
        began = time.perf_counter()
        self._run(self.steps)
        each = (time.perf_counter() - began) / self.steps / self.count
        self.steps = max(2, min(200, round(TURN_SECONDS / each / self.count)))
        return each

    def _run(self, steps: int) -> None:
        threads = torch.get_num_threads()
        if self.lanes == 1:
            _some_steps(self.blocks[0], steps)
            return
        try:
            with ThreadPoolExecutor(self.lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for done in [pool.submit(_some_steps, block, steps) for block in self.blocks]:
                    done.result()
        finally:
            torch.set_num_threads(threads)


def _some_steps(block: Block, steps: int) -> None:
    """Go on for some steps, into the next epoch where one ends."""
    left = steps

    def paused() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    while left > 0 and block.members:
        block.train(paused)
        block.epoch_done = False


def _counted(trial: StackedTrial, validation: BatchSource | None, device: torch.device, count: int) -> int:
    """Bytes that belong to a stack of so many copies of a trial."""
    members = [Member.of(_copy_of(trial), device) for _ in range(count)]
    block = Block(architecture_of(members[0].trial, device), members, validation, device=device, tell=lambda *_: None)
    return block.count_bytes()
