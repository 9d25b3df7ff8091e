"""How well objects are found: average precision by COCO and by VOC07, in all, by class and by object size.

A detection is right if it overlaps an object of its class enough, and no more probable detection has taken that object. Going through a
class's detections from the most probable on gives precision over recall; average precision is the mean of that curve. COCO (Lin et al.
2014) reads it at 101 recalls and averages over ten IoU thresholds from 0.50 to 0.95 as well; VOC07 (Everingham et al. 2010) at 11 recalls
for IoU ≥ 0.5. Objects marked difficult count neither as found nor as missed (in COCO they stand as crowds).

Shapes: D detections of one picture, n objects of one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.layers.boxes import iou

Floats = NDArray[np.float64]

RECALLS_07 = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Found:
    """One picture: what is there and what was said to be there.

    Attributes:
        boxes: (D, 4) pixels.
        scores: (D,).
        labels: (D,) int64.
        true_boxes: (n, 4) pixels.
        true_labels: (n,) int64.
        difficult: (n,) bool.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    true_boxes: Tensor
    true_labels: Tensor
    difficult: Tensor


def judged(boxes: Tensor, scores: Tensor, objects: Tensor, difficult: Tensor, threshold: float) -> Tensor:
    """Of one class in one picture, which detections are right: (D,) int64, 1 right, 0 wrong, −1 a difficult object, which does not count.

    As VOC's own program: a detection stands for the object that it overlaps most; if that is taken already, the detection is wrong.
    """
    result = torch.zeros(len(boxes), dtype=torch.int64)
    if not len(boxes) or not len(objects):
        return result
    overlap, place = iou(boxes, objects).max(dim=1)
    taken: set[int] = set()
    for row in scores.argsort(descending=True, stable=True).tolist():
        found = int(place[row])
        if overlap[row] < threshold:
            continue
        if difficult[found]:
            result[row] = -1
        elif found not in taken:
            taken.add(found)
            result[row] = 1
    return result


def precision_recall(pictures: Sequence[Found], label: int, *, threshold: float = 0.5) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and score along the detections of one class, most probable first; empty where the class does not occur."""
    scores, right, objects = [], [], 0
    for picture in pictures:
        mine, its = picture.labels == label, picture.true_labels == label
        objects += int((its & ~picture.difficult).sum())
        scores.append(picture.scores[mine])
        right.append(judged(picture.boxes[mine], scores[-1], picture.true_boxes[its], picture.difficult[its], threshold))
    if not objects:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    score, verdict = torch.cat(scores), torch.cat(right)
    order = score.argsort(descending=True, stable=True)
    order = order[verdict[order] >= 0]
    hits = (verdict[order] == 1).double().cumsum(0).numpy()
    said = np.arange(1, len(hits) + 1)
    return hits / said, hits / objects, score[order].double().numpy()


def average_precision_07(precision: Floats, recall: Floats) -> float:
    """VOC07's: the mean over recalls 0, 0.1 … 1 of the best precision at that recall or beyond (0 where it is not reached)."""
    best = [precision[recall >= wanted - 1e-12].max(initial=0.0) for wanted in RECALLS_07]
    return float(np.mean(best))


def voc07(pictures: Sequence[Found], classes: int) -> Floats:
    """(classes,) VOC07 average precision of each class at IoU 0.5; NaN for a class that does not occur."""
    curves = [precision_recall(pictures, label) for label in range(classes)]
    occurs = [any(bool(((each.true_labels == label) & ~each.difficult).any()) for each in pictures) for label in range(classes)]
    return np.array([average_precision_07(*curve[:2]) if there else np.nan for curve, there in zip(curves, occurs, strict=True)])


