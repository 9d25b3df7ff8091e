"""Annotated photographs → prepared data: every picture to one size, every box with it, and every fault found and said.

A fault is a box that is empty, inverted or beyond the picture, a class nobody named, a picture without objects, or a file that cannot
be read. What is at fault is left out and listed in the data card (`unreadable`), file by file with the line; or all of it is one error.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from components.data.annotations import Annotation, Marked
from components.data.detection import write_detection
from components.data.faults import SHOWN
from components.data.objects import Objects
from components.data.pictures import open_picture
from components.errors import DataError

Faults = Literal["drop", "fail"]
Without = Literal["keep", "drop", "fail"]

BEYOND = 1.0
"""Pixels that a box may reach beyond its picture, where it is cut without a word: programs count pixels from 0 and from 1."""


@dataclass(frozen=True)
class Annotated:
    """One picture with its annotation.

    Attributes:
        annotation: what is marked in it.
        content: gives the picture file's bytes.
        split: `train`, `validation` or `test`.
    """

    annotation: Annotation
    content: Callable[[], bytes]
    split: str


class Report:
    """Every fault, as the card lists them."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []
        self.fatal: list[dict[str, str]] = []
        self.crowds = 0
        """Boxes around crowds in pictures to train on; they are left out, and are no fault."""

    def add(self, file: str, reason: str, *, fatal: bool) -> None:
        """One fault of a file."""
        line = {"file": file, "reason": reason}
        self.lines.append(line)
        if fatal:
            self.fatal.append(line)

    def check(self) -> None:
        """Raise DataError if anything is fatal."""
        if self.fatal:
            count = f"{len(self.fatal)} {'fault' if len(self.fatal) == 1 else 'faults'}"
            raise DataError(f"{count} in the annotated pictures: {_some(self.fatal)}")


def _some(lines: Sequence[Mapping[str, str]]) -> str:
    """The first few faults, and how many more there are."""
    shown = "; ".join(f"{line['file']}: {line['reason']}" for line in lines[:SHOWN])
    return shown + (f"; and {len(lines) - SHOWN:,} more" if len(lines) > SHOWN else "")


def write_annotated(
    into: Path,
    given: Iterable[Annotated],
    *,
    size: Sequence[int],
    class_names: Sequence[str],
    faults: Faults,
    without_objects: Without,
    report: Report,
) -> dict[str, Any]:
    """Write a prepared folder of annotated pictures; returns `unreadable`, `counts`, `facts` and, where there are any, `notes` of the card.

    Boxes around crowds are left out of pictures to train on; elsewhere they are difficult objects, neither found nor missed.

    Args:
        into: the folder.
        given: the pictures; each is opened once.
        size: [height, width] that every picture is stretched to.
        class_names: of class 0, 1 …; other names are faults.
        faults: whether what is at fault is left out, or all of it an error.
        without_objects: what becomes of pictures in which nothing is marked (or nothing is left).
        report: takes the faults; may have some already.

    Raises:
        DataError: there are faults and they are fatal, or nothing to train on is left.
    """
    pixels: list[NDArray[np.uint8]] = []
    objects: list[Objects] = []
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    fatal = faults == "fail"
    for each in given:
        annotation = each.annotation
        for place, reason in annotation.faults:
            report.add(f"{annotation.source}: {place}", reason, fatal=fatal)
        try:
            picture = open_picture(each.content())
        except DataError as error:
            report.add(": ".join(filter(None, (annotation.source, annotation.place))), f"{annotation.picture}: {error}", fatal=fatal)
            continue
        found = _objects(each, picture.size, size, class_names, report, fatal=fatal)
        if not len(found) and without_objects != "keep":
            report.add(annotation.source, f"{annotation.picture} has no objects", fatal=without_objects == "fail")
            continue
        rows[each.split].append(len(pixels))
        pixels.append(np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
        objects.append(found)
    report.check()
    if not rows["train"]:
        raise DataError("; ".join(filter(None, ("none of the pictures to train on can be used", _some(report.lines)))))
    written = write_detection(
        into,
        pixels=torch.from_numpy(np.stack(pixels)),
        objects=objects,
        rows={name: torch.tensor(of, dtype=torch.int64) for name, of in rows.items() if of},
        class_names=class_names,
        fit="stretch",
    )
    told = {"notes": [f"boxes around crowds (iscrowd), which are not trained on: {report.crowds:,}"]} if report.crowds else {}
    return {"unreadable": report.lines, **told, **written}


def fault_of(marked: Marked, width: float, height: float, class_names: Container[str]) -> str | None:
    """What is wrong with one marked object, or None."""
    left, top, right, bottom = marked.box
    shown = marked.written or f"({left:g}, {top:g}, {right:g}, {bottom:g})"
    if marked.name not in class_names:
        return f"unknown class {marked.name!r}"
    if not all(np.isfinite(marked.box)):
        return f"the box {shown} is not finite"
    if right < left or bottom < top:
        return f"the box {shown} is inverted"
    if right - left <= BEYOND or bottom - top <= BEYOND:
        return f"the box {shown} is empty"
    if left < -BEYOND or top < -BEYOND or right > width + BEYOND or bottom > height + BEYOND:
        return f"the box {shown} is beyond the picture of {width:g}×{height:g}"
    return None


def _objects(
    given: Annotated, own: tuple[int, int], size: Sequence[int], class_names: Sequence[str], report: Report, *, fatal: bool
) -> Objects:
    """What is in a picture of (width, height) `own`, with boxes for `size`; faults are reported."""
    width, height = own
    scale = (size[1] / width, size[0] / height)
    boxes, labels, difficult = [], [], []
    for marked in given.annotation.objects:
        fault = fault_of(marked, width, height, class_names)
        if fault is not None:
            report.add(f"{given.annotation.source}: {marked.place}", fault, fatal=fatal)
            continue
        if marked.crowd and given.split == "train":
            report.crowds += 1
            continue
        left, top, right, bottom = marked.box
        sides = (max(left, 0) * scale[0], max(top, 0) * scale[1], min(right, width) * scale[0], min(bottom, height) * scale[1])
        boxes.append(sides)
        labels.append(class_names.index(marked.name))
        difficult.append(marked.difficult)
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.bool),
    )


def divided(names: Sequence[str], shares: Mapping[str, float], *, seed: int) -> dict[str, str]:
    """The split of each picture, drawn by SHA-256 of its name: `shares` of them, at least one each, the others `train`."""
    import hashlib

    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    splits, first = dict.fromkeys(names, "train"), 0
    for split, share in shares.items():
        count = max(round(share * len(names)), 1)
        splits |= dict.fromkeys(ranked[first : first + count], split)
        first += count
    return splits
