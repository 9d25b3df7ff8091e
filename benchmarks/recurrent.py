"""What training the LSTM classifier costs over a loop by hand on `torch.nn.LSTM`, and what the explicit form costs over the fused.

As in `loop`: one process, in turns of `BLOCK` steps, so that whatever the machine does meanwhile happens to both. Texts have 10 to
40 tokens and are packed by both sides. The explicit form is compared with the fused one as it is and under `torch.compile` (without
packing, which the compiler cannot look into; it is left out, and said so, where there is no C++ compiler).
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.report import Row, quartiles, ratio
from components.data.batches import Batches
from components.models.lstm import LSTM
from components.objectives.sequence_classification import SequenceClassification
from components.optimizers import Adam
from components.protocols import Batch
from components.schedules import Constant
from components.training.checkpoint import Checkpoints
from components.training.loop import fit
from components.training.settings import Trainer
from flows.records.journal import Journal

BLOCK = 20
"""Optimizer steps in one turn."""
VOCABULARY, EMBEDDING, HIDDEN, BATCH, LONGEST = 8000, 100, 104, 32, 40
"""As in the experiment lstm_reviews."""
GOAL = 1.03
EXPLICIT_GOAL = 4.0


class Synthetic:
    """Random texts as a split."""

    lengths = None

    def __init__(self, examples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(4, VOCABULARY, (examples, LONGEST), generator=generator)
        self.sizes = torch.randint(10, LONGEST + 1, (examples,), generator=generator)
        self.targets = torch.randint(2, (examples,), generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — nothing is augmented
        """`inputs` (B, T) int64, `lengths` (B,), `targets` (B,), `index` (B,)."""
        return {"inputs": self.inputs[index], "lengths": self.sizes[index], "targets": self.targets[index], "index": index}


class ByHand(nn.Module):
    """The shortest LSTM classifier a person would write."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) → (B, 2)."""
        packed = pack_padded_sequence(self.embed(inputs), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        logits: Tensor = self.head(last[-1])
        return logits


def network(kernel: str) -> LSTM:
    """Ours, with the same weights every time."""
    torch.manual_seed(0)
    return LSTM(vocabulary_size=VOCABULARY, classes=2, embedding=EMBEDDING, hidden=HIDDEN, kernel=kernel, activation=nn.Tanh)  # type: ignore[arg-type]


def by_hand(data: Synthetic) -> Iterator[None]:
    """The loop written by hand, stopping after every `BLOCK` steps to let the other one run."""
    torch.manual_seed(0)
    model = ByHand()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    steps = itertools.count(1)
    while True:
        for index in torch.split(torch.randperm(len(data)), BATCH):
            loss = F.cross_entropy(model(data.inputs[index], data.sizes[index]), data.targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if next(steps) % BLOCK == 0:
                yield


def in_turns(*, steps: int, clock: Callable[[], float] = time.process_time) -> tuple[list[float], list[float]]:
    """Seconds of each block of our training and of the hand-written loop's; the last of ours also has the last checkpoint."""
    data = Synthetic(100 * BATCH)
    other = by_hand(data)
    next(other)
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
        batches = Batches(data, batch_size=BATCH, seed=0, shuffle=True)
        model, objective = network("fused"), SequenceClassification(classes=2, class_names=["no", "yes"])
        began = clock()
        fit(
            model,
            objective,
            batches,
            None,
            optimizer=Adam(learning_rate=0.001),
            schedule=Constant(),
            settings=Trainer(epochs=-(-steps // batches.steps_per_epoch), batch_size=BATCH, max_steps=steps),
            device=torch.device("cpu"),
            recorder=journal,
            checkpoints=Checkpoints(Path(folder) / "checkpoints"),
            stopping=turn,
        )
        ours[-1] += clock() - began
    return ours, theirs


Form = Callable[..., Tensor]


def forms(models: tuple[Form, Form], *, packed: bool, repetitions: int) -> tuple[list[float], list[float]]:
    """Seconds of a forward and backward pass of each of two forms, in turns; the first pass of each, which may compile, is not counted."""
    data = Synthetic(BATCH)
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 1):
        for model, taken in zip(models, times, strict=True):
            began = time.process_time()
            loss = F.cross_entropy(model(data.inputs, data.sizes if packed else None), data.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if repetition:
                taken.append(time.process_time() - began)
    return times


def measure(*, steps: int = 30 * BLOCK, repetitions: int = 30, compiled: bool = True) -> list[Row]:
    """Rows: our fused training against a loop by hand; explicit against fused; explicit under torch.compile against fused and plain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    title = f"recurrent: LSTM {EMBEDDING}-{HIDDEN}, batch {BATCH}, processor time"
    try:
        ours, theirs = in_turns(steps=steps)
        pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        means = (statistics.fmean(ours) / BLOCK * 1e3, statistics.fmean(theirs) / BLOCK * 1e3)
        rows = [
            ratio(f"{title}, training against a loop by hand", ours, theirs, unit="ms/step", scale=1e3 / BLOCK, goal=GOAL),
            Row(f"{title}, the same, checkpoint included", *means, means[0] / means[1], quartiles(pairs), "ms/step", "ratio", GOAL),
        ]
        fused, explicit = network("fused"), network("explicit")
        times = forms((explicit, fused), packed=True, repetitions=repetitions)
        rows.append(ratio(f"{title}, explicit against fused, packed", *times, unit="ms", scale=1e3, goal=EXPLICIT_GOAL))
        times = forms((explicit, fused), packed=False, repetitions=repetitions)
        rows.append(ratio(f"{title}, explicit against fused, full length", *times, unit="ms", scale=1e3, goal=EXPLICIT_GOAL))
        if compiled and (shutil.which("g++") or shutil.which("clang++")):
            times = forms((torch.compile(explicit), fused), packed=False, repetitions=repetitions)
            rows.append(ratio(f"{title}, compiled explicit against fused, full length", *times, unit="ms", scale=1e3))
        elif compiled:
            print("torch.compile is left out: there is no C++ compiler here")
    finally:
        torch.set_num_threads(before)
    return rows
