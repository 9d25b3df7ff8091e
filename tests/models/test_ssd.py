"""SSD against torchvision's with its weights copied over, by hand on a small one, and that it can learn a batch by heart."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.ops import box_iou

from components.initializers import HeNormal
from components.layers.convolutions import VGG16
from components.models.ssd import SSD, default_boxes
from components.objectives.multibox import MultiBox

SSD300 = {
    "stages": VGG16,
    "context": [1024, 6],
    "extras": [[256, 512, 2], [128, 256, 2], [128, 256, 1], [128, 256, 1]],
    "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "steps": [8, 16, 32, 64, 100, 300],
    "maps": [0, 1, 2, 3, 4, 5],
    "input_shape": [3, 300, 300],
    "activation": nn.ReLU,
}
SMALL = {
    "input_shape": [3, 64, 64],
    "classes": 3,
    "stages": [[8], [16], [16], [32]],
    "context": [32, 2],
    "extras": [[16, 32, 2]],
    "scales": [0.1, 0.3, 0.5, 0.8],
    "ratios": [[2], [2], [2]],
    "maps": [0, 1, 2],
    "activation": nn.ReLU,
    "first_map_scale": 0.0,
    "batch_norm": True,
}
CLASSES = 6


def copied(theirs: nn.Module) -> SSD:
    """Ours with torchvision's numbers."""
    ours, given = SSD(classes=CLASSES, **SSD300), theirs.state_dict()
    renamed = {}
    for name, value in given.items():
        parts = name.split(".")
        if name.startswith("backbone.features."):
            renamed[".".join(parts[1:])] = value
        elif name == "backbone.scale_weight":
            renamed["scale"] = value / 20
        elif name.startswith("backbone.extra.0."):
            if len(parts) == 5:  # pool4 and conv5 are the places after the cut
                renamed[f"features.{ours.cut + int(parts[3])}.{parts[4]}"] = value
            else:
                renamed[f"context.{parts[4]}.{parts[5]}"] = value
        elif name.startswith("backbone.extra."):
            renamed[f"extras.{int(parts[2]) - 1}.{parts[3]}.{parts[4]}"] = value
    for place, head in enumerate(ours.heads):
        for kind in ("weight", "bias"):
            classes = given[f"head.classification_head.module_list.{place}.{kind}"].unflatten(0, (-1, 1 + CLASSES))
            offsets = given[f"head.regression_head.module_list.{place}.{kind}"].unflatten(0, (-1, 4))
            renamed[f"heads.{place}.{kind}"] = torch.cat([classes, offsets], dim=1).flatten(0, 1)
            assert renamed[f"heads.{place}.{kind}"].shape == getattr(head, kind).shape
    ours.load_state_dict(renamed, strict=True)
    return ours


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=1 + CLASSES, score_thresh=0.16)
    HeNormal().initialize(theirs.backbone.features, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    for layer in theirs.backbone.extra.modules():
        if isinstance(layer, nn.Conv2d):  # torchvision starts these with numbers so small that nothing would be compared
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=torch.Generator().manual_seed(1))
    inputs = torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(2))
    ours = copied(theirs)
    theirs.eval(), ours.eval()
    theirs.transform.image_mean, theirs.transform.image_std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    return theirs, ours, inputs


def test_agrees_with_torchvision(pair):
    """Default boxes, raw outputs, losses and what is detected: one pass of each, because a pass costs a second."""
    theirs, ours, inputs = pair
    seen = {}
    theirs.head.register_forward_hook(lambda _, __, output: seen.update(output))
    theirs.anchor_generator.register_forward_hook(lambda _, __, output: seen.update(boxes=output[0]))
    with torch.no_grad():
        found = theirs(list(inputs))
        logits, offsets = ours(inputs)
    assert ours.default_boxes.shape == (8732, 4)
    assert torch.allclose(ours.default_boxes, seen["boxes"], atol=1e-4)  # pixels
    assert seen["cls_logits"].std() > 0.05
    assert torch.allclose(logits, seen["cls_logits"], atol=1e-5)
    assert torch.allclose(offsets, seen["bbox_regression"], atol=1e-5)

    boxes = [torch.tensor([[20.0, 30, 90, 110], [150, 100, 290, 280], [200, 20, 215, 38]]), torch.tensor([[5.0, 5, 295, 200]])]
    labels = [torch.tensor([0, 3, 5]), torch.tensor([2])]
    targets = [{"boxes": each, "labels": label + 1} for each, label in zip(boxes, labels, strict=True)]
    overlap = [theirs.proposal_matcher(box_iou(each, seen["boxes"])) for each in boxes]
    expected = theirs.compute_loss(targets, seen, [seen["boxes"]] * 2, overlap)
    objective = MultiBox(classes=CLASSES, class_names=list("abcdef"), score_threshold=0.16, limit=200)
    model = _Said(ours, (logits, offsets))
    losses = objective.losses(model, {"inputs": inputs, "boxes": boxes, "labels": labels})
    assert losses["class_loss"].item() == pytest.approx(expected["classification"].item(), abs=1e-5)
    assert losses["place_loss"].item() == pytest.approx(expected["bbox_regression"].item(), abs=1e-5)
    assert losses["loss"].item() == pytest.approx(sum(part.item() for part in expected.values()), abs=2e-5)

    for ours_found, theirs_found in zip(objective.detect(model, {"inputs": inputs}), found, strict=True):
        assert torch.allclose(ours_found.scores[:50], theirs_found["scores"][:50], atol=1e-5)
    # One by one they are compared from the same raw outputs: among thousands of scores some differ by less than the outputs do.
    model = _Said(ours, (seen["cls_logits"], seen["bbox_regression"]))
    for ours_found, theirs_found in zip(objective.detect(model, {"inputs": inputs}), found, strict=True):
        assert len(theirs_found["scores"]) > 20
        assert torch.equal(ours_found.labels + 1, theirs_found["labels"])
        assert torch.allclose(ours_found.scores, theirs_found["scores"], atol=1e-6)
        assert torch.allclose(ours_found.boxes, theirs_found["boxes"], atol=1e-2)


