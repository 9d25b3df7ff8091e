"""The order of the examples: which are in which batch, as a pure function of seed, epoch and step.

So a sampler has no state: its position is two numbers, and a training that starts again in the middle of an epoch sees exactly the
batches it would have seen. Where examples have lengths, batches hold examples of like length (little padding) in shuffled order.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from components.protocols import Batch, Split

POOL = 64
"""Batches a pool of shuffled examples gives; examples are sorted by length within a pool, so neighbours still vary by epoch."""


def derived_seed(*parts: int | str) -> int:
    """A seed in 0..2⁶³-1 that is a pure function of its parts and unrelated to that of any other parts."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class Batches:
    """A split as epochs of batches."""

    def __init__(self, split: Split, *, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False) -> None:
        """How to go through a split.

        Args:
            split: the examples. One that augments has a true attribute `augments`, and is then given a generator when shuffled.
            batch_size: ≥ 1; the last batch of an epoch is smaller where the split is no multiple of it.
            seed: decides order and augmentation of every epoch.
            shuffle: another order every epoch, and augmentation (training); otherwise always the same, and none (evaluation).
            drop_last: leave out the last, smaller batch; when shuffled, other examples every epoch.

        Raises:
            ValueError: the split is empty, or smaller than one batch that may not be smaller.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if len(split) < (batch_size if drop_last else 1):
            raise ValueError(f"{len(split)} examples make no batch of {batch_size}")
        self.split, self.batch_size, self.seed, self.shuffle, self.drop_last = split, batch_size, seed, shuffle, drop_last

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return len(self.split) // self.batch_size if self.drop_last else math.ceil(len(self.split) / self.batch_size)

    def epoch(self, number: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` (from 0), from batch `first` (from 0) on."""
        serve = self.split.batch
        indices = self.order(number)[first:]
        if self.shuffle and getattr(self.split, "augments", False):
            generator = torch.Generator()
            for step, index in enumerate(indices, first):
                yield serve(index, generator.manual_seed(derived_seed("augmentation", self.seed, number, step)))
        else:
            for index in indices:
                yield serve(index)

    def order(self, number: int) -> tuple[Tensor, ...]:
        """The indices (B,) int64 of every batch of epoch `number`; every example is in at most one of them."""
        size, count = self.batch_size, len(self.split)
        generator = torch.Generator().manual_seed(derived_seed("order", self.seed, number))
        places = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        if self.drop_last:
            places = places[: count - count % size]
        lengths = self.split.lengths
        if lengths is None:
            return torch.split(places, size)
        if not self.shuffle:
            return torch.split(places[lengths[places].argsort(stable=True)], size)
        pools = [pool[lengths[pool].argsort(stable=True)] for pool in torch.split(places, POOL * size)]
        batches = [batch for pool in pools for batch in torch.split(pool, size)]
        last = batches[-1:] if len(batches[-1]) < size else []  # the smaller batch stays last
        full = batches[: len(batches) - len(last)]
        return (*(full[place] for place in torch.randperm(len(full), generator=generator).tolist()), *last)
