"""Boxes: how much two overlap, how one is written as offsets from another, and which of many detections are kept.

A box is (left, top, right, bottom) in pixels with right > left and bottom > top; its area is width times height, without the +1 of VOC's
own programs. Offsets are those of R-CNN (Girshick et al. 2014, appendix C), divided by variances as SSD's authors do (Liu et al. 2016).

Shapes: N and M boxes, R candidates, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

LARGEST_GROWTH = math.log(1000 / 16)
"""A decoded box is at most this much (as a logarithm) wider or higher than its anchor, so that early in training nothing overflows."""


def area(boxes: Tensor) -> Tensor:
    """Square pixels of boxes (…, 4) → (…)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0 … 1, of each of `a` (N, 4) with each of `b` (M, 4) → (N, M)."""
    corner = torch.minimum(a[:, None, 2:], b[:, 2:])  # (N, M, 2)
    sides = corner.sub_(torch.maximum(a[:, None, :2], b[:, :2])).clamp_(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (area(a)[:, None] + area(b) - shared)


def clip(boxes: Tensor, size: Sequence[float]) -> Tensor:
    """Boxes (…, 4) cut to a picture of `size` [height, width]."""
    height, width = size
    return torch.stack(
        [
            boxes[..., 0].clamp(0, width),
            boxes[..., 1].clamp(0, height),
            boxes[..., 2].clamp(0, width),
            boxes[..., 3].clamp(0, height),
        ],
        dim=-1,
    )


def centred(boxes: Tensor) -> Tensor:
    """(…, 4) corners → (…, 4) centre x, centre y, width, height."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] + 0.5 * sides, sides], dim=-1)


def cornered(boxes: Tensor) -> Tensor:
    """(…, 4) centre x, centre y, width, height → (…, 4) corners."""
    half = 0.5 * boxes[..., 2:]
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


@dataclass(frozen=True)
class BoxCoder:
    """Writes a box as offsets from an anchor: ((x − xₐ)/wₐ, (y − yₐ)/hₐ, ln(w/wₐ), ln(h/hₐ)), each divided by its variance.

    Attributes:
        variances: for x, y, w, h. SSD's (0.1, 0.1, 0.2, 0.2) are also those of Fast R-CNN's heads; a region proposal network has ones.
    """

    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Offsets (…, 4) of `boxes` (…, 4) from `anchors` (…, 4)."""
        wanted, given = centred(boxes), centred(anchors)
        shift = (wanted[..., :2] - given[..., :2]) / given[..., 2:]
        growth = torch.log(wanted[..., 2:] / given[..., 2:])
        return torch.cat([shift, growth], dim=-1) / boxes.new_tensor(self.variances)

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """The boxes (…, 4) that `offsets` (…, 4) from `anchors` (…, 4) mean; growth is limited to LARGEST_GROWTH."""
        given = centred(anchors)
        moved = offsets * offsets.new_tensor(self.variances)
        centre = given[..., :2] + moved[..., :2] * given[..., 2:]
        sides = moved[..., 2:].clamp(max=LARGEST_GROWTH).exp() * given[..., 2:]
        return cornered(torch.cat([centre, sides], dim=-1))


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, most probable first.

    Attributes:
        boxes: (D, 4) pixels.
        scores: (D,) probabilities 0 … 1.
        labels: (D,) int64 classes from 0, background not counted.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def suppress(boxes: Tensor, scores: Tensor, *, threshold: float) -> Tensor:
    """Non-maximum suppression of one class: places (D,) of the boxes that are kept, most probable first.

    The most probable box is kept and every other one that overlaps it with IoU ≥ `threshold` dropped; again with what is left, until
    nothing is. torchvision's kernel drops IoU > its threshold, so it is given the next smaller float32.

    Args:
        boxes: (N, 4).
        scores: (N,); of equal ones the earlier counts as more probable.
        threshold: IoU, in (0, 1].
    """
    below = torch.nextafter(torch.tensor(threshold, dtype=torch.float32), torch.tensor(0.0)).item()
    kept: Tensor = nms(boxes.float(), scores.float(), below)
    return kept


def detections(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.1,
    iou_threshold: float = 0.45,
    limit: int = 200,
    candidates: int = 400,
) -> Detections:
    """Class-wise non-maximum suppression: of the candidates of one picture, what is said to be there.

    Class by class: scores ≤ `score_threshold` are dropped, of the others the `candidates` most probable go on, and `suppress` drops
    those that overlap a more probable one. Then the `limit` most probable of all classes are kept.

    Args:
        boxes: (R, 4), one for all classes, or (R, K, 4), one for each class.
        scores: (R, K) probability of each class, background not among them.
        score_threshold: 0.1 in the lecture; papers measure mAP with 0.01, so that the curve's end is there.
        iou_threshold: 0.45 in the lecture and in SSD.
        limit: detections a picture, over all classes.
        candidates: a class and picture.
    """
    found_boxes, found_scores, found_labels = [], [], []
    above = scores > score_threshold
    for label in above.any(dim=0).nonzero().flatten().tolist():
        rows = above[:, label].nonzero().flatten()
        score = scores[rows, label]
        if len(rows) > candidates:
            score, best = score.topk(candidates)
            rows = rows[best]
        of_class = boxes[rows] if boxes.ndim == 2 else boxes[rows, label]
        kept = suppress(of_class, score, threshold=iou_threshold)
        found_boxes.append(of_class[kept])
        found_scores.append(score[kept])
        found_labels.append(torch.full_like(kept, label))
    if not found_scores:
        return Detections(boxes.new_zeros(0, 4), scores.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=scores.device))
    every = torch.cat(found_scores)
    order = every.argsort(descending=True, stable=True)[:limit]
    return Detections(torch.cat(found_boxes)[order], every[order], torch.cat(found_labels)[order])
