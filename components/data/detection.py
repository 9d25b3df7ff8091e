"""Prepared pictures with boxes: pixels, boxes, classes and rows of each split in one file, served as batches for detectors.

`detection.safetensors` holds `pixels` (N, C, H, W) uint8, `boxes` (M, 4) float32 and `labels` (M,) int64 and `difficult` (M,) bool of all
pictures one after the other, `boxes.bounds` (N + 1,) int64 (picture i has the boxes from bounds[i] to bounds[i + 1]), and each split's
rows. All pictures of a data set have one size, and their boxes are in pixels of that size: no model resizes.

Shapes: B batch, C channels, H height, W width, n objects of one picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Lt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from components.data.box_transforms import Augmentation
from components.data.image_split import moments
from components.data.objects import Objects
from components.data.pictures import normalised, open_picture_file, read_inputs
from components.protocols import Batch, Split

FILE = "detection.safetensors"


class DetectionSplit:
    """Pictures with any number of objects each."""

    def __init__(
        self,
        pixels: Tensor,
        objects: Objects,
        bounds: Tensor,
        rows: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
        augmentation: Augmentation | None = None,
    ) -> None:
        """The examples `rows` of `pixels`.

        Args:
            pixels: (N, C, H, W) uint8, all pictures; may be memory-mapped.
            objects: of all pictures, one after the other.
            bounds: (N + 1,) int64, where each picture's objects begin.
            rows: (n,) int64, this split's rows.
            mean, std: of each channel, with 255 as 1.
            class_names: name of class 0, 1 …
            augmentation: what is done to examples in training.
        """
        self.augmentation = augmentation or Augmentation()
        self.rows, self.mean, self.std, self.class_names = rows, tuple(mean), tuple(std), tuple(class_names)
        self._pixels, self._objects, self._bounds = pixels, objects, bounds

    @property
    def lengths(self) -> None:
        """All pictures are of one size."""
        return None

    def __len__(self) -> int:
        return self.rows.numel()

    @property
    def augments(self) -> bool:
        """Whether batches differ with the generator."""
        return bool(self.augmentation)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:
        """`inputs` (B, C, H, W) float32 normalised, lists of B `boxes` (n, 4), `labels` (n,), `difficult` (n,), and `index` (B,) int64."""
        pixels = self._pixels.index_select(0, self.rows.index_select(0, index))
        found = [self.objects(place) for place in index.tolist()]
        if generator is not None and self.augmentation:
            pairs = [self.augmentation(each, objects, generator) for each, objects in zip(pixels, found, strict=True)]
            pixels, found = torch.stack([each for each, _ in pairs]), [objects for _, objects in pairs]
        return {
            "inputs": normalised(pixels, self.mean, self.std),
            "boxes": [each.boxes for each in found],
            "labels": [each.labels for each in found],
            "difficult": [each.difficult for each in found],
            "index": index,
        }

    def objects(self, place: int) -> Objects:
        """What is in example `place`."""
        row = int(self.rows[place])
        return self._objects.at(torch.arange(int(self._bounds[row]), int(self._bounds[row + 1])))

    def picture(self, place: int) -> Tensor:
        """Example `place` to look at: (H, W) grey or (H, W, 3) RGB, uint8, as it was before normalisation."""
        pixels = self._pixels[int(self.rows[place])]
        return pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """What every data set has whose folder `write_detection` wrote, and how its training examples are augmented (see `Augmentation`).

    Attributes:
        flip: probability of mirroring left and right.
        crop: probability of cutting out a part that keeps objects.
        expand: the picture is put on a ground of up to this many times its height and width, half of the time; 1: never.
        colour: by how much at most brightness, contrast and saturation change, as a share.
    """

    flip: Annotated[float, Ge(0), Le(1)] = 0.0
    crop: Annotated[float, Ge(0), Le(1)] = 0.0
    expand: Annotated[float, Ge(1), Le(8)] = 1.0
    colour: Annotated[float, Ge(0), Lt(1)] = 0.0

    def settings(self) -> dict[str, Any]:
        """The fields that decide what is prepared: all but those of the augmentation, which happens later, and `path`."""
        later = {field.name for field in fields(DetectionData)} | {"path"}
        return {name: value for name, value in asdict(self).items() if name not in later}

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder; pixels are memory-mapped."""
        facts = card["facts"]
        with safe_open(folder / FILE, framework="pt") as file:
            pixels, bounds = file.get_tensor("pixels"), file.get_tensor("boxes.bounds")
            objects = Objects(*(file.get_tensor(name) for name in ("boxes", "labels", "difficult")))
            rows = {name: file.get_tensor(name) for name in card["counts"]}
        known = {key: facts[key] for key in ("mean", "std", "class_names")}
        augmentation = Augmentation(flip=self.flip, crop=self.crop, expand=self.expand, colour=self.colour)
        return {
            name: DetectionSplit(pixels, objects, bounds, of, **known, augmentation=augmentation if name == "train" else None)
            for name, of in rows.items()
        }

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A picture file that is not in the data, as a batch of one without objects, brought to size and normalised by `facts`.

        Returns:
            `inputs`, `index`, and `size`, the picture's own [height, width] as it is seen (after the rotation that EXIF asks for).

        Raises:
            DataError: the file cannot be read.
        """
        path = Path(given).expanduser()
        width, height = open_picture_file(path).size
        return {"inputs": read_inputs(path, facts), "index": torch.zeros(1, dtype=torch.int64), "size": (height, width)}


def write_detection(
    into: Path, *, pixels: Tensor, objects: Sequence[Objects], rows: Mapping[str, Tensor], class_names: Sequence[str], fit: str
) -> dict[str, Any]:
    """Write a prepared folder's file; returns the part of the data card that follows from it: `counts` and `facts`.

    Args:
        into: the folder.
        pixels: (N, C, H, W) uint8.
        objects: of each picture.
        rows: each split's rows (n,) int64; `train` decides mean and deviation.
        class_names: name of class 0, 1 …
        fit: how a picture of other proportions is to be brought to size (see `pictures`); here it is only noted.
    """
    sizes = torch.tensor([0, *(len(each) for each in objects)])
    tensors = {
        "boxes": torch.cat([each.boxes.float() for each in objects]),
        "labels": torch.cat([each.labels for each in objects]),
        "difficult": torch.cat([each.difficult for each in objects]),
        "boxes.bounds": sizes.cumsum(0),
    }
    save_file({"pixels": pixels.contiguous(), **tensors, **rows}, into / FILE)
    mean, std = moments(pixels, rows["train"])
    classes = len(class_names)
    counts = {}
    for name, of in rows.items():
        labels = torch.cat([objects[row].labels for row in of.tolist()]) if len(of) else torch.zeros(0, dtype=torch.int64)
        occur = torch.bincount(labels, minlength=classes).tolist()
        counts[name] = {"examples": len(of), "objects": len(labels), "classes": dict(zip(class_names, occur, strict=True))}
    return {
        "counts": counts,
        "facts": {
            "input_shape": list(pixels.shape[1:]),
            "classes": classes,
            "class_names": list(class_names),
            "mean": mean,
            "std": std,
            "fit": fit,
            "predicts": "boxes",
        },
    }
