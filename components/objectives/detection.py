"""Finding objects: what all detectors share, whatever their losses are: detections, average precision, pictures, times.

A family of detectors (SSD, YOLO, R-CNN …) has an objective of its own, which inherits from `Detection` and adds `losses`. Candidates become
detections in one way for all: class-wise non-maximum suppression with the thresholds given here (`components.layers.boxes.detections`).

A batch has `inputs` (B, C, H, W) float32, the lists `boxes` of (n, 4) float32 `xyxy` pixels, `labels` of (n,) int64 from 0 (background is
never a label) and `difficult` of (n,) bool, and `index` (B,). **A detector offers**

- `candidates(inputs)`: for each picture (boxes (R, 4) or (R, K, 4), scores (R, K)): decoded boxes in pixels and the probability of each
  class without background, before any suppression. A family whose detectors need more than the picture overrides `Detection.candidates`
  (which gets the whole batch) and `Detection.propose` (which puts it into a batch that lacks it: regions of a new picture).
- `parts()`: phase → its modules, such as `{"features": [...], "heads": [...], "proposals": [...]}`; `times` measures them with hooks.
- whatever its objective's `losses` needs: what `forward` returns, its anchors, its coder.

Shapes: B pictures, n objects, R candidates and D detections of one picture, K classes.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from components.errors import DataError, RunError
from components.layers.boxes import Detections, clip, detections, iou
from components.metrics.detection import Found, coco, voc07
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AT_ONCE = 16
"""Pictures a forward pass when nothing is learned: features of larger batches do not fit the processor's caches."""
LIKELIEST = 30
"""Candidates that are shown where none is probable enough to be shown to a person."""
RIGHT = 0.5
"""The least IoU of a right detection, where one number is asked for."""
TIMED = 20
"""Pictures whose time is measured, one by one, to compare detectors."""

Candidates = tuple[Tensor, Tensor]
"""Of one picture: boxes (R, 4) or (R, K, 4), and scores (R, K)."""


