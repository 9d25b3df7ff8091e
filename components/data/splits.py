"""Dividing examples into training, validation and test, so that every class is in each of them in its own proportion."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def stratified(targets: Tensor, take: Mapping[str, int], *, seed: int) -> dict[str, Tensor]:
    """Rows of each split, drawn class by class.

    A class gives each split its share, rounded so that the totals are as asked for (largest remainders), but at least one example
    of every class to every split, so tiny classes can make a split slightly larger. Which examples are drawn depends only on seed
    and row: they are ranked by SHA-256, which no library's next version will change.

    Args:
        targets: (N,) int64 classes.
        take: how many examples each named split takes; the others are `train`.
        seed: ≥ 0.

    Returns:
        `train` and every name of `take`: (n,) int64 rows, ascending; together each row of 0..N-1 once.

    Raises:
        ValueError: a class has fewer examples than there are splits, or the splits take everything.
    """
    if sum(take.values()) >= len(targets):
        raise ValueError(f"the splits take {sum(take.values()):,} of {len(targets):,} examples: none is left to train on")
    members = [torch.nonzero(targets == label).flatten().tolist() for label in sorted(set(targets.tolist()))]
    if min(len(rows) for rows in members) <= len(take):
        raise ValueError(f"every class needs at least {len(take) + 1} examples, one for each split")
    ranked = [sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest()) for rows in members]
    splits: dict[str, list[int]] = {}
    for place, (name, size) in enumerate(take.items()):
        reserve = len(take) - place  # one example of every class for each later split, training among them
        counts = _allot([len(rows) for rows in members], [len(rows) - reserve for rows in ranked], size)
        splits[name] = [row for rows, count in zip(ranked, counts, strict=True) for row in rows[:count]]
        ranked = [rows[count:] for rows, count in zip(ranked, counts, strict=True)]
    splits["train"] = [row for rows in ranked for row in rows]
    return {name: torch.tensor(sorted(splits[name]), dtype=torch.int64) for name in ["train", *take]}


def _allot(sizes: list[int], available: list[int], take: int) -> list[int]:
    """How many of each class a split of `take` gets: in proportion to `sizes`, from 1 to `available` of each."""
    shares = [take * size / sum(sizes) for size in sizes]
    counts = [min(max(1, int(share)), most) for share, most in zip(shares, available, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda place: (counts[place] - shares[place], place))
    while sum(counts) < take and any(count < most for count, most in zip(counts, available, strict=True)):
        for place in by_remainder:
            if sum(counts) < take and counts[place] < available[place]:
                counts[place] += 1
    return counts
