"""Trials trained as one program against the ordinary loop one by one, and where a stack's time goes.

Both train the same trials on the same synthetic examples, in turns of about a second: a few trials one after another by
`components.training.loop.fit`, then all of them by `fit_stacked`, each with journals, curves, diagnostics and validation as in a sweep; in
one lane, in one for each core, and in one process for each core, as a sweep's workers do it. So whatever else the machine does happens
to all. Numbers are microseconds a step and trial, everything included but the start of a process, so their ratio is that of trials per
minute. The three problems are `mlp_digits`' and `mlp_mnist`'s, with all rules mixed in the first, and a deeper MLP.

The shares of a stack's time are from one more training of each, with a clock around every operation.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.loop import CLASSES, Synthetic
from benchmarks.loop import Setting as Data
from benchmarks.report import Row, ratio
from components.data.batches import Batches
from components.initializers import HeUniform
from components.models.mlp import MLP
from components.objectives.classification import Classification
from components.optimizers import Adadelta, Adagrad, Adam, AdamW, GradientDescent, Momentum, Nesterov, RMSprop
from components.protocols import Optimizer, Schedule
from components.schedules import Constant, Cosine
from components.training.device import configure
from components.training.loop import fit
from components.training.settings import Trainer
from components.training.stacked import StackedTrial, fit_stacked
from components.training.stacked.block import Block
from components.training.stacked.bound import BoundStep
from components.training.stacked.masks import Masks
from components.training.stacked.program import Program
from components.training.stacked.validation import Validation
from flows.records.journal import Journal

CPU = torch.device("cpu")
PRODUCTS = {"bmm", "baddbmm", "matmul"}


@dataclass(frozen=True)
class Setting:
    """One sweep.

    Attributes:
        name: in the table.
        trials: trained stacked; `alone` of them are trained one by one in a turn.
        epochs: of each stacked trial; the others have `epochs_alone`.
        width: most trials in a block.
        threads: of torch for the ordinary loop, as the experiment's `trainer.threads`; 0 is torch's choice.
        goal: the largest ratio that is good, of stacked with all cores to one by one.
    """

    name: str
    features: int
    hidden: tuple[int, ...]
    batch_size: int
    examples: int
    validation: int
    optimizers: tuple[Optimizer, ...]
    schedule: Schedule
    dropout: float = 0.0
    label_smoothing: float = 0.0
    trials: int = 32
    alone: int = 8
    epochs: int = 30
    epochs_alone: int = 4
    width: int = 0
    threads: int = 0
    goal: float | None = None


MIXED = (GradientDescent(), Momentum(), Nesterov(), Adagrad(), Adadelta(), RMSprop(), Adam(), AdamW())
DIGITS = Setting("MLP 64-64-64-10, batch 32", 64, (64, 64), 32, 1257, 180, MIXED, Constant(), threads=1, goal=1 / 8)
MNIST = Setting(
    "MLP 784-512-10 with dropout, batch 64", 784, (512,), 64, 4000, 500, (AdamW(weight_decay=0.1),), Cosine(),
    dropout=0.5, label_smoothing=0.1, trials=8, alone=2, epochs=4, epochs_alone=2, width=4, goal=1 / 1.8,
)  # fmt: skip
DEEP = Setting(
    "MLP 784-256×5-10, batch 64", 784, (256,) * 5, 64, 4000, 500, (Adam(),), Constant(),
    trials=8, alone=2, epochs=4, epochs_alone=2, width=4,
)  # fmt: skip


class Sweep:
    """The trials of a setting, made anew for every turn, each with a journal."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.split = Synthetic(Data("training", setting.features, (), setting.batch_size, setting.examples))
        held_out = Synthetic(Data("validation", setting.features, (), setting.batch_size, setting.validation))
        self.validation = Batches(held_out, batch_size=500, seed=0, shuffle=False)
        self.objective = Classification(
            classes=CLASSES, class_names=[str(name) for name in range(CLASSES)], label_smoothing=setting.label_smoothing
        )
        self.steps_per_epoch = -(-setting.examples // setting.batch_size)

    @contextmanager
    def trials(self, count: int, epochs: int) -> Iterator[list[StackedTrial]]:
        """`count` trials with one rule after the other."""
        setting = self.setting
        with tempfile.TemporaryDirectory() as folder, ExitStack() as journals:
            yield [
                StackedTrial(
                    name=str(seed),
                    model=self._model(seed),
                    objective=self.objective,
                    optimizer=setting.optimizers[seed % len(setting.optimizers)],
                    schedule=setting.schedule,
                    batches=Batches(self.split, batch_size=setting.batch_size, seed=seed, shuffle=True),
                    settings=Trainer(epochs=epochs, batch_size=setting.batch_size),
                    recorder=journals.enter_context(Journal(Path(folder) / str(seed))),
                    seed=seed,
                )
                for seed in range(count)
            ]

    def _model(self, seed: int) -> nn.Module:
        setting = self.setting
        model = MLP(input_shape=[setting.features], classes=CLASSES, hidden=setting.hidden, activation=nn.ReLU, dropout=setting.dropout)
        HeUniform().initialize(model, activation=nn.ReLU(), generator=torch.Generator().manual_seed(seed))
        return model

    def one_by_one(self) -> float:
        """Seconds a step."""
        setting = self.setting
        with self.trials(setting.alone, setting.epochs_alone) as trials:
            began = time.perf_counter()
            for trial in trials:
                fit(
                    trial.model,
                    trial.objective,
                    trial.batches,
                    self.validation,
                    optimizer=trial.optimizer,
                    schedule=trial.schedule,
                    settings=trial.settings,
                    device=CPU,
                    recorder=trial.recorder,
                )
            return (time.perf_counter() - began) / setting.alone / setting.epochs_alone / self.steps_per_epoch

    def stacked(self, lanes: int) -> float:
        """Seconds a step and trial."""
        setting = self.setting
        with self.trials(setting.trials, setting.epochs) as trials:
            began = time.perf_counter()
            fit_stacked(trials, self.validation, device=CPU, width=setting.width, lanes=lanes)
            return (time.perf_counter() - began) / setting.trials / setting.epochs / self.steps_per_epoch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads for torch; 0 leaves its choice."""
    before = torch.get_num_threads()
    configure(threads=count, deterministic=True)
    try:
        yield
    finally:
        configure(threads=before, deterministic=False)


class Processes:
    """Processes that each train a stack of their own, in one lane."""

    def __init__(self, setting: Setting, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=work, args=(setting, there), daemon=True)
            process.start()
            self._workers.append((process, here))
        self.run()  # imports, and the first steps

    def run(self) -> float:
        """Seconds a step and trial of all of them together."""
        for _, pipe in self._workers:
            pipe.send(True)
        return 1 / sum(1 / pipe.recv() for _, pipe in self._workers)

    def end(self) -> None:
        """Let them go."""
        for process, pipe in self._workers:
            pipe.send(False)
            process.join()


def work(setting: Setting, pipe: Connection) -> None:
    """Train a stack as often as one is asked for; says seconds a step and trial."""
    sweep = Sweep(setting)
    while pipe.recv():
        with threads(1):
            pipe.send(sweep.stacked(1))


def in_turns(setting: Setting, turns: int, cores: int) -> dict[str, tuple[list[float], list[float]]]:
    """Way → seconds a step and trial stacked, and one by one in the same turn. The first turn warms up."""
    sweep, processes = Sweep(setting), Processes(setting, cores)
    ways: dict[str, Callable[[], float]] = {_many(lanes, "lane"): partial(sweep.stacked, lanes) for lanes in sorted({1, cores})}
    ways[_many(cores, "process")] = processes.run
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
    try:
        for turn in range(turns + 1):
            with threads(setting.threads):
                alone = sweep.one_by_one()
            for way, run in ways.items():
                with threads(1):
                    together = run()
                if turn:
                    found[way][0].append(together)
                    found[way][1].append(alone)
    finally:
        processes.end()
    return found


# ---------------------------------------------------------------------- where the time goes


class Clock:
    """Seconds by name, each without what is measured inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured."""

        def measured(*arguments: Any, **keywords: Any) -> Any:
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                taken = time.perf_counter() - began
                self.seconds[name] += taken - self._inside.pop()
                self._inside[-1] += taken

        return measured


WATCHED: dict[str, tuple[type[Any], str]] = {
    "updates": (Block, "_update"),
    "binding programs to memory": (Block, "_bound"),
    "curves and diagnostics": (Block, "_eventful_step"),
    "validation": (Validation, "metrics"),
    "dropout's masks": (Masks, "load"),
    "copying batches": (BoundStep, "run"),
}
"""Part of a stack → the method that does it."""


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """With `clock` around the parts of a stack, and around every operation of its programs."""

    def run(program: Program) -> None:
        for operation in program._operations:
            name = getattr(getattr(operation, "func", operation), "__name__", "")
            clock.around("matrix products" if name in PRODUCTS else "other operations", operation)()

    before = {(owner, method): getattr(owner, method) for owner, method in (*WATCHED.values(), (Program, "run"))}
    try:
        for name, (owner, method) in WATCHED.items():
            setattr(owner, method, clock.around(name, getattr(owner, method)))
        Program.run = run  # type: ignore[method-assign]
        yield
    finally:
        for (owner, method), function in before.items():
            setattr(owner, method, function)


def shares(setting: Setting) -> list[Row]:
    """Each part's microseconds a step and trial, and its share of all; one lane, so that parts do not overlap."""
    sweep, clock = Sweep(setting), Clock()
    with threads(1), sweep.trials(setting.trials, setting.epochs) as trials, watched(clock):
        clock.around("fetching examples and the rest", fit_stacked)(trials, sweep.validation, device=CPU, width=setting.width, lanes=1)
    steps = setting.trials * setting.epochs * sweep.steps_per_epoch
    whole = sum(clock.seconds.values())
    return [
        Row(f"stacked: {setting.name}: {name}", seconds / steps * 1e6, whole / steps * 1e6, share, (share, share), "µs/step", "ratio")
        for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])
        for share in (seconds / whole,)
    ]


def measure(*, turns: int = 7, settings: tuple[Setting, ...] = (DIGITS, MNIST, DEEP)) -> list[Row]:
    """Rows of the ratios for every way; then of the shares."""
    cores = torch.get_num_threads()
    rows: list[Row] = []
    for setting in settings:
        for threads_alone in sorted({1, setting.threads or cores}):
            found = in_turns(replace(setting, threads=threads_alone), turns, cores)
            for way, (together, alone) in found.items():
                is_goal = way == _many(cores, "process") and threads_alone == (setting.threads or cores)
                title = f"stacked: {setting.name}, {way} against {_many(threads_alone, 'thread')}"
                rows.append(ratio(title, together, alone, unit="µs/step", scale=1e6, goal=setting.goal if is_goal else None))
    return rows + list(itertools.chain.from_iterable(shares(setting) for setting in settings))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"
