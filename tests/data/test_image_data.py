"""The lecture's image data sets: real digits, tiny stand-ins for the downloads, and the real ones where the mirror is."""

import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.data import images as module
from components.data.images import FASHION_TEST, FASHION_TRAIN, MNIST_5K, Digits, FashionMnist, Mnist
from components.data.prepared import Prepared, fingerprint, prepare
from components.data.sources import Source, Sources
from components.errors import DataError
from components.protocols import DataSet


def no_fetch(source: object) -> Path:
    raise AssertionError(f"nothing to fetch, but {source} was asked for")


def inputs_of(prepared: Prepared, split: str) -> dict[str, torch.Tensor]:
    return prepared.splits[split].batch(torch.arange(len(prepared.splits[split])))


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    prepared = prepare(Digits(), tmp_path, no_fetch)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 1257, "validation": 180, "test": 360}
    assert prepared.facts["input_shape"] == [1, 8, 8] and prepared.facts["classes"] == 10
    train = inputs_of(prepared, "train")
    assert train["inputs"].mean().item() == pytest.approx(0, abs=1e-5)
    assert train["inputs"].std().item() == pytest.approx(1, abs=1e-4)
    first = next(place for place in range(1257) if prepared.splits["train"].rows[place] == prepared.splits["train"].rows.min())  # type: ignore[attr-defined]
    row = int(prepared.splits["train"].rows[first])  # type: ignore[attr-defined]
    picture = prepared.splits["train"].picture(first)  # type: ignore[attr-defined]
    torch.testing.assert_close(picture.double() / 255 * 16, torch.from_numpy(load_digits().images[row]), atol=0.04, rtol=0)
    assert train["targets"][first] == load_digits().target[row]
    every = torch.cat([inputs_of(prepared, name)["targets"] for name in prepared.splits])
    assert torch.bincount(every).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_same_settings_prepare_the_same_bytes_and_others_another_folder(tmp_path: Path) -> None:
    one, two = (prepare(Digits(), tmp_path / name, no_fetch) for name in ("one", "two"))
    assert one.card["content"] == two.card["content"]
    other = prepare(Digits(split_seed=1), tmp_path / "one", no_fetch)
    assert other.fingerprint != one.fingerprint
    assert not torch.equal(inputs_of(other, "test")["targets"], inputs_of(one, "test")["targets"])


def test_digits_of_another_scikit_learn_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "content", "0" * 64)
    with pytest.raises(DataError, match="SHA-256 differs"):
        prepare(Digits(), tmp_path, no_fetch)


def test_fingerprints_are_pinned() -> None:
    """Whoever changes what is prepared changes `format`, and these."""
    assert [fingerprint(dataset.recipe())[:12] for dataset in (Digits(), Mnist(), FashionMnist())] == [
        "b953563a439c",
        "2f5c218ef409",
        "ceda3e55a229",
    ]
    assert all(isinstance(dataset, DataSet) for dataset in (Digits(), Mnist(), FashionMnist()))


def test_mnist_rows_are_pixels_and_the_class_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 rows: all pixels are the row's number, the class is its last digit."""
    table = "".join(",".join([str(row)] * 784 + [str(row % 10)]) + "\n" for row in range(200)).encode()
    (tmp_path / "mnist-5k").mkdir()
    (tmp_path / "mnist-5k" / "mnist_5k.csv.gz").write_bytes(gzip.compress(table))
    monkeypatch.setattr(module, "MNIST_5K", replace(MNIST_5K, sha256=hashlib.sha256(table).hexdigest(), package=None))
    prepared = prepare(Mnist(validation=20, test=20), tmp_path / "data", Sources(tmp_path / "cache", str(tmp_path)))
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 160, "validation": 20, "test": 20}
    for split in prepared.splits.values():
        for place in range(len(split)):
            picture = split.picture(place)  # type: ignore[attr-defined]
            assert picture.shape == (28, 28) and picture.unique().numel() == 1
            assert split.batch(torch.tensor([place]))["targets"].item() == int(picture[0, 0]) % 10


def idx(*shape: int, values: bytes) -> bytes:
    return gzip.compress(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values)


