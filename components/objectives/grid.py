"""YOLO's loss: one sum of squares for place, confidence and class (Redmon et al. 2016, section 2.2, equation 3).

The cell in which an object's centre lies answers for it (of several objects in one cell, the first), and in that cell the box with the
highest IoU. That box learns place and, as its confidence, its IoU; all other boxes learn the confidence 0, with less weight because they
are so many; the cell learns the class. Roots of width and height make a pixel count more in a small box. The sum is divided by the
number of pictures.

Shapes: B pictures, R × S cells, N boxes a cell, K classes, n objects of the batch that have a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from components.layers.boxes import centred, iou
from components.objectives.detection import Detection
from components.protocols import Batch


@dataclass(frozen=True, kw_only=True)
class Grid(Detection):
    """The objective of `YOLO`: its model gives places, confidences and class probabilities of the cells, and turns places into `corners`.

    Args:
        place_weight: λ_coord of the paper.
        empty_weight: λ_noobj of the paper.
    """

    place_weight: Annotated[float, Ge(0)] = 5.0
    empty_weight: Annotated[float, Ge(0)] = 0.5

    needs: ClassVar[tuple[str, ...]] = (*Detection.needs, "cells", "corners")

    def losses(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """`loss`, the sum of its parts `place_loss`, `confidence_loss` and `class_loss`, a picture."""
        places, confidences, classes = model(batch["inputs"])
        size = len(places)
        boxes, labels = torch.cat(batch["boxes"]), torch.cat(batch["labels"])
        picture, row, column, wanted, which = self._cells(model, batch, boxes)
        boxes, labels = boxes[which], labels[which]

        with torch.no_grad():
            said = model.corners(places)[picture, row, column]  # (n, N, 4)
            pairs = [iou(mine, box[None])[:, 0] for mine, box in zip(said, boxes, strict=True)]
            overlap = torch.stack(pairs) if pairs else boxes.new_zeros(0, said.shape[1])
            overlap, best = overlap.nan_to_num(0).max(dim=1)
        at = (picture, row, column, best)
        place_loss = F.mse_loss(places[at], wanted, reduction="sum")
        own = F.mse_loss(confidences[at], overlap, reduction="sum")
        empty = torch.ones_like(confidences)
        empty[at] = 0
        others = (empty * confidences.square()).sum()
        class_loss = F.mse_loss(classes[picture, row, column], F.one_hot(labels, self.classes).to(classes.dtype), reduction="sum")
        parts = {
            "place_loss": self.place_weight * place_loss / size,
            "confidence_loss": (own + self.empty_weight * others) / size,
            "class_loss": class_loss / size,
        }
        return {"loss": parts["place_loss"] + parts["confidence_loss"] + parts["class_loss"], **parts}

    @staticmethod
    def _cells(model: Any, batch: Batch, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """For each object that has a cell to itself: picture, row, column, what its place should be (n, 4), and which object it is."""
        (rows, columns), (height, width) = model.cells, model.picture
        counts = torch.tensor([len(each) for each in batch["labels"]], device=boxes.device)
        picture = torch.repeat_interleave(torch.arange(len(counts), device=boxes.device), counts)
        x, y, wide, high = centred(boxes).unbind(dim=1)
        x, y = x * (columns / width), y * (rows / height)
        column, row = x.long().clamp(0, columns - 1), y.long().clamp(0, rows - 1)
        cell = (picture * rows + row) * columns + column
        first = torch.full((len(counts) * rows * columns,), len(boxes), device=boxes.device)
        first.scatter_reduce_(0, cell, torch.arange(len(boxes), device=boxes.device), "amin")
        which = first[first < len(boxes)]
        wanted = torch.stack([x - column, y - row, (wide / width).sqrt(), (high / height).sqrt()], dim=1)
        return picture[which], row[which], column[which], wanted[which], which
