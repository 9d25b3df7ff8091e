"""Faster R-CNN against torchvision's on one VGG16 map with the same weights: narrow channels, the paper's form."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as Torchvisions
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from components.layers.boxes import iou
from components.layers.convolutions import VGG16
from components.models.faster_rcnn import FasterRCNN
from components.objectives.proposed_regions import ProposedRegions

STAGES = [[width // 16 for width in stage] for stage in VGG16]
SIZES, RATIOS = (16, 32, 64), (0.5, 1.0, 2.0)
SIDE, CLASSES, MANY = 128, 5, 10_000
"""`MANY` anchors or regions are more than there are: all take part, and nothing is left to chance."""


@pytest.fixture(scope="module")
def ours() -> FasterRCNN:
    torch.manual_seed(0)
    model = FasterRCNN(
        input_shape=[3, SIDE, SIDE],
        classes=CLASSES,
        stages=STAGES,
        sizes=SIZES,
        ratios=RATIOS,
        head=[64, 64],
        pool_to=7,
        activation=nn.ReLU,
        candidates=300,
        proposals=100,
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


class _Backbone(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.out_channels = features, STAGES[-1][-1]

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"0": self.features(inputs)}


class _Predictor(nn.Module):
    """Torchvision's has offsets for the background as well."""

    def __init__(self, heads: nn.Module) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        offsets = self.heads.offsets(hidden)
        return self.heads.logits(hidden), torch.cat([torch.zeros(len(offsets), 4), offsets], dim=1)


@pytest.fixture(scope="module")
def theirs(ours: FasterRCNN) -> Torchvisions:
    """Torchvision's detector over the very weights of ours."""
    model = Torchvisions(
        _Backbone(ours.features),
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rpn_anchor_generator=AnchorGenerator((SIZES,), (RATIOS,)),
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=2 * MANY,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=nn.Sequential(nn.Flatten(), ours.heads.layers),
        box_predictor=_Predictor(ours.heads),
        box_batch_size_per_image=4 * MANY,
        box_score_thresh=0.1,
        box_nms_thresh=0.45,
        box_detections_per_img=50,
    )
    model.rpn.head.conv = ours.proposals.convolution
    model.rpn.head.cls_logits = ours.proposals.objectness
    model.rpn.head.bbox_pred = ours.proposals.offsets
    return model


@pytest.fixture(scope="module")
def batch() -> dict[str, list[Tensor] | Tensor]:
    torch.manual_seed(1)
    boxes = [torch.tensor([[10.0, 12, 50, 70], [60, 60, 120, 100], [5, 90, 25, 110]]), torch.tensor([[30.0, 30, 90, 90]])]
    return {"inputs": torch.rand(2, 3, SIDE, SIDE), "boxes": boxes, "labels": [torch.tensor([1, 0, 4]), torch.tensor([2])]}


def objective(**given) -> ProposedRegions:
    return ProposedRegions(classes=CLASSES, class_names=list("abcde"), **given)


def test_anchors_and_raw_outputs_are_torchvisions(ours, theirs, batch):
    captured = {}
    hooks = [
        theirs.rpn.head.register_forward_hook(lambda *call: captured.update(head=call[2])),
        theirs.rpn.anchor_generator.register_forward_hook(lambda *call: captured.update(anchors=call[2])),
        theirs.roi_heads.box_predictor.register_forward_hook(lambda *call: captured.update(judged=call[2])),
    ]
    with torch.no_grad():
        proposals, judged = ours.eval()(batch["inputs"])
        theirs.eval()(list(batch["inputs"]))
    for hook in hooks:
        hook.remove()
    ((objectness,), (offsets,)), (logits, of_boxes) = captured["head"], captured["judged"]
    assert torch.equal(proposals.anchors, captured["anchors"][0])
    assert proposals.anchors.shape == (8 * 8 * 9, 4)
    assert torch.allclose(proposals.objectness, objectness.permute(0, 2, 3, 1).reshape(2, -1), atol=1e-5)
    assert torch.allclose(proposals.offsets, offsets.view(2, 9, 4, 8, 8).permute(0, 3, 4, 1, 2).reshape(2, -1, 4), atol=1e-5)
    assert torch.allclose(judged.logits, logits, atol=1e-5)
    assert torch.allclose(judged.offsets.flatten(1), of_boxes[:, 4:], atol=1e-5)
    assert [len(regions) for regions in proposals.regions] == [100, 100]
    assert judged.logits.std() > 0.01


