"""Faster R-CNN's losses: one sum over both of its networks, "approximate joint training" (Ren et al. 2015, arXiv 1506.01497).

The region proposal network learns on anchors: an anchor answers for the object that it overlaps most, from IoU 0.7 on or where no anchor
overlaps that object more; below 0.3 it is background, and in between it takes no part (section 3.1.2). The heads learn on proposals as in
Fast R-CNN. Anchors and proposals are drawn at random, from torch's own generator. As in torchvision, both box losses are smooth L1
with β = 1/9, divided by the number of all that take part.

Shapes: B pictures, A anchors, n objects of one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.boxes import iou
from components.layers.matching import balanced_sample, match
from components.layers.region_proposals import CODER, Proposals
from components.layers.region_sampling import BETA, RegionSample, RegionSampler, region_losses
from components.objectives.detection import Detection, crowded
from components.protocols import Batch, Model, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ProposedRegions(Detection):
    """A detector that returns `Found` (see `components.models.faster_rcnn`) learns to propose regions, and to tell what they hold.

    Args:
        anchors: of each picture, drawn for the region proposal network; at most half of them with objects.
        regions: of each picture, drawn for the heads from the proposals and the objects' own boxes.
        positive_share: at most this share of these regions holds objects.
        positive: from this IoU on a region holds an object, below it is background.
    """

    anchors: Annotated[int, Ge(1)] = 256
    regions: Annotated[int, Ge(1)] = 128
    positive_share: Annotated[float, Gt(0), Le(1)] = 0.25
    positive: Annotated[float, Gt(0), Le(1)] = 0.5

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`, the sum of `objectness` and `proposal_boxes` (the proposals') and `classes` and `boxes` (the heads')."""
        boxes, labels = batch["boxes"], batch["labels"]
        sampler = RegionSampler(count=self.regions, positive_share=self.positive_share, positive=self.positive, negative=self.positive)
        drawn: list[RegionSample] = []

        def choose(proposals: list[Tensor]) -> list[Tensor]:
            drawn.append(sampler.sample(proposals, boxes, labels))
            return drawn[0].regions

        proposals, judged = model(batch["inputs"], choose)
        objectness, proposal_boxes = proposal_losses(proposals, boxes, count=self.anchors)
        classes, of_boxes = region_losses(judged, drawn[0])
        return {
            "loss": objectness + proposal_boxes + classes + of_boxes,
            "objectness": objectness,
            "proposal_boxes": proposal_boxes,
            "classes": classes,
            "boxes": of_boxes,
        }

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`suppression`; `proposals`: where in one picture something is said to be; `anchors`: those that answer for its objects."""
        from components.figures.regions import matched_figure, proposals_figure

        batch = split.batch(torch.tensor([crowded(split)]))
        with torch.no_grad():
            proposals, _ = model(batch["inputs"])
        (boxes,), (regions,) = batch["boxes"], proposals.regions
        matched = match_anchors(proposals.anchors, boxes)
        picture = split.picture(int(batch["index"][0]))  # type: ignore[attr-defined]  # splits of pictures have it
        return {
            **super().explain(model, split),
            "proposals": proposals_figure(picture, regions, boxes),
            "anchors": matched_figure(picture, proposals.anchors[matched >= 0], matched[matched >= 0], boxes, what="anchors"),
        }


def match_anchors(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(A,) int64: for each anchor (A, 4) the object (n, 4) it answers for, or what `match` says of others."""
    return match(iou(boxes, anchors), positive=0.7, negative=0.3, best="kept")


def proposal_losses(proposals: Proposals, boxes: Sequence[Tensor], *, count: int) -> tuple[Tensor, Tensor]:
    """How far a region proposal network is from the objects of the pictures.

    Args:
        proposals: what the network says.
        boxes: each picture's objects (n, 4).
        count: anchors of a picture that take part, drawn at random, at most half of them with objects.

    Returns:
        Mean binary cross-entropy of the objectness in nats; smooth L1 of the offsets of anchors with objects, divided by the number
        of all that take part.
    """
    logits, wanted, distance = [], [], proposals.offsets.new_zeros(())
    for objectness, offsets, box in zip(proposals.objectness, proposals.offsets, boxes, strict=True):
        matched = match_anchors(proposals.anchors, box)
        places = balanced_sample(matched, count=count, positive_share=0.5)
        holds = matched[places] >= 0
        logits.append(objectness[places])
        wanted.append(holds.to(objectness))
        answering = places[holds]
        target = CODER.encode(box[matched[answering]], proposals.anchors[answering])
        distance = distance + F.smooth_l1_loss(offsets[answering], target, beta=BETA, reduction="sum")
    every = torch.cat(wanted)
    return F.binary_cross_entropy_with_logits(torch.cat(logits), every), distance / max(len(every), 1)
