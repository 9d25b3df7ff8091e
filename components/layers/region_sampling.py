"""The regions that region heads learn from: some that hold an object, some that hold none, with what is to be said of each.

Girshick 2015, section 2.3 (Fast R-CNN); Ren et al. 2015 use the same for their proposals. The objects' own boxes are added to the
regions, as the authors' code and torchvision do: without them there is little to learn from while proposals are bad.

Legend: B pictures, r regions and n objects of one picture, R sampled regions of all pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from components.layers.boxes import iou
from components.layers.matching import BACKGROUND, IGNORED, balanced_sample, match
from components.layers.region_heads import CODER, Judged

BETA = 1 / 9
"""Where the smooth L1 loss goes over from a square to a straight line; the authors' value for Faster R-CNN."""


@dataclass(frozen=True)
class RegionSample:
    """Regions to learn from.

    Attributes:
        regions: for each picture (r, 4).
        labels: (R,) int64, 0 for the background, else the object's class + 1.
        boxes: (R, 4), the object's box; of the background, whatever.
    """

    regions: list[Tensor]
    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True, kw_only=True)
class RegionSampler:
    """Which regions are chosen.

    Args:
        count: regions of each picture.
        positive_share: at most this share of them holds objects.
        positive: from this IoU with an object on a region holds it.
        negative: below this IoU with every object a region holds none; in between it is not chosen.
        least: background overlaps some object by at least this IoU; Fast R-CNN's 0.1 stands in for hard negatives, Faster R-CNN has 0.
    """

    count: int
    positive_share: float
    positive: float
    negative: float
    least: float = 0.0

    def sample(self, regions: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> RegionSample:
        """Choose, with torch's own generator, among each picture's regions (r, 4) by its objects: boxes (n, 4), classes (n,) from 0."""
        chosen, said, meant = [], [], []
        for of_one, box, label in zip(regions, boxes, labels, strict=True):
            candidates = torch.cat([of_one, box.to(of_one)])
            overlap = iou(box.to(of_one), candidates)
            matched = match(overlap, positive=self.positive, negative=self.negative)
            if self.least and len(box):
                matched = torch.where((matched == BACKGROUND) & (overlap.amax(dim=0) < self.least), IGNORED, matched)
            places = balanced_sample(matched, count=self.count, positive_share=self.positive_share)
            matched, candidates = matched[places], candidates[places]
            if len(box):
                said.append(torch.where(matched >= 0, label[matched.clamp(min=0)] + 1, 0))
                meant.append(box[matched.clamp(min=0)].to(of_one))
            else:
                said.append(torch.zeros_like(matched))
                meant.append(candidates)
            chosen.append(candidates)
        return RegionSample(chosen, torch.cat(said), torch.cat(meant))


def region_losses(judged: Judged, sample: RegionSample) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats over all regions; smooth L1 of the offsets of those with objects, divided by the number of all regions."""
    classes = F.cross_entropy(judged.logits, sample.labels)
    holds = sample.labels.nonzero().flatten()
    wanted = CODER.encode(sample.boxes[holds], torch.cat(sample.regions)[holds])
    offsets = judged.offsets[holds, sample.labels[holds] - 1]
    return classes, F.smooth_l1_loss(offsets, wanted, beta=BETA, reduction="sum") / max(len(sample.labels), 1)