class _Said:
    """A model whose one forward pass has been done."""

    def __init__(self, model, said):
        self.default_boxes, self.coder = model.default_boxes, model.coder
        self.said, self.decode = said, SSD.candidates

    def __call__(self, inputs):
        return self.said

    def candidates(self, inputs):
        return self.decode(self, inputs)


def test_default_boxes_by_hand():
    """Two columns and one row on a picture 40 wide and 20 high."""
    boxes = default_boxes((1, 2), (20, 40), scales=(0.25, 0.64), ratios=[4], step=None)
    # Centres (10, 10) and (30, 10). Shares: 0.25, √(0.25·0.64) = 0.4, 0.5 × 0.125 and 0.125 × 0.5; of 40 wide and 20 high.
    first = [[5, 7.5, 15, 12.5], [2, 6, 18, 14], [0, 8.75, 20, 11.25], [7.5, 5, 12.5, 15]]
    assert torch.allclose(boxes[:4], torch.tensor(first))
    assert torch.allclose(boxes[4:] - boxes[:4], torch.tensor([20.0, 0, 20, 0]).expand(4, 4))


def test_order_of_outputs_is_that_of_the_default_boxes():
    """A head that only looks at its own cell lights up for the box of the cell where the map is not zero."""
    model = SSD(**SMALL).eval()
    with torch.no_grad():
        for head in model.heads:
            nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        rows, columns = model.cells[1]
        assert (rows, columns) == (8, 8)
        model.heads[1].weight[:, 0, 1, 1] = torch.arange(1.0, 1 + len(model.heads[1].weight))
        spot = torch.zeros(1, 32, 8, 8)
        spot[0, 0, 3, 5] = 1
        model._maps = lambda _: [torch.zeros(1, 16, 16, 16), spot, torch.zeros(1, 32, 4, 4)]
        logits, offsets = model(torch.zeros(1, 3, 64, 64))
    lit = logits[0].abs().sum(dim=1).nonzero().flatten()
    centres = (model.default_boxes[lit, :2] + model.default_boxes[lit, 2:]) / 2
    assert torch.allclose(centres, torch.tensor([[44.0, 28]]).expand(4, 2))
    assert logits[0, lit[1]].tolist() == [9, 10, 11, 12]
    assert offsets[0, lit[1]].tolist() == [13, 14, 15, 16]


@pytest.mark.parametrize("maps", [[0], [1], [2], [0, 2]])
def test_some_of_the_maps(maps):
    model, every = SSD(**SMALL | {"maps": maps}), SSD(**SMALL)
    logits, offsets = model(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, len(model.default_boxes), 4)
    assert offsets.shape == (2, len(model.default_boxes), 4)
    parts = every.default_boxes.split([rows * columns * 4 for rows, columns in every.cells])
    assert torch.equal(model.default_boxes, torch.cat([parts[place] for place in maps]))


def batch():
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.tensor([[4.0, 4, 24, 30], [34, 30, 62, 60]]), torch.zeros(0, 4), torch.tensor([[30.0, 2, 40, 14]])]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([1])]
    return {
        "inputs": torch.randn(3, 3, 64, 64, generator=generator),
        "boxes": boxes,
        "labels": labels,
        "difficult": [torch.zeros(len(each), dtype=torch.bool) for each in labels],
        "index": torch.arange(3),
    }


def test_overfits_one_batch():
    torch.manual_seed(0)
    model, objective = SSD(**SMALL), MultiBox(classes=3, class_names=["a", "b", "c"])
    HeNormal().initialize(model, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        losses = objective.losses(model, batch())
        losses["loss"].backward()
        optimizer.step()
    assert losses["loss"].item() == pytest.approx(losses["class_loss"].item() + losses["place_loss"].item())
    assert losses["loss"] < 0.2
    metrics = objective.metrics(objective.outcomes(model, batch()))
    assert metrics["map_50"] > 0.99


def test_a_batch_without_objects_has_a_loss_of_zero():
    model, objective = SSD(**SMALL), MultiBox(classes=3, class_names=["a", "b", "c"])
    empty = {key: value[1:2] for key, value in batch().items()}
    loss = objective.losses(model, empty)["loss"]
    loss.backward()
    assert loss.item() == 0


def test_default_boxes_of_an_object_are_drawn():
    class Split:
        def batch(self, index, generator=None):
            return {key: value[:1] for key, value in batch().items()}

        def __len__(self):
            return 1

        def picture(self, place):
            return torch.zeros(64, 64, 3, dtype=torch.uint8)

    model, objective = SSD(**SMALL), MultiBox(classes=3, class_names=["a", "b", "c"])
    figure = objective.explain(model.eval(), Split())["default_boxes"]
    matched = objective.matched(model.default_boxes, Split().batch(None))[0]
    expected = sorted(int((matched == place).sum()) for place in (0, 1))
    assert sorted(int(axes.get_title().rpartition(" ")[2]) for axes in figure.axes) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": [0.1, 0.2]}, "3 maps .* need 3 ratios, 4 scales"),
        ({"maps": [2, 1]}, "rising numbers from 0 to 2"),
        ({"maps": [3]}, "rising numbers from 0 to 2"),
        ({"input_shape": [3, 8, 8], "extras": [[8, 8, 1]]}, "8×8 is too small: nothing is left of it for map 2"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        SSD(**SMALL | wrong)
