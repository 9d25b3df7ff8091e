"""Average precision on cases worked by hand, and by its definition on generated ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layers.boxes import iou
from components.metrics.detection import Found, average_precision_07, coco, judged, precision_recall, voc07


def picture(detections, objects, difficult=None):
    """Detections (box, score, label) and objects (box, label)."""
    return Found(
        boxes=torch.tensor([box for box, _, _ in detections]).float().reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in detections]),
        labels=torch.tensor([label for *_, label in detections], dtype=torch.int64),
        true_boxes=torch.tensor([box for box, _ in objects]).float().reshape(-1, 4),
        true_labels=torch.tensor([label for _, label in objects], dtype=torch.int64),
        difficult=torch.tensor(difficult or [False] * len(objects), dtype=torch.bool),
    )


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def test_curve_and_voc07_by_hand():
    """Three objects; by falling score: right, wrong, right, the same object again (wrong). One object is never found."""
    pictures = [
        picture([(A, 0.9, 0), (FAR, 0.8, 0), (A, 0.3, 0)], [(A, 0), (B, 0)]),
        picture([(B, 0.7, 0)], [(B, 0)]),
    ]
    precision, recall, score = precision_recall(pictures, 0)
    assert precision == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4])
    assert recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert score == pytest.approx([0.9, 0.8, 0.7, 0.3])
    # Best precision from recall 0, 0.1, 0.2, 0.3 on is 1; from 0.4, 0.5, 0.6 on 2/3; beyond 0.67 there is nothing.
    assert average_precision_07(precision, recall) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert voc07(pictures, 2)[0] == pytest.approx((4 + 2) / 11)
    assert np.isnan(voc07(pictures, 2)[1]), "a class that does not occur has no average precision"


def test_coco_by_hand():
    """The same at 101 recalls: 1 for recalls 0 … 0.33 (34 of them), 2/3 for 0.34 … 0.66 (33 of them)."""
    pictures = [
        picture([(A, 0.9, 0), (FAR, 0.8, 0), (A, 0.3, 0)], [(A, 0), (B, 0)]),
        picture([(B, 0.7, 0)], [(B, 0)]),
    ]
    found = coco(pictures, 1, sizes=(32, 96))
    assert found.half == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert found.mean == pytest.approx(found.half), "the boxes are exact, so every threshold gives the same"
    assert found.recall == pytest.approx(2 / 3)
    assert found.sizes["small"] == pytest.approx(found.half)
    assert np.isnan(found.sizes["large"])


def test_thresholds_of_coco():
    """A box with IoU 0.6 is right at 0.50, 0.55 and 0.60, three of the ten thresholds."""
    found = coco([picture([([0, 0, 10, 6], 0.9, 0)], [(A, 0)])], 1, sizes=(32, 96))
    assert (found.half, found.mean) == pytest.approx((1.0, 0.3))


def test_object_sizes():
    """A small object found, a large one missed."""
    found = coco([picture([(A, 0.9, 0)], [(A, 0), ([0, 20, 60, 80], 0)])], 1, sizes=(20, 40))
    assert found.sizes["small"] == pytest.approx(1)
    assert found.sizes["large"] == pytest.approx(0)
    assert np.isnan(found.sizes["medium"])


def test_classes_are_apart():
    pictures = [picture([(A, 0.9, 1), (B, 0.8, 0)], [(A, 0), (B, 0)])]
    assert voc07(pictures, 2)[0] == pytest.approx(6 / 11 * 1.0), "recall 1/2 with precision 1: recalls 0 … 0.5"
    assert coco(pictures, 2, sizes=(32, 96)).classes[0] == pytest.approx(51 / 101)


def test_difficult_objects_do_not_count():
    pictures = [picture([(A, 0.9, 0), (B, 0.8, 0)], [(A, 0), (B, 0)], [True, False])]
    precision, recall, _ = precision_recall(pictures, 0)
    assert (precision.tolist(), recall.tolist()) == ([1.0], [1.0])
    assert voc07(pictures, 1)[0] == pytest.approx(1.0)
    assert coco(pictures, 1, sizes=(32, 96)).half == pytest.approx(1.0)


def test_nothing_found_is_zero():
    pictures = [picture([], [(A, 0)])]
    found = coco(pictures, 2, sizes=(5, 20))
    assert (found.half, found.mean, found.recall) == (0, 0, 0)
    assert found.classes[0] == 0
    assert np.isnan(found.classes[1])
    assert found.sizes["medium"] == 0
    assert np.isnan(found.sizes["small"])
    assert voc07(pictures, 2)[0] == 0


corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(3, 10), st.integers(3, 10)).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@given(st.lists(box, max_size=8), st.lists(box, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_judgement_by_its_definition(found, objects, random):
    scores = torch.tensor(random.sample(range(1, 100), len(found))) / 100
    boxes, truth = torch.tensor(found).float().reshape(-1, 4), torch.tensor(objects).float().reshape(-1, 4)
    right = judged(boxes, scores, truth, torch.zeros(len(truth), dtype=torch.bool), 0.5)
    overlap = iou(boxes, truth)
    for place in range(len(found)):
        if right[place] == 1:
            assert overlap[place].max() >= 0.5
        elif len(truth) and overlap[place].max() >= 0.5:
            best = overlap[place].argmax()
            rivals = [i for i in range(len(found)) if overlap[i].argmax() == best and overlap[i].max() >= 0.5]
            assert scores[place] < max(scores[i] for i in rivals)
    assert int((right == 1).sum()) <= len(truth)


@given(
    st.lists(st.tuples(st.lists(box, max_size=4), st.lists(box, min_size=1, max_size=3)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_average_precision_keeps_its_bounds(content, random):
    pictures = [picture([(each, random.random(), 0) for each in found], [(each, 0) for each in objects]) for found, objects in content]
    _, recall, _ = precision_recall(pictures, 0)
    assert 0 <= voc07(pictures, 1)[0] <= 1
    assert 0 <= coco(pictures, 1, sizes=(5, 8)).half <= 1
    assert (np.diff(recall) >= 0).all()
    exact = [picture([(each, 0.5, 0) for each in objects], [(each, 0) for each in objects]) for _, objects in content]
    if all(iou(p.true_boxes, p.true_boxes).fill_diagonal_(0).max() < 0.5 for p in exact):
        assert voc07(exact, 1)[0] == pytest.approx(1)
        assert coco(exact, 1, sizes=(5, 8)).half == pytest.approx(1)
