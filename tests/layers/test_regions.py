"""What the R-CNN family is built from, by hand and against torchvision's kernels."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align as kernel

from components.layers.anchors import cell_anchors, grid_anchors
from components.layers.region_heads import Judged, RegionHeads
from components.layers.region_pooling import interpolation, roi_align
from components.layers.region_proposals import RegionProposalNetwork
from components.layers.region_sampling import BETA, RegionSample, RegionSampler, region_losses
from components.layers.selective_search import SelectiveSearch


def test_anchors_by_hand():
    # Size 16 at height : width 1 and 4: 16×16, and 8 wide and 32 high.
    assert cell_anchors([16], [1, 4]).tolist() == [[-8, -8, 8, 8], [-4, -16, 4, 16]]
    grid = grid_anchors(torch.tensor([[-1.0, -2, 1, 2]]), cells=(2, 3), picture=(20, 24))  # 10 pixels down, 8 across
    assert grid.tolist() == [[x - 1, y - 2, x + 1, y + 2] for y in (0, 10) for x in (0, 8, 16)]


def test_anchors_are_torchvisions():
    sizes, ratios = (16, 32, 64), (0.5, 1.0, 2.0)
    theirs = AnchorGenerator((sizes,), (ratios,))(ImageList(torch.zeros(1, 3, 100, 84), [(100, 84)]), [torch.zeros(1, 1, 12, 10)])[0]
    ours = grid_anchors(cell_anchors(sizes, ratios), cells=(12, 10), picture=(100, 84))
    assert ours.shape == (12 * 10 * 9, 4)
    assert torch.equal(ours, theirs)


def test_selective_search_finds_what_stands_out_in_the_same_order_each_time():
    picture = torch.full((60, 80, 3), 40, dtype=torch.uint8)
    picture[10:30, 5:25] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    picture[35:55, 40:70] = torch.tensor([30, 220, 30], dtype=torch.uint8)
    search = SelectiveSearch(base=50, sigma=0.5)
    regions = search.regions(picture)
    assert regions[0].tolist() == [0, 0, 80, 60]  # the largest
    found = {tuple(box) for box in regions.tolist()}
    assert len(found) == len(regions)
    for wanted in ((5, 10, 25, 30), (40, 35, 70, 55)):
        assert any(max(abs(a - b) for a, b in zip(box, wanted, strict=True)) <= 2 for box in found), wanted
    areas = (regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])
    assert (areas.diff() <= 0).all()
    assert all(torch.equal(search.regions(picture), regions) for _ in range(3))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (2, 2), (3, 40, 3)])
def test_selective_search_has_an_answer_for_the_smallest_pictures(shape):
    regions = SelectiveSearch().regions(torch.zeros(shape, dtype=torch.uint8))
    assert regions.tolist() == [[0, 0, shape[1], shape[0]]]


def test_of_too_many_regions_some_of_every_size_stay(monkeypatch):
    boxes = np.array([[0, 0, side, side] for side in range(10, 50)], dtype=np.int64)
    monkeypatch.setattr(SelectiveSearch, "_search", lambda *_: boxes)
    search = SelectiveSearch(smallest=20, limit=4)
    sides = search.regions(torch.zeros(60, 60, 3, dtype=torch.uint8))[:, 2].tolist()
    assert sides == [60, 40, 30, 20]  # of 60, 49, 48 … 20: places 0, 10, 20 and 30


def test_interpolation_by_hand():
    # From 0 to 4 in two cells: points at 0.5, 1.5 and 2.5, 3.5 of a line of four values, whose last point is 3.
    weights = interpolation(torch.tensor([0.0]), torch.tensor([4.0]), size=2, length=4)
    assert weights[0].tolist() == [[0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 0.25, 0.75]]
    # Far beyond the line there is nothing; a region narrower than a step is taken as one step wide.
    assert interpolation(torch.tensor([9.0]), torch.tensor([11.0]), size=1, length=4).sum() == 0
    assert interpolation(torch.tensor([1.0]), torch.tensor([1.1]), size=1, length=4)[0].tolist() == [[0.0, 0.5, 0.5, 0.0]]


def test_roi_align_and_its_gradient_are_torchvisions():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 9, 13, dtype=torch.float64, generator=generator, requires_grad=True)
    corner = torch.rand(3, 20, 2, dtype=torch.float64, generator=generator) * 120 - 20  # beyond every side, too
    regions = list(torch.cat([corner, corner + 70 * torch.rand(3, 20, 2, dtype=torch.float64, generator=generator)], dim=2))
    regions[1] = regions[1][:0]
    ours = roi_align(features, regions, 5, scale=1 / 8)
    theirs = kernel(features, regions, 5, spatial_scale=1 / 8, sampling_ratio=2)
    towards = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    assert ours.shape == (40, 4, 5, 5)
    assert torch.equal(ours, theirs)
    (mine,), (other,) = torch.autograd.grad(ours, features, towards), torch.autograd.grad(theirs, features, towards)
    assert other.abs().max() > 1
    assert torch.allclose(mine, other, atol=1e-12)


def test_max_pooling_of_a_region_by_hand():
    heads = RegionHeads(1, stride=2, classes=1, pooling="max", pool_to=2, head=[], dropout=0, activation=nn.ReLU)
    with torch.no_grad():
        heads.logits.weight.copy_(torch.tensor([[1.0, 10, 100, 1000], [0, 0, 0, 0]]))
        heads.logits.bias.zero_()
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    # In a picture of 8×8 the region 0…3 is 0…1.5 of the map, rounded 0…2, ends included: three rows, so the two cells share the middle one.
    judged = heads(features, [torch.tensor([[0.0, 0, 3, 3]])])
    assert judged.logits[0].tolist() == [5 + 10 * 6 + 100 * 9 + 1000 * 10, 0]


def test_proposals_by_hand():
    network = RegionProposalNetwork(1, sizes=[10], ratios=[1], candidates=3, proposals=2, overlap=0.5, activation=nn.Identity)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.convolution[0].weight[0, 0, 1, 1] = 1
        network.objectness.weight.fill_(1)
    features = torch.tensor([[[[0.0, 3], [1, 2]]]])
    said = network(features, (20, 20))
    assert said.objectness.tolist() == [[0, 3, 1, 2]]
    # Anchors ±5 about (0, 0), (10, 0), (0, 10), (10, 10), cut to the picture; the two most probable of three do not overlap.
    assert said.regions[0].tolist() == [[5, 0, 15, 5], [5, 5, 15, 15]]
    network.overlap, network.proposals = 0.5, 3
    with torch.no_grad():
        network.offsets.bias.copy_(torch.tensor([0.0, 0, 100, 100]))  # growth is limited: every box is the whole picture
    assert network(features, (20, 20)).regions[0].tolist() == [[0, 0, 20, 20]]


def test_regions_to_learn_from():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    regions = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 4], [50, 50, 60, 60], [21, 20, 40, 40]])
    sampler = RegionSampler(count=100, positive_share=1.0, positive=0.5, negative=0.5)
    sample = sampler.sample([regions], [boxes], [torch.tensor([3, 7])])
    said = {tuple(region): label for region, label in zip(sample.regions[0].tolist(), sample.labels.tolist(), strict=True)}
    assert said == {
        (0, 0, 10, 9): 4, (0, 0, 10, 10): 4, (21, 20, 40, 40): 8, (20, 20, 40, 40): 8, (0, 0, 10, 4): 0, (50, 50, 60, 60): 0,
    }  # fmt: skip
    near = RegionSampler(count=100, positive_share=1.0, positive=0.5, negative=0.5, least=0.1).sample(
        [regions], [boxes], [torch.tensor([3, 7])]
    )
    assert sorted(near.labels.tolist()) == [0, 4, 4, 8, 8]  # what overlaps nothing is not among them
    few = RegionSampler(count=4, positive_share=0.25, positive=0.5, negative=0.5).sample([regions], [boxes], [torch.tensor([3, 7])])
    assert sorted(label > 0 for label in few.labels.tolist()) == [False, False, True]  # one of four, and all the background there is


def test_a_picture_without_objects_is_all_background():
    sampler = RegionSampler(count=2, positive_share=0.5, positive=0.5, negative=0.5)
    sample = sampler.sample([torch.rand(5, 4)], [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])
    assert sample.labels.tolist() == [0, 0]
    judged = Judged(sample.regions, torch.zeros(2, 3), torch.zeros(2, 2, 4))
    classes, of_boxes = region_losses(judged, sample)
    assert classes.item() == pytest.approx(np.log(3))
    assert of_boxes.item() == 0


def test_region_losses_by_hand():
    regions = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])]
    sample = RegionSample(regions, torch.tensor([2, 0]), torch.tensor([[1.0, 0, 11, 10], [0, 0, 0, 0]]))
    offsets = torch.zeros(2, 2, 4)
    offsets[0, 1] = torch.tensor([0.0, 0.05, 0, 0])  # wanted: (1, 0, 0, 0), a tenth of the width over a variance of a tenth
    judged = Judged(regions, torch.tensor([[0.0, 0, 2], [0, 0, 0]]), offsets)
    classes, of_boxes = region_losses(judged, sample)
    assert classes.item() == pytest.approx((np.log(2 + np.exp(2)) - 2 + np.log(3)) / 2, rel=1e-6)
    assert of_boxes.item() == pytest.approx(((1 - BETA / 2) + 0.05**2 / (2 * BETA)) / 2, rel=1e-5)
