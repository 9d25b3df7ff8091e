"""Regions beside pictures: found once, served with every batch, found again in a new picture."""

import pytest
import torch
from PIL import Image

from components.data.batches import Batches
from components.data.prepared import prepare
from components.data.regions import Regions
from components.data.scenes import Scenes
from components.layers.selective_search import SelectiveSearch


class Counted:
    """Finds the picture's whole, and as many more as its brightest pixel says; counts how often it is asked."""

    def __init__(self, setting=1):
        self.setting, self.asked = setting, 0

    def recipe(self):
        return {"search": "counted", "setting": self.setting}

    def regions(self, picture):
        self.asked += 1
        height, width = picture.shape[:2]
        return torch.tensor([[0.0, 0, width, height]]).repeat(1 + int(picture.max()) % 3, 1)


@pytest.fixture
def scenes():
    return Scenes(train=4, validation=2, test=2, side=48, smallest=12, largest=30, most=2)


def test_regions_are_found_once_and_come_with_every_batch(scenes, tmp_path):
    search = Counted()
    data = Regions(of=scenes, search=search)
    prepared = prepare(data, tmp_path, None)
    assert data.name == "scenes_regions"
    assert search.asked == 8
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    again = prepare(Regions(of=scenes, search=search), tmp_path, None)
    assert search.asked == 8
    plain = prepare(scenes, tmp_path, None).splits["train"]
    train = again.splits["train"]
    batch, own = train.batch(torch.tensor([2, 0])), plain.batch(torch.tensor([2, 0]))
    assert torch.equal(batch["inputs"], own["inputs"])
    assert [boxes.tolist() for boxes in batch["boxes"]] == [boxes.tolist() for boxes in own["boxes"]]
    for place, regions in zip((2, 0), batch["regions"], strict=True):
        assert torch.equal(regions, Counted().regions(train.picture(place)))
        assert torch.equal(train.picture(place), plain.picture(place))
    assert prepared.card["regions"]["fewest"] >= 1
    asked = search.asked
    assert torch.equal(train.search(2), batch["regions"][0])  # anew, for those who measure
    assert search.asked == asked + 1
    assert prepared.card["regions"]["milliseconds"] >= 0
    assert next(Batches(train, batch_size=3, seed=0, shuffle=True).epoch(0)).keys() >= {"inputs", "boxes", "labels", "regions", "index"}


def test_another_search_is_other_data(scenes, tmp_path):
    first, second = (Regions(of=scenes, search=Counted(setting)).recipe() for setting in (1, 2))
    assert first != second
    assert first["of"] == scenes.recipe()
    found = SelectiveSearch(base=70).recipe()
    assert (found["base"], found["strategy"]) == (70, "fast")
    assert found["opencv"].startswith("5.")


def test_a_new_picture_is_searched_as_it_is_seen(scenes, tmp_path):
    data = Regions(of=scenes, search=SelectiveSearch(smallest=6))
    prepared = prepare(data, tmp_path / "data", None)
    split = prepared.splits["test"]
    Image.fromarray(split.picture(1).numpy()).save(tmp_path / "scene.png")
    batch = data.read(str(tmp_path / "scene.png"), prepared.facts)
    known = split.batch(torch.tensor([1]))
    assert torch.allclose(batch["inputs"], known["inputs"], atol=1e-6)
    assert torch.equal(batch["regions"][0], known["regions"][0])
    assert len(known["regions"][0]) > 5
