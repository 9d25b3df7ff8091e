"""Faster R-CNN over torchvision's: the paper's network on one VGG16 map, 21 classes, the same weights, pictures, samples and proposals.

One process, in turns, so that whatever the machine does meanwhile happens to both. A training step is losses, gradients and an update by
momentum; inference is from a picture to its detections after non-maximum suppression. Peak memory is that of a process for each side alone.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as Torchvisions
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.report import Row, ratio
from components.layers.convolutions import VGG16
from components.models.faster_rcnn import FasterRCNN
from components.objectives.proposed_regions import ProposedRegions

SIDE, CLASSES, TURNS = 320, 20, 5
CANDIDATES, PROPOSALS = 1000, 300
ANCHORS, REGIONS = 256, 128
SIZES, RATIOS = (64, 128, 256), (0.5, 1.0, 2.0)
GOAL = 1.0


def ours() -> FasterRCNN:
    """The paper's network, from a fixed seed."""
    torch.manual_seed(0)
    model = FasterRCNN(
        input_shape=[3, SIDE, SIDE],
        classes=CLASSES,
        stages=VGG16,
        sizes=SIZES,
        ratios=RATIOS,
        head=[4096, 4096],
        pool_to=7,
        activation=nn.ReLU,
        candidates=CANDIDATES,
        proposals=PROPOSALS,
    )
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(model.proposals.offsets.weight, std=0.001)
    return model


class _Backbone(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.out_channels = features, VGG16[-1][-1]

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"0": self.features(inputs)}


class _Predictor(nn.Module):
    """Torchvision's own has the background's offsets, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.logits, self.offsets = nn.Linear(width, CLASSES + 1), nn.Linear(width, 4 * (CLASSES + 1))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(hidden), self.offsets(hidden)


def theirs() -> Torchvisions:
    """Torchvision's detector with the weights of `ours`."""
    mine = ours()
    model = Torchvisions(
        _Backbone(mine.features),
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
        box_head=nn.Sequential(nn.Flatten(), *mine.heads.layers),
        box_predictor=_Predictor(4096),
        box_batch_size_per_image=REGIONS,
        box_score_thresh=0.01,
        box_nms_thresh=0.45,
    )
    model.rpn.head.conv = mine.proposals.convolution
    model.rpn.head.cls_logits = mine.proposals.objectness
    model.rpn.head.bbox_pred = mine.proposals.offsets
    with torch.no_grad():
        predictor: Any = model.roi_heads.box_predictor
        predictor.logits.load_state_dict(mine.heads.logits.state_dict())
        predictor.offsets.weight[4:].copy_(mine.heads.offsets.weight)
        predictor.offsets.bias[4:].copy_(mine.heads.offsets.bias)
    return model


def batch() -> dict[str, Any]:
    """One picture with four objects."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(4, 2, generator=generator) * SIDE / 2
    boxes = torch.cat([corner, corner + 40 + 100 * torch.rand(4, 2, generator=generator)], dim=1)
    return {"inputs": torch.rand(1, 3, SIDE, SIDE, generator=generator), "boxes": [boxes], "labels": [torch.tensor([1, 5, 7, 19])]}


def work(side: str, kind: str) -> Callable[[], None]:
    """What is measured: one training step, or one inference, of `ours` or `theirs`."""
    given = batch()
    task = ProposedRegions(
        classes=CLASSES, class_names=[str(place) for place in range(CLASSES)], anchors=ANCHORS, regions=REGIONS, score_threshold=0.01
    )
    mine, other = (ours(), None) if side == "ours" else (None, theirs())
    model: nn.Module = mine or other  # type: ignore[assignment]
    model.train(kind == "training")
    targets = [{"boxes": given["boxes"][0], "labels": given["labels"][0] + 1}]
    if kind == "inference":
        if mine is not None:
            return lambda: _done(task.detect(mine, given))
        return lambda: _without_gradients(model, given)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        loss = task.losses(model, given)["loss"] if side == "ours" else sum(model(list(given["inputs"]), targets).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _done(_: object) -> None:
    """What was computed is not looked at."""


def _without_gradients(model: nn.Module, given: dict[str, Any]) -> None:
    with torch.no_grad():
        model(list(given["inputs"]))


def _peak(side: str, kind: str, answer: Any) -> None:
    run = work(side, kind)
    for _ in range(2):
        run()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def peak_memory(side: str, kind: str) -> float:
    """GiB that a process of its own needs for two repetitions, torch and weights included."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    child = context.Process(target=_peak, args=(side, kind, answer))
    child.start()
    result: float = answer.get()
    child.join()
    return result


def measure() -> list[Row]:
    """Training step and inference, seconds and memory, ours over torchvision's."""
    rows = []
    for kind in ("training", "inference"):
        runs = {side: work(side, kind) for side in ("ours", "theirs")}
        spent: dict[str, list[float]] = {side: [] for side in runs}
        for turn in range(TURNS + 1):
            for side, run in runs.items():
                began = time.perf_counter()
                run()
                if turn:  # the first prepares kernels
                    spent[side].append(time.perf_counter() - began)
        name = "training step" if kind == "training" else "inference, to detections"
        rows.append(ratio(f"Faster R-CNN on VGG16, {SIDE} pixels: {name}", spent["ours"], spent["theirs"], unit="s", goal=GOAL))
        del runs, run
        memory = {side: [peak_memory(side, kind)] for side in ("ours", "theirs")}
        rows.append(ratio(f"the same: peak memory, {kind}", memory["ours"], memory["theirs"], unit="GiB"))
    return rows
