"""What our training loop costs over the shortest one a person would write.

Both train the same MLP on the same synthetic examples in one process, in turns: every `BLOCK` optimizer steps `fit` asks whether to
stop, and the other loop runs its `BLOCK` steps there. So whatever the machine does meanwhile happens to both, and even a busy machine
gives a ratio that repeats. Ours is complete: journal, a point every 50 steps, gradients and saturation by layer every 200,
checkpoints every 10 s and at the end. The hand-written loop does not even look at its loss.

The median ratio over blocks is the loop's own cost; blocks with a checkpoint in them are in the totals, which are shown as well.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.report import Row, quartiles, ratio
from components.data.batches import Batches
from components.models.mlp import MLP
from components.objectives.classification import Classification
from components.optimizers import Adam
from components.protocols import Batch
from components.schedules import Constant
from components.training.checkpoint import Checkpoints
from components.training.loop import fit
from components.training.settings import Trainer
from flows.records.journal import Journal

BLOCK = 125
"""Optimizer steps in one turn; a divisor of the 3,125 of an epoch."""
CLASSES = 10
GOAL = 1.03


@dataclass(frozen=True)
class Setting:
    """One toy problem: its name in the table, features, hidden widths, batch size and number of examples."""

    name: str
    features: int
    hidden: tuple[int, ...]
    batch_size: int
    examples: int


SMALL = Setting("MLP 32-64-64-10, batch 32", 32, (64, 64), 32, 100_000)
LARGER = Setting("MLP 784-256-128-10, batch 64", 784, (256, 128), 64, 64_000)


class Synthetic:
    """Random examples as a split."""

    lengths = None

    def __init__(self, setting: Setting) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(setting.examples, setting.features, generator=generator)
        self.targets = torch.randint(CLASSES, (setting.examples,), generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — nothing is augmented
        """`inputs` (B, D) float32, `targets` (B,) int64, `index` (B,) int64: the two operations that every split of images does."""
        return {"inputs": self.inputs.index_select(0, index), "targets": self.targets.index_select(0, index), "index": index}


def by_hand(setting: Setting, data: Synthetic, fused: bool | None) -> Iterator[None]:
    """The shortest loop, stopping after every `BLOCK` steps to let the other one run."""
    model, inputs, targets = network(setting), data.inputs, data.targets
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=fused)
    steps = itertools.count(1)
    while True:
        for index in torch.split(torch.randperm(len(targets)), setting.batch_size):
            loss = F.cross_entropy(model(inputs[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if next(steps) % BLOCK == 0:
                yield


def network(setting: Setting) -> nn.Module:
    """The same model with the same weights every time."""
    torch.manual_seed(0)
    return MLP(input_shape=[setting.features], classes=CLASSES, hidden=setting.hidden, activation=nn.ReLU)


def in_turns(
    setting: Setting, *, steps: int, fused: bool | None, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Seconds of each block of ours and of the hand-written loop's. The last of ours also has the end: the last checkpoint."""
    data = Synthetic(setting)
    other = by_hand(setting, data, fused)
    next(other)  # torch's first steps choose kernels and start threads
    ours: list[float] = []
    theirs: list[float] = []
    done = itertools.count(1)
    began = 0.0

    def turn() -> bool:
        nonlocal began
        if next(done) % BLOCK == 0:
            ended = clock()
            ours.append(ended - began)
            next(other)
            began = clock()
            theirs.append(began - ended)
        return False

    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        model = network(setting)
        batches = Batches(data, batch_size=setting.batch_size, seed=0, shuffle=True)
        began = clock()
        fit(
            model,
            Classification(classes=CLASSES, class_names=[str(name) for name in range(CLASSES)]),
            batches,
            None,
            optimizer=Adam(learning_rate=0.001),
            schedule=Constant(),
            settings=Trainer(epochs=-(-steps // batches.steps_per_epoch), batch_size=setting.batch_size, max_steps=steps),
            device=torch.device("cpu"),
            recorder=journal,
            checkpoints=Checkpoints(Path(folder) / "checkpoints"),
            stopping=turn,
        )
        ours[-1] += clock() - began
    return ours, theirs


def measure(*, steps: int = 3 * 3125, settings: tuple[Setting, ...] = (SMALL, LARGER)) -> list[Row]:
    """Rows for each setting: one thread against the same and the default optimizer, and torch's own number of threads."""
    rows: list[Row] = []
    before = torch.get_num_threads()
    try:
        for setting, threads, (flags, fused) in itertools.product(
            settings, sorted({1, before}), (("same optimizer", True), ("torch's default", None))
        ):
            if threads > 1 and fused is None:
                continue
            torch.set_num_threads(threads)
            ours, theirs = in_turns(setting, steps=steps, fused=fused)
            title = f"loop: {setting.name}, {threads} thread{'s' * (threads > 1)}, {flags}"
            rows.append(ratio(title, ours, theirs, unit="µs/step", scale=1e6 / BLOCK, goal=GOAL))
            if threads == 1 and fused:
                ours, theirs = in_turns(setting, steps=steps, fused=fused, clock=time.process_time)
                total = (sum(ours) / len(ours) / BLOCK * 1e6, sum(theirs) / len(theirs) / BLOCK * 1e6)
                pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
                rows.append(
                    Row(
                        f"{title}, processor time, checkpoint included",
                        *total,
                        total[0] / total[1],
                        quartiles(pairs),
                        "µs/step",
                        "ratio",
                        GOAL,
                    )
                )
    finally:
        torch.set_num_threads(before)
    return rows
