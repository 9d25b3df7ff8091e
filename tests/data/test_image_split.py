"""Image splits: normalisation by hand, the same numbers from memory and from disk, pictures to look at."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.data.image_split import ImageData, ImageSplit, write_images

ROWS_OF_TWO = {"train": torch.tensor([0, 1])}
ROWS = {"train": torch.tensor([0, 2]), "test": torch.tensor([1])}


@pytest.fixture
def pixels() -> Tensor:
    """Three images (3, 3, 1, 2): red varies, green is 51 everywhere, blue is 0 and 255 in training."""
    return torch.tensor(
        [[[[0, 51]], [[51, 51]], [[0, 255]]], [[[9, 9]], [[51, 51]], [[9, 9]]], [[[102, 153]], [[51, 51]], [[255, 0]]]]
    ).byte()


def test_mean_and_deviation_are_the_training_splits(tmp_path: Path, pixels: Tensor) -> None:
    card = write_images(tmp_path, pixels=pixels, targets=torch.tensor([1, 0, 1]), rows=ROWS, class_names=["a", "b"], fit="crop")
    facts = card["facts"]
    assert facts["mean"] == pytest.approx([0.3, 0.2, 0.5], abs=1e-12)
    assert facts["std"] == pytest.approx([0.05**0.5, 1.0, 0.5], abs=1e-12)  # red 0, .2, .4, .6; a flat channel's deviation counts as 1
    assert (facts["input_shape"], facts["classes"], facts["class_names"]) == ([3, 1, 2], 2, ["a", "b"])
    assert card["counts"] == {
        "train": {"examples": 2, "classes": {"a": 0, "b": 2}},
        "test": {"examples": 1, "classes": {"a": 1, "b": 0}},
    }
    splits = ImageData().open(tmp_path, card)
    batch = splits["train"].batch(torch.tensor([1, 0]))
    assert batch["targets"].tolist() == [1, 1] and batch["targets"].dtype == torch.int64
    assert batch["index"].tolist() == [1, 0]
    assert batch["inputs"].dtype == torch.float32
    expected = torch.tensor([[[[0.1, 0.3]], [[0, 0]], [[0.5, -0.5]]], [[[-0.3, -0.1]], [[0, 0]], [[-0.5, 0.5]]]])
    torch.testing.assert_close(batch["inputs"], expected / torch.tensor(facts["std"]).reshape(1, 3, 1, 1))
    assert splits["test"].batch(torch.tensor([0]))["targets"].tolist() == [0]
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "test": 1}


def test_converted_by_the_batch_is_the_same_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 5, 4), dtype=torch.uint8, generator=generator)
    rows = torch.randperm(50, generator=generator)[:40]
    mean, std, names = [0.1, 0.5, 0.3], [0.2, 0.31, 0.17], ["x"]
    resident = ImageSplit(pixels, torch.zeros(50).long(), rows, mean=mean, std=std, class_names=names)
    served = ImageSplit(pixels, torch.zeros(50).long(), rows, mean=mean, std=std, class_names=names, resident_bytes=40 * 60 * 4 - 1)
    assert (resident.resident, served.resident) == (True, False)
    index = torch.randperm(40, generator=generator)[:7]
    assert torch.equal(resident.batch(index)["inputs"], served.batch(index)["inputs"])
    one = (pixels[rows[index[0]]].double() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    torch.testing.assert_close(served.batch(index)["inputs"][0], one.float(), rtol=1e-5, atol=1e-6)


def test_pictures_are_as_before_normalisation(pixels: Tensor) -> None:
    split = ImageSplit(pixels, torch.tensor([1, 0, 1]), ROWS["train"], mean=[0] * 3, std=[1] * 3, class_names=["a", "b"])
    assert split.picture(1).tolist() == [[[102, 51, 255], [153, 51, 0]]]
    grey = ImageSplit(pixels[:, :1], torch.tensor([1, 0, 1]), ROWS["train"], mean=[0], std=[1], class_names=["a", "b"])
    assert grey.picture(1).tolist() == [[102, 153]]
    assert grey.class_names == ("a", "b") and grey.lengths is None


def test_a_new_file_becomes_what_the_same_picture_is_in_the_data(tmp_path: Path) -> None:
    from PIL import Image

    pixels = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    card = write_images(tmp_path, pixels=pixels, targets=torch.tensor([0, 1]), rows=ROWS_OF_TWO, class_names=["a", "b"], fit="stretch")
    Image.fromarray(pixels[1, 0].numpy()).save(tmp_path / "new.png")
    batch = ImageData().read(str(tmp_path / "new.png"), card["facts"])
    assert torch.equal(batch["inputs"], ImageData().open(tmp_path, card)["train"].batch(torch.tensor([1]))["inputs"])
    assert batch["index"].tolist() == [0] and "targets" not in batch
