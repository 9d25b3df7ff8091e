"""Prepared pictures with boxes: what is written is what is served."""

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.batches import Batches
from components.data.detection import DetectionData, write_detection
from components.data.images import Digits
from components.data.objects import Objects
from components.data.prepared import prepare
from components.data.scenes import GROUNDS, Scenes, _inked
from components.errors import DataError
from components.layers.boxes import iou


def objects(*boxes, labels, difficult=None):
    difficult = difficult or [False] * len(labels)
    return Objects(
        torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), torch.tensor(difficult, dtype=torch.bool)
    )


@pytest.fixture
def written(tmp_path):
    pixels = torch.arange(3 * 3 * 4 * 6, dtype=torch.uint8).reshape(3, 3, 4, 6)
    found = [
        objects([0, 0, 2, 2], [1, 1, 6, 4], labels=[0, 1], difficult=[False, True]),
        objects(labels=[]),
        objects([2, 0, 5, 3], labels=[1]),
    ]
    rows = {"train": torch.tensor([0, 1]), "test": torch.tensor([2])}
    card = write_detection(tmp_path, pixels=pixels, objects=found, rows=rows, class_names=["ant", "bee"], fit="stretch")
    return pixels, card, DetectionData().open(tmp_path, card)


def test_batches_hold_what_was_written(written):
    pixels, card, splits = written
    batch = splits["train"].batch(torch.tensor([1, 0]))
    assert batch["inputs"].shape == (2, 3, 4, 6)
    assert batch["inputs"].dtype == torch.float32
    assert batch["boxes"][0].shape == (0, 4)
    assert batch["boxes"][1].tolist() == [[0, 0, 2, 2], [1, 1, 6, 4]]
    assert [labels.tolist() for labels in batch["labels"]] == [[], [0, 1]]
    assert [each.tolist() for each in batch["difficult"]] == [[], [False, True]]
    assert batch["index"].tolist() == [1, 0]
    mean, std = torch.tensor(card["facts"]["mean"]), torch.tensor(card["facts"]["std"])
    expected = (pixels[1].float() / 255 - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(batch["inputs"][0], expected, atol=1e-5)
    assert torch.equal(splits["test"].picture(0), pixels[2].permute(1, 2, 0))
    assert splits["test"].objects(0).labels.tolist() == [1]


def test_card(written):
    card = written[1]
    assert card["counts"]["train"] == {"examples": 2, "objects": 2, "classes": {"ant": 1, "bee": 1}}
    assert card["facts"]["input_shape"] == [3, 4, 6]
    assert card["facts"]["classes"] == 2
    assert card["facts"]["predicts"] == "boxes"


SMALL = Scenes(train=24, validation=6, test=10, scene_seed=1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return prepare(SMALL, tmp_path_factory.mktemp("scenes"), None)


def test_scenes_are_the_same_every_time(scenes, tmp_path):
    again = prepare(SMALL, tmp_path, None)
    assert again.card["content"] == scenes.card["content"]
    other = prepare(Scenes(train=24, validation=6, test=10, scene_seed=2), tmp_path, None)
    assert other.card["content"] != scenes.card["content"]


def test_boxes_of_scenes(scenes):
    heights = []
    for split in scenes.splits.values():
        for batch in Batches(split, batch_size=4, seed=0, shuffle=False).epoch(0):
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True):
                assert 1 <= len(boxes) == len(labels) <= 6
                assert boxes.min() >= 0
                assert boxes.max() <= 128
                overlap = iou(boxes, boxes).fill_diagonal_(0)
                assert overlap.max() < 0.06
                heights += (boxes[:, 3] - boxes[:, 1]).tolist()
    assert min(heights) >= 12
    assert max(heights) <= 88
    assert min(heights) < 20
    assert max(heights) > 60


def test_a_digit_fills_its_box():
    """On an even ground exactly the pixels of the digits differ from it."""
    images, targets = Digits.images()
    scenes, ground = Scenes(most=1, smallest=20), Image.new("RGB", (128, 128), (40, 40, 40))
    for seed in range(10):
        chance = np.random.default_rng(seed)
        scene, found = scenes._compose(chance, [ground], lambda place: _inked(images[place].numpy()), targets, torch.arange(20))
        changed = (np.abs(scene - np.median(scene, axis=(1, 2), keepdims=True)) > 25).any(axis=0)
        (rows,), (columns,) = (np.nonzero(changed.any(axis=axis)) for axis in (1, 0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert len(found) == 1
        assert found.boxes[0].tolist() == pytest.approx(seen, abs=2)


@pytest.mark.parametrize("grounds", GROUNDS)
def test_no_pixel_of_a_photograph_is_in_two_splits(grounds):
    parts = [(split, name, torch.tensor([sides])) for split, every in GROUNDS[grounds].items() for name, *sides in every]
    for split, name, sides in parts:
        for other, another, theirs in parts:
            assert split == other or name != another or iou(sides, theirs) == 0


def test_a_photograph_that_is_another_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("components.data.scenes.PHOTOGRAPHS", {"china.jpg": ("sklearn.datasets", "images/flower.jpg", "0" * 64)})
    with pytest.raises(DataError, match=r"images/flower.jpg of the installed sklearn.datasets is not the one"):
        prepare(Scenes(train=1, validation=1, test=1), tmp_path, None)


def test_a_picture_file_is_read_as_the_data_were(tmp_path):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    facts = {"input_shape": [3, 4, 6], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fit": "stretch"}
    batch = DetectionData().read(str(tmp_path / "red.png"), facts)
    assert batch["inputs"].shape == (1, 3, 4, 6)
    assert batch["size"] == (10, 20)
    assert torch.allclose(batch["inputs"][0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
