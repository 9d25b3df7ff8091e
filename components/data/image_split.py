"""Prepared images: one file of pixels, classes and rows of each split, and its examples served as batches.

`images.safetensors` holds `pixels` (N, C, H, W) uint8 in the source's own order, `targets` (N,) int64, and for each split its rows,
so what is in which split is stored and not computed again. Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from components.data.pictures import normalised, read_inputs
from components.protocols import Batch, Split

FILE = "images.safetensors"
RESIDENT_BYTES = 512 * 2**20
"""A split whose inputs are at most this large as float32 is kept so in memory; a larger one is converted batch by batch."""
CHUNK = 4096


class ImageSplit:
    """Images with one class each."""

    def __init__(
        self,
        pixels: Tensor,
        targets: Tensor,
        rows: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        """The examples `rows` of `pixels`.

        Args:
            pixels: (N, C, H, W) uint8, all images; may be memory-mapped.
            targets: (N,) int64 classes of all images.
            rows: (n,) int64, this split's rows.
            mean: of each channel, with 255 as 1.
            std: of each channel, with 255 as 1.
            class_names: name of class 0, 1 …
            resident_bytes: up to this size the inputs are kept as float32.
        """
        self.rows, self.mean, self.std, self.class_names = rows, tuple(mean), tuple(std), tuple(class_names)
        self.targets = targets.index_select(0, rows)
        self.resident = rows.numel() * pixels[:1].numel() * 4 <= resident_bytes
        self._pixels = pixels

    @property
    def lengths(self) -> None:
        """Images of one data set are all of one size."""
        return None

    @cached_property
    def inputs(self) -> Tensor:
        """All inputs (n, C, H, W) float32, normalised; made when first asked for, so that a split nobody reads costs nothing."""
        return normalised(self._pixels.index_select(0, self.rows), self.mean, self.std)

    def __len__(self) -> int:
        return self.rows.numel()

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — images are not augmented
        """`inputs` (B, C, H, W) float32 normalised, `targets` (B,) int64, `index` (B,) int64."""
        if self.resident:
            inputs = self.inputs.index_select(0, index)
        else:
            inputs = normalised(self._pixels.index_select(0, self.rows.index_select(0, index)), self.mean, self.std)
        return {"inputs": inputs, "targets": self.targets.index_select(0, index), "index": index}

    def picture(self, place: int) -> Tensor:
        """Example `place` to look at: (H, W) grey or (H, W, 3) RGB, uint8, as it was before normalisation."""
        pixels = self._pixels[int(self.rows[place])]
        return pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)


class ImageData:
    """What every data set has whose folder `write_images` wrote."""

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder; pixels are memory-mapped."""
        facts = card["facts"]
        with safe_open(folder / FILE, framework="pt") as file:
            pixels, targets = file.get_tensor("pixels"), file.get_tensor("targets")
            rows = {name: file.get_tensor(name) for name in card["counts"]}
        known = {key: facts[key] for key in ("mean", "std", "class_names")}
        return {name: ImageSplit(pixels, targets, of, **known) for name, of in rows.items()}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A picture file that is not in the data, as a batch of one without `targets`, brought to size and normalised by `facts`.

        Raises:
            DataError: the file cannot be read.
        """
        return {"inputs": read_inputs(Path(given).expanduser(), facts), "index": torch.zeros(1, dtype=torch.int64)}


def write_images(
    into: Path, *, pixels: Tensor, targets: Tensor, rows: Mapping[str, Tensor], class_names: Sequence[str], fit: str
) -> dict[str, Any]:
    """Write a prepared folder's file; returns the part of the data card that follows from it: `counts` and `facts`.

    Args:
        into: the folder.
        pixels: (N, C, H, W) uint8.
        targets: (N,) int64 in 0..len(class_names)-1.
        rows: each split's rows (n,) int64; `train` decides mean and deviation.
        class_names: name of class 0, 1 …
        fit: how a picture of other proportions is to be brought to size (see `pictures`); here it is only noted.
    """
    save_file({"pixels": pixels, "targets": targets, **rows}, into / FILE)
    mean, std = moments(pixels, rows["train"])
    classes = len(class_names)
    counts = {name: torch.bincount(targets[of], minlength=classes).tolist() for name, of in rows.items()}
    return {
        "counts": {name: {"examples": sum(count), "classes": dict(zip(class_names, count, strict=True))} for name, count in counts.items()},
        "facts": {
            "input_shape": list(pixels.shape[1:]),
            "classes": classes,
            "class_names": list(class_names),
            "mean": mean,
            "std": std,
            "fit": fit,
        },
    }


def moments(pixels: Tensor, rows: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over `rows`, with 255 as 1; from counts of values, so exact in any order.

    A channel that is the same everywhere gets the deviation 1, so that it becomes 0 everywhere.
    """
    channels = pixels.shape[1]
    histogram = torch.zeros(channels, 256, dtype=torch.float64)
    for part in torch.split(rows, CHUNK):
        images = pixels.index_select(0, part)
        for channel in range(channels):
            histogram[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
    share = histogram / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return mean.tolist(), std.tolist()
