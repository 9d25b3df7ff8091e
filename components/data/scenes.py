"""Scenes: real handwritten digits at many sizes, composed onto crops of real photographs. What detectors can learn in minutes.

Digits are scikit-learn's (Alpaydin and Kaynak 1998), photographs those that scikit-learn and matplotlib ship; nothing is downloaded. A
scene itself is no photograph: digits are enlarged, stretched a little, coloured to stand out and laid over the crop, at places where
they overlap little. So every box is exact. Training, validation and test have digits of their own, and grounds of their own (`grounds`).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import PIL
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.data.detection import DetectionData, write_detection
from components.data.images import DIGIT_NAMES, Digits
from components.data.objects import Objects
from components.data.splits import stratified
from components.errors import DataError
from components.protocols import Fetch

Picture = NDArray[np.float32]
Inked = Callable[[int], Image.Image]
"""A digit's ink by its place."""

PHOTOGRAPHS = {
    "china.jpg": ("sklearn.datasets", "images/china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    "flower.jpg": ("sklearn.datasets", "images/flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
    "grace_hopper.jpg": (
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    ),
}
"""Package, path in it and SHA-256 of each photograph."""
Part = tuple[str, float, float, float, float]
"""A photograph, and which part of it: left, top, right, bottom as shares of its width and height."""
Grounds = Literal["photographs", "parts"]

GROUNDS: dict[Grounds, dict[str, tuple[Part, ...]]] = {
    "photographs": {
        "train": (("china.jpg", 0, 0, 0.75, 1), ("flower.jpg", 0, 0, 0.75, 1)),
        "validation": (("china.jpg", 0.75, 0, 1, 1), ("flower.jpg", 0.75, 0, 1, 1)),
        "test": (("grace_hopper.jpg", 0, 0, 1, 1),),
    },
    "parts": {
        "train": tuple((name, 0, 0, 0.62, 1) for name in PHOTOGRAPHS),
        "validation": tuple((name, 0.62, 0, 1, 0.5) for name in PHOTOGRAPHS),
        "test": tuple((name, 0.62, 0.5, 1, 1) for name in PHOTOGRAPHS),
    },
}
"""What each split's crops are cut from; nothing is in two splits."""
INK = 0.45
"""A pixel belongs to a digit from this share of ink on: its box goes around those."""
MOST_SHARED = 0.05
"""Of the smaller of two digits' boxes, at most this share lies under the other."""
CONTRAST = 90.0
"""Least difference of brightness, 0..255, between a digit and what is behind it."""
TRIES = 30
VALIDATING, TESTING = 0.15, 0.25
"""Shares of the digits."""


@dataclass(frozen=True, kw_only=True)
class Scenes(DetectionData):
    """Digits to be found: where, and which. Composed from a seed; the same anywhere with the same versions of Pillow and NumPy.

    Attributes:
        train: number of scenes to train on.
        validation: number of scenes to validate on.
        test: number of scenes to test on.
        side: height and width of a scene in pixels.
        smallest: height of the smallest digits in pixels; heights are spread evenly on a logarithmic scale.
        largest: height of the largest digits in pixels.
        most: digits in a scene, 1 to this many.
        scene_seed: decides everything that is drawn.
        grounds: `photographs`: training sees two photographs, and test is on the third, which asks what was learned of photographs in
            general; `parts`: every split has a part of all three for itself.
    """

    train: Annotated[int, Ge(1), Le(100_000)] = 2000
    validation: Annotated[int, Ge(1), Le(100_000)] = 200
    test: Annotated[int, Ge(1), Le(100_000)] = 400
    side: Annotated[int, Ge(32), Le(512)] = 128
    smallest: Annotated[float, Gt(4)] = 12.0
    largest: Annotated[float, Gt(4)] = 88.0
    most: Annotated[int, Ge(1), Le(50)] = 6
    scene_seed: Annotated[int, Ge(0)] = 0
    grounds: Grounds = "parts"

    name: ClassVar[str] = "scenes"

    def __post_init__(self) -> None:
        if not self.smallest <= self.largest <= 0.75 * self.side:
            raise ValueError(
                f"sizes must grow from smallest {self.smallest:g} to largest {self.largest:g} to three quarters of side {self.side}"
            )

    def recipe(self) -> dict[str, Any]:
        """The sources' hashes, every setting, and the versions that decide what a pixel becomes."""
        sources = [Digits.content, *(digest for *_, digest in PHOTOGRAPHS.values())]
        versions = {"pillow": PIL.__version__, "numpy": np.__version__}
        return {"name": self.name, "format": 1, "sources": sources, **versions, **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — all sources are installed
        """Write the prepared file; the data card.

        Raises:
            DataError: scikit-learn's or matplotlib's files are not the ones expected.
        """
        images, targets = Digits.images()
        share = {"validation": round(VALIDATING * len(targets)), "test": round(TESTING * len(targets))}
        digits = stratified(targets, share, seed=self.scene_seed)
        inked = cache(lambda place: _inked(images[place].numpy()))
        photographs = {name: _photograph(name) for name in PHOTOGRAPHS}
        pixels: list[NDArray[np.uint8]] = []
        objects: list[Objects] = []
        rows = {}
        for split, count in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            grounds = [_part(photographs[name], sides) for name, *sides in GROUNDS[self.grounds][split]]
            rows[split] = torch.arange(len(pixels), len(pixels) + count)
            for place in range(count):
                seed = hashlib.sha256(f"{self.scene_seed}:{split}:{place}".encode()).digest()
                chance = np.random.default_rng(int.from_bytes(seed[:8]))
                scene, found = self._compose(chance, grounds, inked, targets, digits[split])
                pixels.append(scene)
                objects.append(found)
        return {
            "source": "composed from scikit-learn's digits and photographs and matplotlib's photograph; scenes are no photographs",
            "upstream": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "licence": "digits CC BY 4.0; china.jpg, flower.jpg CC BY 2.0 (see scikit-learn); grace_hopper.jpg public domain",
            "pixels": f"RGB, {self.side}×{self.side}",
            "unreadable": [],
            **write_detection(
                into, pixels=torch.from_numpy(np.stack(pixels)), objects=objects, rows=rows, class_names=DIGIT_NAMES, fit="stretch"
            ),
        }

    def _compose(
        self, chance: np.random.Generator, grounds: list[Image.Image], inked: Inked, targets: Tensor, digits: Tensor
    ) -> tuple[NDArray[np.uint8], Objects]:
        """One scene (3, H, W) uint8 and what is in it."""
        scene = self._ground(chance, grounds)
        boxes: list[tuple[float, float, float, float]] = []
        labels: list[int] = []
        for _ in range(int(chance.integers(1, self.most + 1))):
            digit = int(digits[int(chance.integers(len(digits)))])
            height = math.exp(chance.uniform(math.log(self.smallest), math.log(self.largest)))
            ink = _sized(inked(digit), height, stretch=math.exp(chance.normal(0, 0.1)))
            for _ in range(TRIES):
                top, left = (int(chance.integers(0, self.side - side + 1)) for side in ink.shape)
                box = (float(left), float(top), float(left + ink.shape[1]), float(top + ink.shape[0]))
                if all(_shared(box, other) <= MOST_SHARED for other in boxes):
                    _lay(scene, ink, left, top, chance)
                    boxes.append(box)
                    labels.append(int(targets[digit]))
                    break
        found = Objects(torch.tensor(boxes), torch.tensor(labels), torch.zeros(len(labels), dtype=torch.bool))
        return np.ascontiguousarray(scene.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)), found

    def _ground(self, chance: np.random.Generator, grounds: list[Image.Image]) -> Picture:
        """A square crop of one of the photographs at some scale, perhaps mirrored, brighter or darker: (H, W, 3) 0..255."""
        photograph = grounds[int(chance.integers(len(grounds)))]
        side = int(chance.uniform(0.5, 1.0) * min(photograph.size))
        left, top = (int(chance.integers(0, length - side + 1)) for length in photograph.size)
        crop = photograph.resize((self.side, self.side), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = np.array(crop, dtype=np.float32)
        if chance.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return (pixels * np.float32(chance.uniform(0.7, 1.2))).clip(0, 255)


def _photograph(name: str) -> Image.Image:
    package, path, digest = PHOTOGRAPHS[name]
    file = files(package).joinpath(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"the installed {package} has no {path}, of which scenes are made") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{path} of the installed {package} is not the one scenes are made of (its SHA-256 differs)")
    return Image.open(io.BytesIO(content)).convert("RGB")


def _part(photograph: Image.Image, sides: Sequence[float]) -> Image.Image:
    left, top, right, bottom = (round(share * length) for share, length in zip(sides, photograph.size * 2, strict=True))
    return photograph.crop((left, top, right, bottom))


def _inked(digit: NDArray[np.uint8]) -> Image.Image:
    """A digit (8, 8) enlarged and cut to its ink, as shares of ink 0..1."""
    ample = Image.fromarray(np.pad(digit, 1)).resize((160, 160), Image.Resampling.BICUBIC)
    ink = np.asarray(ample, dtype=np.float32) / 255
    lines, columns = (np.flatnonzero((ink > INK).any(axis=axis)) for axis in (1, 0))
    return Image.fromarray(ink[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1])


def _sized(ink: Image.Image, height: float, *, stretch: float) -> Picture:
    """A digit `height` pixels high: (h, w) 0..1."""
    width = height * stretch * ink.width / ink.height
    return np.asarray(ink.resize((max(round(width), 3), max(round(height), 3)), Image.Resampling.BILINEAR))


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of the smaller of two boxes, the share that lies in the other."""
    width, height = (min(a[2 + axis], b[2 + axis]) - max(a[axis], b[axis]) for axis in (0, 1))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0.0) * max(height, 0.0) / smaller


def _lay(scene: Picture, ink: Picture, left: int, top: int, chance: np.random.Generator) -> None:
    """Write a digit onto the scene, in place, in a colour that is clearly brighter or darker than what is behind it."""
    ground = scene[top : top + ink.shape[0], left : left + ink.shape[1]]
    behind = float(ground.mean())
    brighter = behind < CONTRAST or (behind <= 255 - CONTRAST and chance.random() < 0.5)
    wanted = chance.uniform(behind + CONTRAST, 255) if brighter else chance.uniform(0, behind - CONTRAST)
    colour = np.float32(wanted) + chance.normal(0, 25, 3).astype(np.float32)
    strength = np.clip((ink - 0.3) / 0.3, 0, 1)[..., None]  # a pen's edge is sharper than an enlargement's
    ground[:] = ground * (1 - strength) + colour.clip(0, 255) * strength
