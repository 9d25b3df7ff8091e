"""Two made-up problems that ask for memory over a gap (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016): adding and copying.

Everything is drawn from a seed, so there is nothing to download and nothing to store but the numbers themselves.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.batches import derived_seed
from components.data.text_stream import IGNORED
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "sequences.safetensors"


class SequenceSplit:
    """Sequences of one length, whatever their targets."""

    lengths = None

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — nothing is augmented
        """`inputs` (B, T, …), `targets` (B, …), `index` (B,)."""
        return {"inputs": self.inputs[index], "targets": self.targets[index], "index": index}


@dataclass(frozen=True, kw_only=True)
class _MadeUp:
    """What both share.

    Attributes:
        gap: what has to be remembered lies this many steps back, or further.
        train, validation, test: examples of each split.
        split_seed: decides all numbers.
    """

    gap: Annotated[int, Ge(2)] = 200
    train: Annotated[int, Ge(1)] = 10_000
    validation: Annotated[int, Ge(1)] = 500
    test: Annotated[int, Ge(1)] = 1000
    split_seed: Annotated[int, Ge(0)] = 0

    name: ClassVar[str]

    def recipe(self) -> dict[str, Any]:
        """Every setting."""
        return {"name": self.name, "format": 1, "sources": [], **asdict(self)}

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors = load_file(folder / FILE)
        return {name: SequenceSplit(tensors[f"{name}.inputs"], tensors[f"{name}.targets"]) for name in card["counts"]}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:  # noqa: ARG002 — nothing can be given
        """A made-up problem takes nothing from a person."""
        raise DataError(f"{given[:40]}: {self.name} is a made-up problem, whose models take nothing that a person could write")

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — it is made here
        """Write the prepared file; the data card."""
        tensors: dict[str, Tensor] = {}
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, size in sizes.items():
            generator = torch.Generator().manual_seed(derived_seed(self.name, self.split_seed, name))
            tensors[f"{name}.inputs"], tensors[f"{name}.targets"] = self.draw(size, generator)
        save_file(tensors, into / FILE)
        counts = {name: {"examples": size} for name, size in sizes.items()}
        return {"source": "made up from a seed", "licence": "none needed", "counts": counts, "facts": self.facts()}

    def draw(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` inputs and targets."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What models and objectives need to know."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Adding(_MadeUp):
    """Numbers from 0 to 1, two of which are marked, one in each half: their sum is asked for. Who always says 1 is off by 1/6 (squared)."""

    name: ClassVar[str] = "adding"

    def draw(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Inputs (N, T, 2): the number and its mark; targets (N, 1)."""
        numbers, half = torch.rand(size, self.gap, generator=generator), self.gap // 2
        marks = torch.zeros(size, self.gap)
        for begin, end in ((0, half), (half, self.gap)):
            marks.scatter_(1, torch.randint(begin, end, (size, 1), generator=generator), 1.0)
        return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(1, keepdim=True)

    def facts(self) -> dict[str, Any]:
        """One number is asked for."""
        return {"input_shape": [self.gap, 2], "classes": 1, "predicts": "sequence"}


BLANK, RECALL, SYMBOLS = 0, 1, 8
"""Tokens of the copying problem: blank, "recall now", and from 2 on as many symbols."""


@dataclass(frozen=True, kw_only=True)
class Copying(_MadeUp):
    """Ten symbols out of eight, then a gap of blanks, then a sign: the ten are to be repeated. Without memory: ln 8 = 2.08 nats each.

    Attributes:
        symbols: how many there are to remember.
    """

    symbols: Annotated[int, Ge(1)] = 10

    name: ClassVar[str] = "copy"

    def draw(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Inputs (N, T) and targets (N, T), T = gap + 2·symbols; only the last places are asked about."""
        shown = torch.randint(2, 2 + SYMBOLS, (size, self.symbols), generator=generator)
        inputs = torch.full((size, self.gap + 2 * self.symbols), BLANK)
        inputs[:, : self.symbols] = shown
        inputs[:, -self.symbols - 1] = RECALL
        targets = torch.full_like(inputs, IGNORED)
        targets[:, -self.symbols :] = shown
        return inputs, targets

    def facts(self) -> dict[str, Any]:
        """A symbol at every place."""
        return {"vocabulary_size": 2 + SYMBOLS, "classes": 2 + SYMBOLS, "predicts": "each"}
