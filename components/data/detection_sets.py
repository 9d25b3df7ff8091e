"""Public sets of real annotated photographs: blood cells under a microscope, trees from the air."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import PIL
import torch
from annotated_types import Ge, Le, Len
from PIL import Image

from components.data.annotated_pictures import Annotated as AnnotatedPicture
from components.data.annotated_pictures import Faults, Report, Without, fault_of, write_annotated
from components.data.annotations import Annotation, Marked, read_voc
from components.data.box_transforms import seen_share
from components.data.detection import DetectionData
from components.data.objects import Objects
from components.data.packages import Package
from components.data.pictures import open_picture
from components.data.sources import Source
from components.errors import DataError
from components.protocols import Fetch

Side = Annotated[int, Ge(16), Le(2048)]

_BCCD_COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
BCCD = Source(
    name="bccd.tar",
    sha256="7cda2c4d9e7af26158832c5fc73f69792f61622b6a1888a6bb3ba48a56024cd0",
    mirror=f"bccd/BCCD_Dataset-{_BCCD_COMMIT}.tar.gz",
    url=f"https://codeload.github.com/Shenggan/BCCD_Dataset/tar.gz/{_BCCD_COMMIT}",
)

_DEEPFOREST = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
TREES = Source(
    name="deepforest-2.1.0.whl", sha256=_DEEPFOREST, package=Package(requirement="deepforest==2.1.0", sha256=_DEEPFOREST, member=None)
)


@dataclass(frozen=True, kw_only=True)
class Bccd(DetectionData):
    """364 photographs of blood under a microscope, 640×480, with red and white cells and platelets marked (Shenggan and others).

    Training, validation and test are the author's own lists.

    Attributes:
        size: [height, width] that every photograph is brought to.
        faults: what to do about boxes that are none: leave them out and list them in the card, or fail.
        without_objects: what becomes of photographs in which nothing is marked.
    """

    size: Annotated[list[Side], Len(2, 2)]
    faults: Faults = "drop"
    without_objects: Without = "drop"

    name: ClassVar[str] = "bccd"
    class_names: ClassVar[list[str]] = ["RBC", "WBC", "Platelets"]

    def recipe(self) -> dict[str, Any]:
        """The source's hash, every setting, and the decoder's version."""
        return {"name": self.name, "format": 1, "sources": [BCCD.sha256], "pillow": PIL.__version__, **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card, with every fault."""
        with tarfile.open(fetch(BCCD)) as archive:
            root = f"BCCD_Dataset-{_BCCD_COMMIT}/BCCD"
            content = partial(_member, archive)
            lists = {"train": "train", "validation": "val", "test": "test"}
            splits = {
                stem: split for split, name in lists.items() for stem in content(f"{root}/ImageSets/Main/{name}.txt").decode().split()
            }
            given = (
                AnnotatedPicture(
                    read_voc(content(f"{root}/Annotations/{stem}.xml"), f"{stem}.xml"),
                    partial(content, f"{root}/JPEGImages/{stem}.jpg"),
                    split,
                )
                for stem, split in splits.items()
            )
            written = write_annotated(
                into,
                given,
                size=self.size,
                class_names=self.class_names,
                faults=self.faults,
                without_objects=self.without_objects,
                report=Report(),
            )
        return {
            "source": f"BCCD_Dataset, commit {_BCCD_COMMIT[:12]}",
            "upstream": "https://github.com/Shenggan/BCCD_Dataset",
            "licence": "MIT",
            "pixels": f"RGB, brought to {self.size[0]}×{self.size[1]}",
            **written,
        }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise DataError(f"{name} in the archive is no file")
    return file.read()


@dataclass(frozen=True, kw_only=True)
class Trees(DetectionData):
    """951 trees in 4 aerial photographs that come with deepforest (Weinstein et al. 2019), divided by photograph, then cut in tiles.

    Tiles overlap by half; a tree belongs to every tile that shows at least half of it, and tiles without trees are left out.

    Attributes:
        tile: pixels of the photograph that a tile is wide and high.
        size: [height, width] that every tile is brought to.
        faults: what to do about boxes that are none: leave them out and list them in the card, or fail.
    """

    tile: Annotated[int, Ge(64), Le(1000)] = 300
    size: Annotated[list[Side], Len(2, 2)]
    faults: Faults = "drop"

    name: ClassVar[str] = "trees"
    photographs: ClassVar[dict[str, str]] = {
        "2019_YELL_2_528000_4978000_image_crop2": "train",
        "SOAP_061": "train",
        "OSBS_029": "validation",
        "2019_YELL_2_541000_4977000_image_crop": "test",
    }
    shown: ClassVar[float] = 0.5

    def recipe(self) -> dict[str, Any]:
        """The source's hash, every setting, and the decoder's version."""
        return {"name": self.name, "format": 1, "sources": [TREES.sha256], "pillow": PIL.__version__, **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card, with every fault."""
        with zipfile.ZipFile(fetch(TREES)) as archive:
            given = [each for stem, split in self.photographs.items() for each in self._tiles(archive, stem, split)]
        written = write_annotated(
            into, given, size=self.size, class_names=["Tree"], faults=self.faults, without_objects="drop", report=Report()
        )
        return {
            "source": "photographs of NEON in the Python package deepforest 2.1.0",
            "upstream": "https://github.com/weecology/DeepForest",
            "licence": "MIT (package); NEON data CC0",
            "pixels": f"RGB tiles of {self.tile}×{self.tile}, brought to {self.size[0]}×{self.size[1]}",
            **written,
        }

    def _tiles(self, archive: zipfile.ZipFile, stem: str, split: str) -> Iterator[AnnotatedPicture]:
        """The tiles of one photograph that have trees; a box that is none is reported with the first of them."""
        annotation = read_voc(archive.read(f"deepforest/data/{stem}.xml"), f"{stem}.xml")
        picture = open_picture(archive.read(f"deepforest/data/{stem}.png"))
        width, height = picture.size
        faults = {each.place: fault_of(each, width, height, [each.name]) for each in annotation.objects}
        sound = [each for each in annotation.objects if faults[each.place] is None]
        wrong = [(place, reason) for place, reason in faults.items() if reason is not None]
        boxes = torch.tensor([each.box for each in sound])
        trees = Objects(boxes, torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.bool))
        for top in _starts(height, self.tile):
            for left in _starts(width, self.tile):
                share = seen_share(trees, (left, top, left + self.tile, top + self.tile))
                marked = [
                    Marked("Tree", _within(each.box, left, top, self.tile), False, each.place)
                    for each, seen in zip(sound, share.tolist(), strict=True)
                    if seen >= self.shown
                ]
                if not marked:
                    continue
                tile = picture.crop((left, top, left + self.tile, top + self.tile))
                name = f"{stem} at {left}, {top}"
                yield AnnotatedPicture(Annotation(name, annotation.source, marked, wrong), partial(_as_png, tile), split)
                wrong = []


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that overlap by half and reach both ends."""
    if length <= tile:
        return [0]
    count = -(-(length - tile) * 2 // tile) + 1
    return [int(start) for start in np.linspace(0, length - tile, count).round()]


def _within(box: tuple[float, float, float, float], left: int, top: int, tile: int) -> tuple[float, float, float, float]:
    sides = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    a, b, c, d = (min(max(side, 0.0), float(tile)) for side in sides)
    return a, b, c, d


def _as_png(tile: Image.Image) -> bytes:
    import io

    file = io.BytesIO()
    tile.save(file, "PNG", compress_level=0)
    return file.getvalue()