@dataclass(frozen=True, kw_only=True)
class Detection(ABC):
    """Detection of objects of K classes.

    Args:
        classes: number of classes K, background not counted.
        class_names: a name for each class, in order.
        score_threshold: candidates that are no more probable are dropped; 0.1 in the lecture, 0.01 where papers measure mAP.
        iou_threshold: candidates that overlap a more probable one of their class this much are dropped; 0.45 in the lecture.
        limit: detections a picture.
        answer_threshold: how probable a detection must be to be shown to a person.
        small: objects are small below this side in pixels (the square root of the area), for average precision by size; COCO's is 32.
        large: objects are large from this side on; COCO's is 96.

    Raises:
        ValueError: the names are not K, or `small` is not below `large`.
    """

    classes: Annotated[int, Ge(1)]
    class_names: Sequence[str]
    score_threshold: Annotated[float, Ge(0), Lt(1)] = 0.1
    iou_threshold: Annotated[float, Gt(0), Le(1)] = 0.45
    limit: Annotated[int, Ge(1)] = 100
    answer_threshold: Annotated[float, Ge(0), Lt(1)] = 0.5
    small: Annotated[float, Gt(0)] = 32.0
    large: Annotated[float, Gt(0)] = 96.0

    needs: ClassVar[tuple[str, ...]] = ("candidates", "parts")
    """What a model must have, so that a wrong pair is refused before it starts."""

    def __post_init__(self) -> None:
        if len(self.class_names) != self.classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for {self.classes} classes")
        if not self.small < self.large:
            raise ValueError(f"small {self.small:g} must be below large {self.large:g}")

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the highest mean average precision at IoU 0.50."""
        return "map_50", "max"

    @abstractmethod
    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts."""

    # ------------------------------------------------------------------ from pictures to detections

    def candidates(self, model: Any, batch: Batch) -> list[Candidates]:
        """What the model says of each picture, before suppression."""
        found: list[Candidates] = model.candidates(batch["inputs"])
        return found

    def propose(self, batch: Batch) -> Batch:
        """The batch with everything that `candidates` needs; new pictures come with `inputs` alone."""
        return batch

    def detect(self, model: Any, batch: Batch) -> list[Detections]:
        """What is found in each picture of a batch, without gradients; boxes are cut to the picture.

        Raises:
            RunError: the model's output is not a number.
        """
        result = []
        with torch.no_grad():
            for piece in pieces(batch, AT_ONCE):
                result += [self.suppressed(boxes, scores, piece) for boxes, scores in self.candidates(model, piece)]
        return result

    def suppressed(self, boxes: Tensor, scores: Tensor, batch: Batch) -> Detections:
        """One picture's detections from its candidates."""
        if not bool(torch.isfinite(scores.sum())):
            raise RunError("the model's output is not a number: its weights or that picture are not finite")
        return detections(
            clip(boxes.float(), batch["inputs"].shape[-2:]),
            scores.float(),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            limit=self.limit,
        )

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What became of each picture.

        Returns:
            `index`; lists `boxes`, `scores`, `labels`, `true_boxes`, `true_labels`, `difficult` as plain numbers; and for comparisons
            picture by picture (B,) `objects` (int64, not difficult ones) and `recall` (float64: the share of them that a detection of
            their class overlaps by half; 1 where there are none).
        """
        found = self.detect(model, batch)
        rows: Outcomes = {"index": batch["index"].cpu()}
        for name in ("boxes", "scores", "labels"):
            rows[name] = [_plain(getattr(each, name)) for each in found]
        for name, source in (("true_boxes", "boxes"), ("true_labels", "labels"), ("difficult", "difficult")):
            rows[name] = [each.tolist() for each in batch[source]]
        rows["objects"] = torch.tensor([int((~each).sum()) for each in batch["difficult"]], dtype=torch.int64)
        given = zip(found, batch["boxes"], batch["labels"], batch["difficult"], strict=True)
        rows["recall"] = torch.tensor([_recall(*each) for each in given], dtype=torch.float64)
        return rows

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`objects`: what is found in a batch of one, each with `label`, `probability` and `box` [left, top, right, bottom].

        `threshold` is what all of them are more probable than.
        Boxes are in pixels of the picture as it was given, where the batch has its `size` [height, width], else of the model's input.
        """
        (found,) = self.detect(model, self.propose(batch))
        height, width = batch["inputs"].shape[-2:]
        own_height, own_width = batch.get("size", (height, width))
        scale = torch.tensor([own_width / width, own_height / height] * 2)
        shown = found.scores > self.answer_threshold
        parts = zip(found.labels[shown].tolist(), found.scores[shown].tolist(), (found.boxes[shown].cpu() * scale).tolist(), strict=True)
        said = [
            {"label": self.class_names[label], "probability": score, "box": [round(side, 1) for side in box]} for label, score, box in parts
        ]
        return {"objects": said, "threshold": max(self.answer_threshold, self.score_threshold)}

    # ------------------------------------------------------------------ figures in both senses

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """Average precision, 0 … 1; what has no object is left out.

        `map_50` and `map` (COCO, at IoU 0.50 and over 0.50 … 0.95), `map_07` (VOC07's 11 points), `map_small`, `map_medium` and `map_large`
        (at 0.50 by object size), `recall_50`, and for each class `ap_50_NAME` and `ap_07_NAME`.

        Raises:
            DataError: there are no pictures, or no objects in them.
        """
        pictures = as_found(outcomes)
        if not sum(int((~each.difficult).sum()) for each in pictures):
            raise DataError("there are no objects to be found: the split is empty, or none of its pictures has a box")
        by_coco = coco(pictures, self.classes, sizes=(self.small, self.large), limit=self.limit)
        by_voc = voc07(pictures, self.classes)
        named = [re.sub(r"[^\w.-]+", "_", name) for name in self.class_names]
        values = {
            "map_50": by_coco.half,
            "map": by_coco.mean,
            "map_07": float(np.nanmean(by_voc)),
            **{f"map_{name}": value for name, value in by_coco.sizes.items()},
            "recall_50": by_coco.recall,
            **{f"ap_50_{name}": float(value) for name, value in zip(named, by_coco.classes, strict=True)},
            **{f"ap_07_{name}": float(value) for name, value in zip(named, by_voc, strict=True)},
        }
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def figures(self, outcomes: Outcomes, split: Split) -> "dict[str, Figure]":
        """`detections` over what is really there, and `precision_recall`."""
        from components.figures.detection import detections_figure, precision_recall_figure

        pictures = as_found(outcomes)
        drawn = {"precision_recall": precision_recall_figure(pictures, self.class_names)}
        picture = getattr(split, "picture", None)
        if picture is not None:
            drawn["detections"] = detections_figure(picture, outcomes["index"], pictures, self.class_names, threshold=self.answer_threshold)
        return drawn

    def explain(self, model: nn.Module, split: Split) -> "dict[str, Figure]":
        """`suppression`: the candidates of one picture before and after."""
        from components.figures.detection import suppression_figure

        batch = self.propose(split.batch(torch.tensor([crowded(split)])))
        with torch.no_grad():
            ((boxes, scores),) = self.candidates(model, batch)
        kept = self.suppressed(boxes, scores, batch)
        picture: Any = split
        threshold = self.answer_threshold
        if not bool((scores > threshold).any()):  # then the likeliest, so that there is something to see
            likeliest = scores.max(dim=1).values
            threshold = float(likeliest.topk(min(LIKELIEST, len(likeliest))).values[-1])
        place, label = (scores > threshold).nonzero(as_tuple=True)  # one of two likely classes is two boxes, as suppression sees it
        before = boxes[place] if boxes.ndim == 2 else boxes[place, label]
        after = kept.scores > threshold
        return {
            "suppression": suppression_figure(
                picture.picture(int(batch["index"][0])),
                before=Detections(before, scores[place, label], label),
                after=Detections(kept.boxes[after], kept.scores[after], kept.labels[after]),
                objects=len(batch["labels"][0]),
                class_names=self.class_names,
                threshold=threshold,
            )
        }

    # ------------------------------------------------------------------ several detectors

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> "dict[str, Figure]":  # noqa: ARG002 — as others
        """`times`: each run's average precision over its milliseconds a picture, as `examine` measured them, and where these go."""
        from components.figures.times import times_figure

        precision = {name: self.metrics(outcomes)["map_50"] for name, (_, outcomes) in runs.items()}
        return {"times": times_figure({name: outcomes["examined"] for name, (_, outcomes) in runs.items()}, precision)}

    def examine(self, model: nn.Module, split: Split) -> Iterator[dict[str, float]]:
        """What a comparison needs besides outcomes: the seconds of each phase, picture by picture, each measured when it is asked for."""
        for place in range(min(TIMED, len(split))):
            yield self.times(model, split.batch(torch.tensor([place])))

    def times(self, model: Any, batch: Batch) -> dict[str, float]:
        """Seconds of each phase of detecting: the model's `parts`, `decoding`, `suppression`, and `proposals` where there are any."""
        spent: dict[str, float] = {}
        began = time.perf_counter()
        batch = self.propose(batch)
        outside = time.perf_counter() - began
        with torch.no_grad(), _watched(model.parts(), spent):
            began = time.perf_counter()
            found = self.candidates(model, batch)
            whole = time.perf_counter() - began
        inside = sum(spent.values())
        if outside > 1e-4:
            spent["proposals"] = spent.get("proposals", 0.0) + outside
        began = time.perf_counter()
        for boxes, scores in found:
            self.suppressed(boxes, scores, batch)
        return spent | {"decoding": max(whole - inside, 0.0), "suppression": time.perf_counter() - began}


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch as several smaller ones, in order."""
    count = len(batch["inputs"])
    for begin in range(0, count, size):
        yield {
            key: value[begin : begin + size] if isinstance(value, Tensor | list) and len(value) == count else value
            for key, value in batch.items()
        }


def as_found(outcomes: Outcomes) -> list[Found]:
    """Outcomes as tensors again, picture by picture."""
    names = ("boxes", "scores", "labels", "true_boxes", "true_labels", "difficult")
    rows = zip(*(outcomes.get(name, []) for name in names), strict=True)
    return [
        Found(
            boxes=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.int64),
            true_boxes=torch.tensor(true_boxes).reshape(-1, 4),
            true_labels=torch.tensor(true_labels, dtype=torch.int64),
            difficult=torch.tensor(difficult, dtype=torch.bool),
        )
        for boxes, scores, labels, true_boxes, true_labels, difficult in rows
    ]


def crowded(split: Split) -> int:
    """Of the first pictures of a split, the one with the most objects: there is something to see in it."""
    count = min(len(split), 50)
    objects = split.batch(torch.arange(count))["labels"]
    return max(range(count), key=lambda place: len(objects[place]))


class _watched:  # noqa: N801 — a context manager, used as a function
    """Adds the seconds that modules take to their phase."""

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]], spent: dict[str, float]) -> None:
        self.parts, self.spent = parts, spent

    def __enter__(self) -> None:
        self.hooks = []
        for phase, modules in self.parts.items():
            self.spent[phase] = 0.0
            for module in modules:
                self.hooks.append(module.register_forward_pre_hook(lambda *_, phase=phase: self._begin(phase)))
                self.hooks.append(module.register_forward_hook(lambda *_, phase=phase: self._end(phase)))

    def _begin(self, phase: str) -> None:
        self.spent[phase] -= time.perf_counter()

    def _end(self, phase: str) -> None:
        self.spent[phase] += time.perf_counter()

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _recall(found: Detections, boxes: Tensor, labels: Tensor, difficult: Tensor) -> float:
    easy = ~difficult
    if not bool(easy.any()):
        return 1.0
    near = (iou(boxes[easy], found.boxes) >= RIGHT) & (labels[easy, None] == found.labels)
    return near.any(dim=1).double().mean().item()


def _plain(values: Tensor) -> list[Any]:
    """Numbers that JSON can hold; boxes to a hundredth of a pixel, so that files stay small."""
    numbers: list[Any] = (values.cpu().double().mul(100).round().div(100) if values.ndim == 2 else values.cpu()).tolist()
    return numbers
