"""Fast R-CNN: its pieces against torch's own, its independence of what else is asked, and one batch learned by heart."""

import time

import pytest
import torch
from torch import nn
from torchvision.ops import roi_pool

from components.errors import DataError
from components.layers.boxes import iou
from components.models.fast_rcnn import FastRCNN
from components.objectives.given_regions import GivenRegions


def small(**given) -> FastRCNN:
    torch.manual_seed(0)
    settings = {"input_shape": [1, 48, 48], "classes": 2, "stages": [[16], [16], [16]], "head": [32], "pool_to": 3, "activation": nn.ReLU}
    return FastRCNN(**{**settings, **given})


def test_it_is_a_map_pooled_and_two_linear_layers():
    model = small().eval()
    inputs = torch.randn(2, 1, 48, 48)
    regions = [torch.tensor([[0.0, 0, 20, 30], [8, 8, 47, 40]]), torch.tensor([[16.0, 0, 32, 16]])]
    judged = model(inputs, regions)
    pooled = roi_pool(model.features(inputs), regions, 3, spatial_scale=12 / 48)  # two of three stages halve the map
    hidden = model.heads.layers[0](pooled.flatten(1)).relu()
    assert judged.logits.shape == (3, 3)
    assert judged.offsets.shape == (3, 2, 4)
    assert torch.allclose(judged.logits, model.heads.logits(hidden), atol=1e-6)
    assert torch.allclose(judged.offsets.flatten(1), model.heads.offsets(hidden), atol=1e-6)
    alone = model(inputs[1:], regions[1:])  # neither the other picture nor its regions matter
    assert torch.allclose(alone.logits[0], judged.logits[2], atol=1e-6)


def test_candidates_are_regions_moved_and_probabilities():
    model = small().eval()
    with torch.no_grad():
        model.heads.offsets.weight.zero_()
        model.heads.offsets.bias.copy_(torch.tensor([0.0, 0, 0, 0, 5, 0, 0, 0]))  # of the second class: half a width to the right
        model.heads.logits.weight.zero_()
        model.heads.logits.bias.copy_(torch.tensor([0.0, 1, 2]).exp().log())
        ((boxes, scores), (none, no_scores)) = model.candidates(
            torch.randn(2, 1, 48, 48), [torch.tensor([[10.0, 10, 30, 20]]), torch.zeros(0, 4)]
        )
    assert boxes[0].tolist() == [[10, 10, 30, 20], [20, 10, 40, 20]]
    assert scores[0].tolist() == pytest.approx(torch.tensor([0.0, 1, 2]).softmax(0)[1:].tolist())
    assert none.shape == (0, 2, 4)
    assert no_scores.shape == (0, 2)


def test_one_batch_can_be_learned_by_heart():
    model = small(batch_norm=True)
    boxes = [torch.tensor([[4.0, 4, 20, 20], [28, 26, 40, 38]]), torch.tensor([[20.0, 8, 36, 24]])]
    labels = [torch.tensor([0, 1]), torch.tensor([0])]
    inputs = torch.zeros(2, 1, 48, 48)
    for picture, box, label in zip(inputs, boxes, labels, strict=True):
        for (left, top, right, bottom), kind in zip(box.long().tolist(), label.tolist(), strict=True):
            picture[0, top:bottom, left:right] = 2.0 if kind else -2.0
    corners = torch.rand(2, 60, 2) * 30
    regions = [torch.cat([corner, corner + 6 + torch.rand(60, 2) * 14], dim=1) for corner in corners]
    near = [torch.cat([box + torch.randn_like(box), some]) for box, some in zip(boxes, regions, strict=True)]
    learned = {"inputs": inputs, "boxes": boxes, "labels": labels, "regions": near, "index": torch.arange(2)}
    task = GivenRegions(classes=2, class_names=["dark", "bright"], regions=32, least=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses = task.losses(model, learned)
        losses["loss"].backward()
        optimizer.step()
    assert losses["loss"].item() == pytest.approx((losses["classes"] + losses["boxes"]).item())
    for one, box, label in zip(task.detect(model.eval(), learned), boxes, labels, strict=True):
        sure = one.scores > 0.5
        order = one.labels[sure].argsort()
        assert one.labels[sure][order].tolist() == label.tolist()
        assert (iou(one.boxes[sure][order], box).diagonal() > 0.7).all()


class Searched:
    """A split of two pictures whose regions take a while to find."""

    def __len__(self):
        return 2

    def batch(self, index, generator=None):
        count = len(index)
        regions, none = [torch.tensor([[4.0, 4, 20, 20]])] * count, [torch.zeros(0, 4)] * count
        labels = [torch.zeros(0, dtype=torch.int64)] * count
        return {"inputs": torch.zeros(count, 1, 48, 48), "boxes": none, "labels": labels, "regions": regions, "index": index}

    def search(self, place):
        time.sleep(0.03)
        return torch.tensor([[4.0, 4, 20, 20]])


def test_the_search_is_part_of_the_time():
    times = next(GivenRegions(classes=2, class_names=["a", "b"]).examine(small().eval(), Searched()))
    assert times.keys() == {"proposals", "features", "heads", "decoding", "suppression"}
    assert times["proposals"] >= 0.03
    assert times["features"] > 0


def test_data_without_regions_are_refused_in_one_line():
    task = GivenRegions(classes=2, class_names=["a", "b"])
    with pytest.raises(DataError, match="the data have no regions, and this model proposes none: use data with them"):
        task.losses(small(), {"inputs": torch.zeros(1, 1, 48, 48), "boxes": [torch.zeros(0, 4)], "labels": [torch.zeros(0)]})


def test_a_picture_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="a picture of 48×2 is too small for 3 stages"):
        small(input_shape=[1, 48, 2])
