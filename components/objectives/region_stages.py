"""R-CNN's three losses, one a stage (Girshick et al. 2014, arXiv 1311.2524, sections 2.3 and appendices A to C).

- `features`: the CNN learns a softmax over classes and background, on regions of which a quarter hold an object (IoU ≥ 0.5).
- `svms`: one linear SVM a class. Its positives are the objects' own boxes, its negatives the regions with IoU < 0.3 with every object of
  the class, and of those the hardest: the ones it is most wrong about now.
- `boxes`: for each class, linear regression with a ridge penalty from the last convolution to the object's box, on regions with IoU ≥ 0.6.

The paper solves for the SVMs and the regression; here each is the same convex problem, approached by gradient steps, so that every
stage is checkpointed, resumed and measured like any training. Negatives are mined anew in every batch, not once for all. Both penalties
on the squared weights are the optimizer's `weight_decay`.

Shapes: B pictures, R regions of all pictures, n objects of one picture, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import ConfigError
from components.layers.boxes import iou
from components.layers.region_heads import CODER
from components.layers.region_sampling import RegionSampler
from components.objectives.detection import Candidates, Detection
from components.objectives.given_regions import given_regions, regions_shown, with_search
from components.protocols import Batch, Model, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class RegionStages(Detection):
    """A detector that returns `Regarded` (see `components.models.rcnn`) learns one stage. Batches have `regions`.

    Args:
        stage: the model's.
        regions: of each picture, drawn from those of the batch; the objects' own boxes come on top.
        positive_share: in the first stage, at most this share of the regions holds objects.
        positive: in the first stage, from this IoU on a region holds an object.
        hard_negatives: for each picture and class, so many regions with the largest margins stay to be learned from.
        positive_weight: an object counts as so many negatives.
        near: the regression learns from regions with at least this IoU.
        far: below this IoU with every object of a class a region is a negative of its SVM.

    Raises:
        ValueError: as `Detection`.
    """

    stage: Literal["features", "svms", "boxes"] = "features"
    regions: Annotated[int, Ge(1)] = 64
    positive_share: Annotated[float, Gt(0), Le(1)] = 0.25
    positive: Annotated[float, Gt(0), Le(1)] = 0.5
    hard_negatives: Annotated[int, Ge(1)] = 4
    positive_weight: Annotated[float, Gt(0)] = 2.0
    near: Annotated[float, Gt(0), Lt(1)] = 0.6
    far: Annotated[float, Gt(0), Lt(1)] = 0.3

    looks_at_regions: ClassVar[bool] = True
    """Of data without them it is told before anything begins."""

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: cross-entropy in nats, the SVMs' hinge, or the squared error of offsets; the mean over what takes part."""
        match self.stage:
            case "features":
                sample = self._sampler(self.positive, share=self.positive_share).sample(*_given(batch))
                return {"loss": F.cross_entropy(self._said(model(batch["inputs"], sample.regions).logits), sample.labels)}
            case "svms":
                drawn = [self._drawn(*of_one) for of_one in zip(*_given(batch), strict=True)]
                margins = self._said(model(batch["inputs"], [regions for regions, _ in drawn]).margins)
                verdicts = torch.cat([verdict for _, verdict in drawn])
                return {"loss": hinge(margins, verdicts, hardest=self.hard_negatives * len(drawn), positive_weight=self.positive_weight)}
            case "boxes":
                sample = self._sampler(self.near, share=1.0).sample(*_given(batch))
                counts = [len(of_one) for of_one in sample.regions]
                near = [of_one[label > 0] for of_one, label in zip(sample.regions, torch.split(sample.labels, counts), strict=True)]
                holds = sample.labels.nonzero().flatten()
                offsets = self._said(model(batch["inputs"], near).offsets)
                wanted = CODER.encode(sample.boxes[holds], torch.cat(near))
                own = offsets[torch.arange(len(holds)), sample.labels[holds] - 1]
                return {"loss": (own - wanted).square().sum() / max(len(holds), 1)}

    def candidates(self, model: Any, batch: Batch) -> list[Candidates]:
        """What the stages up to this one say of each picture's regions; picture by picture, for the crops of many need much memory."""
        found: list[Candidates] = []
        for picture, regions in zip(batch["inputs"], given_regions(batch), strict=True):
            found += model.candidates(picture[None], [regions])
        return found

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`suppression`, and `regions`: those of one picture that hold its objects."""
        return {**super().explain(model, split), "regions": regions_shown(split)}

    def examine(self, model: nn.Module, split: Split) -> Iterator[dict[str, float]]:
        """As of any detector; `proposals` is what the search takes."""
        return with_search(super().examine(model, split), split)

    def _sampler(self, positive: float, *, share: float) -> RegionSampler:
        return RegionSampler(count=self.regions, positive_share=share, positive=positive, negative=positive)

    def _drawn(self, regions: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objects' own boxes with regions of one picture drawn at random (r, 4), and what each is to each SVM (r, K)."""
        drawn = torch.cat([boxes, regions[torch.randperm(len(regions), device=regions.device)[: self.regions]]])
        return drawn, svm_verdicts(drawn, boxes, labels, classes=self.classes, far=self.far)

    def _said(self, output: Tensor | None) -> Tensor:
        if output is None:
            raise ConfigError(f"objective.stage: {self.stage} is not what the model learns (allowed: what model.stage is)")
        return output


def svm_verdicts(regions: Tensor, boxes: Tensor, labels: Tensor, *, classes: int, far: float) -> Tensor:
    """What regions (r, 4) are to each class's SVM: (r, K), 1 positive, −1 negative, 0 neither.

    Args:
        regions: of one picture; the first n are the objects' own boxes, the only positives.
        boxes: the objects (n, 4).
        labels: their classes (n,).
        classes: K.
        far: below this IoU with every object of a class a region is a negative of its SVM.
    """
    nearest = regions.new_zeros(len(regions), classes)
    overlap = iou(regions, boxes)
    for place, label in enumerate(labels.tolist()):
        nearest[:, label] = torch.maximum(nearest[:, label], overlap[:, place])
    verdicts = torch.where(nearest < far, -1.0, 0.0)
    verdicts[torch.arange(len(labels)), labels] = 1.0
    return verdicts


def hinge(margins: Tensor, verdicts: Tensor, *, hardest: int, positive_weight: float) -> Tensor:
    """Mean over the classes of Σ weight · max(0, 1 − verdict · margin) / Σ weight, over each class's positives and hardest negatives.

    Args:
        margins: (R, K).
        verdicts: (R, K), 1 positive, −1 negative, 0 neither.
        hardest: so many negatives of each class, those with the largest margins, take part.
        positive_weight: of a positive, where a negative has 1.
    """
    negative = verdicts < 0
    mined = margins.detach().masked_fill(~negative, -torch.inf).topk(min(hardest, len(margins)), dim=0).indices
    weights = torch.zeros_like(margins).scatter_(0, mined, 1.0) * negative + positive_weight * (verdicts > 0)
    losses = weights * (1 - verdicts * margins).clamp(min=0)
    return (losses.sum(dim=0) / weights.sum(dim=0).clamp(min=1)).mean()


def _given(batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return given_regions(batch), batch["boxes"], batch["labels"]
