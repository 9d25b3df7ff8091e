"""What does not learn is computed once: everything below a head, of every example, kept in a file.

For a model whose parts below `head` are all frozen, what the head reads is the same in every epoch, and under every seed. It is computed
with the first training that needs it, and read by all that follow.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from components.data.batches import Batches
from components.data.durable import publish, scratch
from components.protocols import Batch, Split
from components.training.checkpoint import weights_sha256
from components.training.device import to_device

BATCH = 256
GIVEN = ("inputs", "lengths", "segments", "places")
"""What of a batch `features` is given."""


def below_head_is_frozen(model: nn.Module, frozen: Sequence[str]) -> bool:
    """Whether the model says what its head reads (`features`), and nothing but the head is to learn."""
    if not inspect.ismethod(getattr(model, "features", None)) or not isinstance(getattr(model, "head", None), nn.Module):
        return False
    names = [name for name, _ in model.named_parameters() if not name.startswith("head.")]
    return bool(frozen) and all(any(name.startswith(f"{part}.") for part in frozen) for name in names)


class FeatureSplit:
    """A split whose `inputs` are what the model's head reads: (B, D), or (B, T, D) with zeros behind each example's end.

    Args:
        split: the examples as they are.
        values: (N, D), or (M, D) all examples' places one after the other.
        bounds: (N + 1,) where each example's places end; None where there is one row an example.
    """

    def __init__(self, split: Split, values: Tensor, bounds: Tensor | None) -> None:
        self.split, self.values, self.bounds = split, values, bounds

    @property
    def lengths(self) -> Tensor | None:
        """Those of the split."""
        return self.split.lengths

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:
        """The split's batch, with features for `inputs`."""
        batch = self.split.batch(index, generator)
        if self.bounds is None:
            return batch | {"inputs": self.values[index]}
        rows = [self.values[begin:end] for begin, end in zip(self.bounds[index].tolist(), self.bounds[index + 1].tolist(), strict=True)]
        return batch | {"inputs": nn.utils.rnn.pad_sequence(rows, batch_first=True)}


def compute_once(model: nn.Module, split: Split, *, of: str, folder: Path, device: torch.device) -> FeatureSplit:
    """The split with the model's features, from the file where they are kept, or computed now and kept there.

    Args:
        model: in any mode; it is left in evaluation mode.
        split: the examples, which are not augmented.
        of: what the split's content is known by (the data's fingerprint and the split's name).
        folder: where files are kept.
        device: where to compute.

    Raises:
        DataError: the disk is full.
    """
    weights = weights_sha256({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")})
    how = f"{type(model).__qualname__} {getattr(model, 'predicts', '')} {getattr(model, 'pool', '')}"
    path = folder / f"{hashlib.sha256(f'{weights} {of} {how}'.encode()).hexdigest()[:32]}.safetensors"
    if not path.is_file():
        with scratch(folder) as unfinished:
            save_file(_computed(model.to(device).eval(), split, device), unfinished / path.name)
            publish(unfinished / path.name, path)
    try:
        kept = load_file(path)
    except SafetensorError:
        path.unlink()
        return compute_once(model, split, of=of, folder=folder, device=device)
    return FeatureSplit(split, kept["values"], kept.get("bounds"))


def _computed(model: nn.Module, split: Split, device: torch.device) -> dict[str, Tensor]:
    rows: list[Tensor] = [torch.empty(0)] * len(split)
    with torch.no_grad():
        for batch in Batches(split, batch_size=BATCH, seed=0, shuffle=False).epoch(0):
            given = to_device({key: batch[key] for key in GIVEN if key in batch}, device)
            features = model.features(**given).cpu()  # type: ignore[operator]
            for row, place in enumerate(batch["index"].tolist()):
                own = features[row]
                rows[place] = own[: int(batch["lengths"][row])] if own.ndim > 1 and "lengths" in batch else own
    if rows[0].ndim == 1:
        return {"values": torch.stack(rows)}
    lengths = torch.tensor([len(row) for row in rows])
    return {"values": torch.cat(rows), "bounds": torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])}
