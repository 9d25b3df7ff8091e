"""Batches: every example once, the same order for the same seed and epoch, resumable anywhere, little padding."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from components.data.batches import Batches, derived_seed
from components.protocols import Batch


class Numbers:
    """A split of the numbers 0..count-1, with lengths or noise where asked for."""

    def __init__(self, count: int, lengths: Tensor | None = None, *, augments: bool = False) -> None:
        self.count, self.lengths, self.augments = count, lengths, augments

    def __len__(self) -> int:
        return self.count

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:
        return {"index": index, "noise": None if generator is None else torch.rand(2, generator=generator).tolist()}


def seen(batches: Batches, epoch: int, first: int = 0) -> list[tuple[list[int], Any]]:
    return [(batch["index"].tolist(), batch["noise"]) for batch in batches.epoch(epoch, first=first)]


@given(
    count=st.integers(1, 300),
    size=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
    first=st.integers(0, 40),
    shuffle=st.booleans(),
    ragged=st.booleans(),
    augments=st.booleans(),
)
def test_every_example_once_and_resume_anywhere(
    count: int, size: int, seed: int, epoch: int, first: int, shuffle: bool, ragged: bool, augments: bool
) -> None:
    lengths = torch.randint(1, 50, (count,)) if ragged else None
    split = Numbers(count, lengths, augments=augments)
    batches = Batches(split, batch_size=size, seed=seed, shuffle=shuffle)
    whole = seen(batches, epoch)
    assert sorted(place for index, _ in whole for place in index) == list(range(count))
    assert len(whole) == batches.steps_per_epoch == -(-count // size)
    assert [len(index) for index, _ in whole[:-1]] == [size] * (len(whole) - 1)
    torch.manual_seed(epoch)  # nothing depends on torch's own generator
    assert seen(Batches(split, batch_size=size, seed=seed, shuffle=shuffle), epoch, first) == whole[first:]
    assert all((noise is not None) == (shuffle and augments) for _, noise in whole)


@given(count=st.integers(1, 300), size=st.integers(1, 70), ragged=st.booleans())
def test_drop_last(count: int, size: int, ragged: bool) -> None:
    split = Numbers(count, torch.randint(1, 50, (count,)) if ragged else None)
    if count < size:
        with pytest.raises(ValueError, match="make no batch"):
            Batches(split, batch_size=size, seed=0, shuffle=True, drop_last=True)
        return
    batches = Batches(split, batch_size=size, seed=0, shuffle=True, drop_last=True)
    whole = seen(batches, 0)
    assert [len(index) for index, _ in whole] == [size] * batches.steps_per_epoch == [size] * (count // size)
    assert len({place for index, _ in whole for place in index}) == size * (count // size)


def test_orders_differ_by_epoch_and_seed_and_evaluation_keeps_the_files_order() -> None:
    batches = Batches(Numbers(100), batch_size=100, seed=0, shuffle=True)
    orders = [seen(batches, epoch)[0][0] for epoch in range(3)] + [
        seen(Batches(Numbers(100), batch_size=100, seed=1, shuffle=True), 0)[0][0]
    ]
    assert len({tuple(order) for order in orders}) == 4
    straight = Batches(Numbers(10), batch_size=4, seed=3, shuffle=False)
    assert [index for index, _ in seen(straight, 5)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_noise_is_another_at_every_step_epoch_and_seed() -> None:
    noises = [
        tuple(noise)
        for seed in (0, 1)
        for epoch in (0, 1)
        for _, noise in seen(Batches(Numbers(12, augments=True), batch_size=4, seed=seed, shuffle=True), epoch)
    ]
    assert len(set(noises)) == len(noises) == 12


def padding(split: Numbers, batches: Batches) -> float:
    """Share of positions that are padding when every batch is as long as its longest example."""
    assert split.lengths is not None
    slots = sum(int(split.lengths[index].max()) * len(index) for index in batches.order(0))
    return 1 - int(split.lengths.sum()) / slots


def test_like_lengths_go_together() -> None:
    """Lengths 1..60, batches of 32: about half is padding in random order, under 2 % in buckets; evaluation sorts all."""
    lengths = torch.randint(1, 61, (6400,), generator=Generator().manual_seed(0))
    split = Numbers(6400, lengths)
    bucketed = Batches(split, batch_size=32, seed=0, shuffle=True)
    random = sum(int(lengths[index].max()) * 32 for index in torch.randperm(6400, generator=Generator().manual_seed(1)).split(32))
    assert 1 - int(lengths.sum()) / random > 0.4
    assert padding(split, bucketed) < 0.02
    assert padding(split, Batches(split, batch_size=32, seed=0, shuffle=False)) < 0.01
    first, second = bucketed.order(0), bucketed.order(1)
    assert {tuple(index.tolist()) for index in first}.isdisjoint({tuple(index.tolist()) for index in second})
    longest = [int(lengths[index].max()) for index in first]
    assert longest != sorted(longest)


@pytest.mark.parametrize(("count", "size", "reason"), [(0, 4, "make no batch"), (4, 0, "at least 1")])
def test_what_makes_no_batches(count: int, size: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Batches(Numbers(count), batch_size=size, seed=0, shuffle=True)


def test_derived_seeds_are_pinned_and_unrelated() -> None:
    assert derived_seed("order", 1, 23) != derived_seed("order", 12, 3)
    assert derived_seed("order", 0, 0) == 8073061470549175911