def test_losses_and_gradients_are_torchvisions(ours, theirs, batch):
    targets = [{"boxes": box, "labels": label + 1} for box, label in zip(batch["boxes"], batch["labels"], strict=True)]
    # Half of the anchors and all of the regions may hold objects, in numbers that are never reached.
    mine = objective(anchors=2 * MANY, regions=4 * MANY).losses(ours.train(), batch)
    others = theirs.train()(list(batch["inputs"]), targets)
    named = {"objectness": "loss_objectness", "proposal_boxes": "loss_rpn_box_reg", "classes": "loss_classifier", "boxes": "loss_box_reg"}
    for name, theirs_name in named.items():
        assert mine[name].item() == pytest.approx(others[theirs_name].item(), rel=1e-5, abs=1e-6), name
        assert mine[name].item() > 0.01
    weights = [ours.features[0].weight, ours.proposals.offsets.weight, ours.heads.layers[0].weight]
    ours_gradients = torch.autograd.grad(mine["loss"], weights)
    theirs_gradients = torch.autograd.grad(sum(others.values()), weights)
    for one, other in zip(ours_gradients, theirs_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


def test_detections_are_torchvisions(ours, theirs, batch):
    with torch.no_grad():
        found = objective(limit=50).detect(ours.eval(), batch)
        expected = theirs.eval()(list(batch["inputs"]))
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other["boxes"]) > 10
        assert torch.allclose(one.boxes, other["boxes"], atol=1e-4)
        assert torch.allclose(one.scores, other["scores"], atol=1e-5)
        assert torch.equal(one.labels + 1, other["labels"])


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = FasterRCNN(
        input_shape=[1, 48, 48], classes=2, stages=[[16], [16], [16]], sizes=[12, 20], ratios=[1], head=[32], pool_to=3,
        activation=nn.ReLU, candidates=100, proposals=20, batch_norm=True,
    )  # fmt: skip
    boxes = [torch.tensor([[4.0, 4, 20, 20], [28, 26, 40, 38]]), torch.tensor([[20.0, 8, 36, 24]])]
    labels = [torch.tensor([0, 1]), torch.tensor([0])]
    inputs = torch.zeros(2, 1, 48, 48)
    for picture, box, label in zip(inputs, boxes, labels, strict=True):
        for (left, top, right, bottom), kind in zip(box.long().tolist(), label.tolist(), strict=True):
            picture[0, top:bottom, left:right] = 2.0 if kind else -2.0
    learned = {"inputs": inputs, "boxes": boxes, "labels": labels, "index": torch.arange(2)}
    task = ProposedRegions(classes=2, class_names=["dark", "bright"], regions=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        task.losses(model, learned)["loss"].backward()
        optimizer.step()
    found = task.detect(model.eval(), learned)
    for one, box, label in zip(found, boxes, labels, strict=True):
        sure = one.scores > 0.5
        order = one.labels[sure].argsort()
        assert one.labels[sure][order].tolist() == label.tolist()
        assert (iou(one.boxes[sure][order], box).diagonal() > 0.5).all()


def test_a_picture_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="a picture of 4×4 is too small for 4 stages"):
        FasterRCNN(input_shape=[3, 4, 4], classes=2, stages=[[4]] * 4, sizes=[8], ratios=[1], head=[], pool_to=2, activation=nn.ReLU)
