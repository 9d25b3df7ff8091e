"""Boxes by hand, by their definition on generated ones, and against torchvision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder as TorchvisionsCoder

from components.layers.boxes import BoxCoder, area, centred, clip, cornered, detections, iou, suppress

coordinate = st.integers(0, 30)
boxes_strategy = st.lists(
    st.tuples(coordinate, coordinate, st.integers(1, 20), st.integers(1, 20)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    min_size=1,
    max_size=12,
)


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    b = torch.tensor([[5.0, 5, 15, 15], [0, 0, 10, 10], [10, 0, 20, 10]])
    # 5×5 shared of 100 + 100 − 25; the same box; touching edges share nothing.
    assert torch.allclose(iou(a, b), torch.tensor([[25 / 175, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert iou(a, torch.zeros(0, 4)).shape == (2, 0)
    assert area(a).tolist() == [100.0, 200.0]


@given(boxes_strategy, boxes_strategy)
@settings(max_examples=60, deadline=None)
def test_iou_is_the_share_of_pixels(first, second):
    """Counting the unit squares that whole-numbered boxes cover."""

    def cover(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [[len(cover(a) & cover(b)) / len(cover(a) | cover(b)) for b in second] for a in first]
    assert torch.allclose(iou(torch.tensor(first).float(), torch.tensor(second).float()), torch.tensor(expected), atol=1e-6)


def test_offsets_by_hand():
    anchor, box = torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[15.0, 20, 55, 60]])  # centres (20, 30), (35, 40); sides 20×40, 40×40
    offsets = BoxCoder((0.1, 0.1, 0.2, 0.2)).encode(box, anchor)
    assert offsets[0].tolist() == pytest.approx([15 / 20 / 0.1, 10 / 40 / 0.1, math.log(2) / 0.2, 0.0], abs=1e-5)


@given(boxes_strategy, boxes_strategy)
@settings(max_examples=40, deadline=None)
def test_decoding_undoes_encoding_and_is_torchvisions(first, second):
    count = min(len(first), len(second))
    boxes, anchors = torch.tensor(first[:count]).float(), torch.tensor(second[:count]).float()
    ours, theirs = BoxCoder(), TorchvisionsCoder(weights=(10.0, 10.0, 5.0, 5.0))
    offsets = ours.encode(boxes, anchors)
    assert torch.allclose(offsets, theirs.encode_single(boxes, anchors), atol=1e-4, rtol=1e-5)
    assert torch.allclose(ours.decode(offsets, anchors), boxes, atol=1e-3)
    assert torch.allclose(ours.decode(offsets, anchors), theirs.decode_single(offsets, anchors), atol=1e-3)


def test_growth_is_limited():
    decoded = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(torch.tensor([[0.0, 0, 50, 0]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert (decoded[0, 2] - decoded[0, 0]).item() == pytest.approx(1000)


def test_corners_centres_and_clipping():
    boxes = torch.tensor([[-5.0, 2, 40, 30]])
    assert clip(boxes, (20, 32)).tolist() == [[0, 2, 32, 20]]
    assert centred(boxes).tolist() == [[17.5, 16, 45, 28]]
    assert torch.equal(cornered(centred(boxes)), boxes)


def test_suppression_as_the_lecture_has_it():
    """Scores ≤ 0.1 go; the most probable stays; IoU ≥ 0.45 goes; again; and no class disturbs another."""
    boxes = torch.tensor([[0.0, 0, 20, 1], [0, 0, 9, 1], [0, 0, 8, 1], [50, 0, 60, 10], [0, 0, 20, 1]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.1, 0.11], [0.0, 0.95]])
    # The second box has IoU 9/20 = 0.45 with the first and goes; the third has 0.40 with the first and, the second being gone, stays.
    found = detections(boxes, scores)
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.95, 0.9, 0.7, 0.11])
    assert found.boxes.tolist() == boxes[[4, 0, 2, 3]].tolist()
    assert detections(boxes, scores, iou_threshold=0.46).scores.tolist() == pytest.approx([0.95, 0.9, 0.8, 0.11])
    assert detections(boxes, scores, score_threshold=0.75, limit=1).labels.tolist() == [1]
    assert len(detections(boxes, torch.zeros(5, 2))) == 0


@given(boxes_strategy, st.randoms(use_true_random=False), st.sampled_from([0.3, 0.45, 0.5]))
@settings(max_examples=60, deadline=None)
def test_suppression_by_its_definition(given_boxes, random, threshold):
    boxes = torch.tensor(given_boxes).float()
    scores = torch.tensor(random.sample(range(100), len(given_boxes))) / 100
    overlap, left, expected = iou(boxes, boxes), scores.argsort(descending=True).tolist(), []
    while left:
        best = left.pop(0)
        expected.append(best)
        left = [other for other in left if overlap[best, other] < torch.tensor(threshold)]
    assert suppress(boxes, scores, threshold=threshold).tolist() == expected


def test_boxes_of_each_class():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [100, 0, 110, 10]], [[1, 0, 11, 10], [200, 0, 210, 10]]])
    found = detections(boxes, torch.tensor([[0.5, 0.6], [0.4, 0.7]]))
    assert [(label, box[0]) for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True)] == [(1, 200), (1, 100), (0, 0)]


def test_only_the_best_candidates_of_a_class_go_on():
    boxes = torch.arange(10).float()[:, None] * 100 + torch.tensor([[0.0, 0, 10, 10]])
    scores = torch.linspace(0.2, 0.9, 10)[:, None]
    assert detections(boxes, scores, candidates=3).boxes[:, 0].tolist() == [900, 800, 700]