@dataclass(frozen=True)
class Coco:
    """COCO's figures, NaN where there is nothing to find.

    Attributes:
        mean: average precision, mean over classes and IoU 0.50 … 0.95.
        half: the same at IoU 0.50 alone.
        classes: (K,) of each class at IoU 0.50.
        sizes: small, medium, large: mean over classes at IoU 0.50.
        recall: share of the objects that are found at IoU 0.50, mean over classes.
    """

    mean: float
    half: float
    classes: Floats
    sizes: dict[str, float]
    recall: float


def coco(pictures: Sequence[Found], classes: int, *, sizes: tuple[float, float], limit: int = 100) -> Coco:
    """COCO's average precision, by faster-coco-eval.

    Args:
        pictures: all of a split.
        classes: number of classes K.
        sizes: an object is small if its area is below the square of the first, large from the square of the second on (pixels).
        limit: detections of a picture that count; COCO's is 100.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    small, large = sizes[0] ** 2, sizes[1] ** 2
    truth = COCO(_truth(pictures, classes))
    said = [
        {"image_id": place, "category_id": label + 1, "bbox": _as_width(box), "score": score}
        for place, picture in enumerate(pictures)
        for box, score, label in zip(picture.boxes.tolist(), picture.scores.tolist(), picture.labels.tolist(), strict=True)
    ]
    if not said or not truth.dataset["annotations"]:
        return _nothing(pictures, classes, sizes)
    ranges = {"small": [0, small], "medium": [small, large], "large": [large, 1e10]}
    measured = COCOeval_faster(truth, truth.loadRes(said), "bbox", ranges=ranges, print_function=lambda *_: None)
    measured.params.maxDets = [limit]
    measured.evaluate()
    measured.accumulate()
    precision, recall = np.asarray(measured.eval["precision"]), np.asarray(measured.eval["recall"])  # (T, R, K, sizes, 1), (T, K, sizes, 1)
    precision, recall = np.where(precision < 0, np.nan, precision)[..., 0], np.where(recall < 0, np.nan, recall)[..., 0]
    return Coco(
        mean=_mean(precision[:, :, :, 0]),
        half=_mean(precision[0, :, :, 0]),
        classes=np.array([_mean(precision[0, :, label, 0]) for label in range(classes)]),
        sizes={name: _mean(precision[0, :, :, place]) for place, name in enumerate(ranges, start=1)},
        recall=_mean(recall[0, :, 0]),
    )


def _truth(pictures: Sequence[Found], classes: int) -> dict[str, Any]:
    objects = [
        {"image_id": place, "category_id": label + 1, "bbox": _as_width(box), "area": area, "iscrowd": int(hard)}
        for place, picture in enumerate(pictures)
        for box, label, hard, area in zip(
            picture.true_boxes.tolist(),
            picture.true_labels.tolist(),
            picture.difficult.tolist(),
            ((picture.true_boxes[:, 2] - picture.true_boxes[:, 0]) * (picture.true_boxes[:, 3] - picture.true_boxes[:, 1])).tolist(),
            strict=True,
        )
    ]
    return {
        "images": [{"id": place} for place in range(len(pictures))],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
        "annotations": [{"id": number, **each} for number, each in enumerate(objects, start=1)],
    }


def _nothing(pictures: Sequence[Found], classes: int, sizes: tuple[float, float]) -> Coco:
    """Nothing was said, or nothing is there: 0 for everything that occurs."""
    labels = torch.cat([each.true_labels[~each.difficult] for each in pictures])
    boxes = torch.cat([each.true_boxes[~each.difficult] for each in pictures])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    counts = torch.bincount(labels, minlength=classes).numpy()
    small, large = sizes[0] ** 2, sizes[1] ** 2
    within = {"small": area < small, "medium": (area >= small) & (area < large), "large": area >= large}
    every = 0.0 if len(labels) else np.nan
    return Coco(
        mean=every,
        half=every,
        classes=np.where(counts > 0, 0.0, np.nan),
        sizes={name: 0.0 if bool(mask.any()) else np.nan for name, mask in within.items()},
        recall=every,
    )


def _as_width(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