@pytest.fixture
def tiny_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 training and 20 test images of 2×2: training image i is all i, test image i all 100 + i; the class is i mod 10."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    content = {
        "train-images-idx3-ubyte": idx(40, 2, 2, values=bytes(i for i in range(40) for _ in range(4))),
        "train-labels-idx1-ubyte": idx(40, values=bytes(i % 10 for i in range(40))),
        "t10k-images-idx3-ubyte": idx(20, 2, 2, values=bytes(100 + i for i in range(20) for _ in range(4))),
        "t10k-labels-idx1-ubyte": idx(20, values=bytes(i % 10 for i in range(20))),
    }
    for name, packed in content.items():
        (folder / f"{name}.gz").write_bytes(packed)

    def pinned(source: Source) -> Source:
        digest = hashlib.sha256(gzip.decompress(content[source.name.removeprefix("fashion-")])).hexdigest()
        return replace(source, sha256=digest, url=None)

    monkeypatch.setattr(module, "FASHION_TRAIN", tuple(map(pinned, FASHION_TRAIN)))
    monkeypatch.setattr(module, "FASHION_TEST", tuple(map(pinned, FASHION_TEST)))
    return tmp_path


def test_fashion_keeps_the_official_test_set(tmp_path: Path, tiny_fashion: Path) -> None:
    prepared = prepare(FashionMnist(validation=10), tmp_path / "data", Sources(tmp_path / "cache", str(tiny_fashion)))
    seen = {name: [int(split.picture(i)[0, 0]) for i in range(len(split))] for name, split in prepared.splits.items()}  # type: ignore[attr-defined]
    assert seen["test"] == list(range(100, 120))
    assert sorted(seen["train"] + seen["validation"]) == list(range(40))
    assert sorted(value % 10 for value in seen["validation"]) == list(range(10))
    assert inputs_of(prepared, "train")["targets"].tolist() == [value % 10 for value in seen["train"]]
    assert prepared.facts["class_names"][9] == "Ankle boot"


def test_images_and_classes_have_to_belong_together(tmp_path: Path, tiny_fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FASHION_TRAIN", (module.FASHION_TRAIN[0], module.FASHION_TEST[1]))
    with pytest.raises(DataError, match=r"images \[40, 2, 2\] and classes \[20\] do not belong together"):
        prepare(FashionMnist(validation=10), tmp_path / "data", Sources(tmp_path / "cache", str(tiny_fashion)))


@pytest.mark.data
def test_the_real_fashion_mnist(tmp_path: Path) -> None:
    mirror = os.environ.get("LAB_DATA_MIRROR")
    if not mirror:
        pytest.skip("LAB_DATA_MIRROR is not set: no real Fashion-MNIST")
    prepared = prepare(FashionMnist(), tmp_path / "data", Sources(tmp_path / "cache", mirror, offline=True))
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 55000, "validation": 5000, "test": 10000}
    assert prepared.card["counts"]["test"]["classes"] == dict.fromkeys(FashionMnist.class_names, 1000)
    assert prepared.card["counts"]["validation"]["classes"] == dict.fromkeys(FashionMnist.class_names, 500)
    assert prepared.facts["mean"][0] == pytest.approx(0.2860, abs=5e-4)  # the field's usual numbers for all 60,000: 0.2860, 0.3530
    assert prepared.facts["std"][0] == pytest.approx(0.3530, abs=5e-4)
    assert [prepared.splits["test"].batch(torch.arange(5))["targets"].tolist()] == [[9, 2, 1, 1, 6]]


@pytest.mark.slow
def test_the_real_mnist(tmp_path: Path) -> None:
    prepared = prepare(Mnist(), tmp_path / "data", Sources(tmp_path / "cache"))
    assert [prepared.card["counts"][name]["classes"] for name in ("train", "validation", "test")] == [
        dict.fromkeys(module.DIGIT_NAMES, each) for each in (400, 50, 50)
    ]
    assert prepared.facts["mean"][0] == pytest.approx(0.1307, abs=2e-3)  # the field's usual numbers for all of MNIST
    assert prepared.facts["std"][0] == pytest.approx(0.3081, abs=2e-3)
