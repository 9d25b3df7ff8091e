"""Faster R-CNN and torchvision's: the paper's network on one VGG16 map, 20 classes, with the same weights, samples and proposals.

Each side gives a training step and an inference, as `benchmarks.detection` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as Torchvisions
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from components.layers.convolutions import VGG16
from components.models.faster_rcnn import FasterRCNN
from components.objectives.proposed_regions import ProposedRegions

SIDE, CLASSES, HEAD = 300, 20, [4096, 4096]
CANDIDATES, PROPOSALS = 1000, 300
ANCHORS, REGIONS = 256, 128
SIZES, RATIOS = (64, 128, 256), (0.5, 1.0, 2.0)

Step = Callable[[], Any]
Pictures = tuple[Tensor, list[Tensor], list[Tensor]]


def our_faster_rcnn(given: Pictures) -> tuple[Step, Step]:
    """A training step and an inference of ours on pictures, boxes and labels from 0."""
    model = _ours()
    names = [str(name) for name in range(CLASSES)]
    objective = ProposedRegions(classes=CLASSES, class_names=names, anchors=ANCHORS, regions=REGIONS, score_threshold=0.01)
    inputs, boxes, labels = given

    def train() -> None:
        model.train()
        model.zero_grad()
        objective.losses(model, {"inputs": inputs, "boxes": boxes, "labels": labels})["loss"].backward()  # type: ignore[no-untyped-call]

    def infer() -> None:
        model.eval()
        objective.detect(model, {"inputs": inputs})

    return train, infer


def torchvisions_faster_rcnn(given: Pictures) -> tuple[Step, Step]:
    """The same of torchvision's."""
    model = _theirs(_ours())
    inputs, boxes, labels = given
    targets = [{"boxes": box, "labels": label + 1} for box, label in zip(boxes, labels, strict=True)]

    def train() -> None:
        model.train()
        model.zero_grad()
        sum(model(list(inputs), targets).values()).backward()

    def infer() -> None:
        model.eval()
        with torch.no_grad():
            model(list(inputs))

    return train, infer


def _ours() -> FasterRCNN:
    torch.manual_seed(0)
    model = FasterRCNN(
        input_shape=[3, SIDE, SIDE],
        classes=CLASSES,
        stages=VGG16,
        sizes=SIZES,
        ratios=RATIOS,
        head=HEAD,
        pool_to=7,
        activation=nn.ReLU,
        candidates=CANDIDATES,
        proposals=PROPOSALS,
    )
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(model.proposals.offsets.weight, std=0.001)  # as at the start of a training: proposals near their anchors
    return model


class _Backbone(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.out_channels = features, VGG16[-1][-1]

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"0": self.features(inputs)}


class _Predictor(nn.Module):
    """Both outputs; torchvision's has offsets for the background, too."""

    def __init__(self, logits: nn.Linear, offsets: nn.Linear) -> None:
        super().__init__()
        self.logits, self.offsets = logits, nn.Linear(offsets.in_features, offsets.out_features + 4)
        with torch.no_grad():
            self.offsets.weight[4:].copy_(offsets.weight)
            self.offsets.bias[4:].copy_(offsets.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(hidden), self.offsets(hidden)


def _theirs(ours: FasterRCNN) -> Torchvisions:
    model = Torchvisions(
        _Backbone(ours.features),
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rpn_anchor_generator=AnchorGenerator((SIZES,), (RATIOS,)),
        rpn_pre_nms_top_n_train=CANDIDATES,
        rpn_pre_nms_top_n_test=CANDIDATES,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_test=PROPOSALS,
        rpn_batch_size_per_image=ANCHORS,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=nn.Sequential(nn.Flatten(), *ours.heads.layers),
        box_predictor=_Predictor(ours.heads.logits, ours.heads.offsets),
        box_batch_size_per_image=REGIONS,
        box_score_thresh=0.01,
        box_nms_thresh=0.45,
    )
    model.rpn.head.conv = ours.proposals.convolution
    model.rpn.head.cls_logits = ours.proposals.objectness
    model.rpn.head.bbox_pred = ours.proposals.offsets
    return model
