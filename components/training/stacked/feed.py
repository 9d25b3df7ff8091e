"""The batches of T trials: one for all where their order is the same, else each trial its own, side by side.

The order of the examples follows from a trial's seed and epoch (`components.data.batches`), and a trial in a stack sees exactly the
batches that it would see alone. Trials with the same order get one batch without T, so that what is the same for all is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from components.data.batches import Batches
from components.data.tokens import PAD
from components.protocols import Batch
from components.training.evaluation import BatchSource

LENGTHS = 8


def shared(sources: Sequence[BatchSource], epochs: Sequence[int]) -> bool:
    """Whether all trials see the same batches in these epochs of theirs."""
    if len(set(epochs)) > 1:
        return False
    first = sources[0]
    return all(
        source is first or (isinstance(source, Batches) and isinstance(first, Batches) and _same(source, first)) for source in sources
    )


def feed(sources: Sequence[BatchSource], epochs: Sequence[int], *, first: int) -> Iterator[tuple[Batch, bool]]:
    """The batches of each trial's epoch from batch `first` on, and whether they are one for all (B, …) or (T, B, …).

    Args:
        sources: each trial's, all with as many batches of the same shapes.
        epochs: each trial's epoch.
        first: batches of the epoch to leave out.
    """
    if shared(sources, epochs):
        for batch in sources[0].epoch(epochs[0], first=first):
            yield _rounded(batch, sources[0]), True
    elif all(isinstance(source, Batches) and _plain(source) and source.split is sources[0].split for source in sources):  # type: ignore[attr-defined]
        yield from ((batch, False) for batch in _gathered(sources, epochs, first))  # type: ignore[arg-type]
    else:
        for batches in zip(*(source.epoch(epoch, first=first) for source, epoch in zip(sources, epochs, strict=True)), strict=True):
            yield {key: torch.stack([batch[key] for batch in batches]) for key in batches[0]}, False


def _rounded(batch: Batch, source: BatchSource) -> Batch:
    """A batch of texts padded to a multiple of LENGTHS: every length that occurs is a program of its own, which takes a while to bind."""
    lengths = source.split.lengths if isinstance(source, Batches) else None
    if lengths is None or [key for key, value in batch.items() if value.ndim > 1] != ["inputs"]:
        return batch
    inputs = batch["inputs"]
    length = min(-(-inputs.shape[1] // LENGTHS) * LENGTHS, int(lengths.max()))
    return batch | {"inputs": nn.functional.pad(inputs, (0, max(0, length - inputs.shape[1])), value=PAD)}


def _gathered(sources: Sequence[Batches], epochs: Sequence[int], first: int) -> Iterator[Batch]:
    """All trials' examples fetched at once."""
    serve, trials = sources[0].split.batch, len(sources)
    orders = torch.stack([torch.cat(source.order(epoch)) for source, epoch in zip(sources, epochs, strict=True)])  # (T, N)
    for index in torch.split(orders, sources[0].batch_size, dim=1)[first:]:
        yield {key: _unfolded(value, trials) for key, value in serve(index.reshape(-1)).items()}


def _unfolded(value: Tensor, trials: int) -> Tensor:
    return value.view(trials, -1, *value.shape[1:])  # (T·B, …) → (T, B, …)


def _plain(source: Batches) -> bool:
    """Whether a batch follows from its indices alone, in any company."""
    return source.split.lengths is None and not (source.shuffle and getattr(source.split, "augments", False))


def _same(one: Batches, other: Batches) -> bool:
    return one.split is other.split and (one.seed, one.shuffle, one.batch_size, one.drop_last) == (
        other.seed,
        other.shuffle,
        other.batch_size,
        other.drop_last,
    )
