"""A user's own images: both layouts, what cannot be read, and one clear line for every folder that cannot be used."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data import image_folder as module
from components.data.image_folder import ImageFolder
from components.data.prepared import Prepared, fingerprint, prepare
from components.errors import DataError, RequestError
from components.protocols import DataSet


def no_fetch(source: object) -> Path:
    raise AssertionError(f"nothing to fetch, but {source} was asked for")


def draw(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(path)


def grey_of(prepared: Prepared, split: str) -> list[int]:
    examples = prepared.splits[split]
    return [int(examples.picture(place).float().mean().round()) for place in range(len(examples))]  # type: ignore[attr-defined]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten cats of grey 0..9 and twenty dogs of grey 100..119, one of them deeper down; and what desktops leave behind."""
    root = tmp_path / "pets"
    for number in range(10):
        draw(root / "cat" / f"{number}.png", number)
    for number in range(20):
        draw(root / "dog" / ("deep" if number == 7 else ".") / f"{number}.png", 100 + number)
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / ".hidden").mkdir()
    (root / "README.txt").write_text("my pets")
    return root


def folder(root: Path, **more: Any) -> ImageFolder:
    return ImageFolder(path=str(root), size=[4, 6], **more)


def test_a_folder_a_class(tmp_path: Path, root: Path) -> None:
    dataset = folder(root)
    assert isinstance(dataset, DataSet)
    prepared = prepare(dataset, tmp_path / "data", no_fetch)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 24, "validation": 3, "test": 3}
    for name in prepared.splits:
        greys = grey_of(prepared, name)
        targets = prepared.splits[name].batch(torch.arange(len(greys)))["targets"].tolist()
        assert targets == [int(grey >= 100) for grey in greys]
        assert sorted(set(targets)) == [0, 1]
    assert sorted(grey for name in prepared.splits for grey in grey_of(prepared, name)) == [*range(10), *range(100, 120)]
    assert prepared.facts["class_names"] == ["cat", "dog"] and prepared.facts["input_shape"] == [3, 4, 6]
    assert prepared.card["unreadable"] == [] and prepared.card["ignored"] == ["README.txt"]
    names = json.loads((prepared.folder / "files.json").read_text())
    test = prepared.splits["test"]
    assert [int(Path(names[row]).stem) + 100 * names[row].startswith("dog") for row in test.rows.tolist()] == grey_of(prepared, "test")  # type: ignore[attr-defined]
    assert {path.name for path in prepared.folder.iterdir()} == {"card.json", "files.json", "images.safetensors"}


def test_grey_and_resized(tmp_path: Path, root: Path) -> None:
    prepared = prepare(ImageFolder(path=str(root), size=[8, 5], mode="grayscale"), tmp_path / "data", no_fetch)
    assert prepared.facts["input_shape"] == [1, 8, 5]
    assert prepared.splits["train"].batch(torch.tensor([0]))["inputs"].shape == (1, 1, 8, 5)
    assert "8×5" in prepared.card["pixels"]


@pytest.mark.parametrize("validation", ["validation", "val", "valid", None])
def test_the_users_own_splits(tmp_path: Path, root: Path, validation: str | None) -> None:
    divided = tmp_path / "divided"
    shutil.copytree(root / "cat", divided / "train" / "cat")
    shutil.copytree(root / "dog", divided / "train" / "dog")
    for kind, grey in (("cat", 50), ("dog", 150)):
        draw(divided / "test" / kind / "a.png", grey)
        if validation:
            draw(divided / validation / kind / "a.png", grey + 1)
    prepared = prepare(folder(divided), tmp_path / "data", no_fetch)
    assert sorted(grey_of(prepared, "test")) == [50, 150]
    if validation:
        assert sorted(grey_of(prepared, "validation")) == [51, 151]
        assert len(prepared.splits["train"]) == 30
    else:
        assert (len(prepared.splits["train"]), len(prepared.splits["validation"])) == (27, 3)


def test_the_fingerprint_follows_content_and_settings_not_the_place(tmp_path: Path, root: Path) -> None:
    marks = [fingerprint(folder(root).recipe())]
    shutil.copytree(root, tmp_path / "moved")
    assert fingerprint(folder(tmp_path / "moved").recipe()) == marks[0]
    marks += [
        fingerprint(folder(root, **more).recipe()) for more in ({"split_seed": 1}, {"mode": "grayscale"}, {"fit": "pad"}, {"test": 0.2})
    ]
    draw(root / "cat" / "3.png", 77)
    marks.append(fingerprint(folder(root).recipe()))
    (root / "cat" / "3.png").rename(root / "dog" / "3b.png")
    marks.append(fingerprint(folder(root).recipe()))
    assert len(set(marks)) == 7


def test_unreadable_files_are_reported_one_by_one(tmp_path: Path, root: Path) -> None:
    (root / "cat" / "notes.txt").write_text("no picture")
    whole = (root / "dog" / "5.png").read_bytes()
    (root / "dog" / "5.png").write_bytes(whole[:50])
    draw(root / "dog" / "copy.png", 100)
    prepared = prepare(folder(root), tmp_path / "data", no_fetch)
    faults = {fault["file"]: fault["reason"] for fault in prepared.card["unreadable"]}
    assert faults["cat/notes.txt"] == "not a picture in any known format"
    assert set(faults) == {"cat/notes.txt", "dog/5.png"}
    assert sum(len(split) for split in prepared.splits.values()) == 30
    assert prepared.card["repeated"] == 1
    assert 105 not in [grey for name in prepared.splits for grey in grey_of(prepared, name)]
    with pytest.raises(
        DataError, match=r"^2 of 32 files in .*pets cannot be used: cat/notes\.txt: not a picture in any known format; dog/5"
    ):
        prepare(folder(root, unreadable="fail"), tmp_path / "data", no_fetch)


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path, root: Path) -> None:
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    prepared = prepare(folder(root), tmp_path / "data", no_fetch)
    assert prepared.card["unreadable"] == [{"file": "cat/gone.png", "reason": "cannot be opened (No such file or directory)"}]


def test_a_picture_that_changes_meanwhile_stops_it(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sha256_of", lambda _: "0" * 64)
    with pytest.raises(DataError, match="changed while it was being prepared"):
        prepare(folder(root), tmp_path / "data", no_fetch)


def test_a_picture_too_large_to_be_honest_is_left_out(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 200)).save(root / "cat" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        prepared = prepare(folder(root), tmp_path / "data", no_fetch)
    (fault,) = prepared.card["unreadable"]
    assert fault["file"] == "cat/bomb.png" and "decompression bomb" in fault["reason"]


def test_no_such_folder_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^data\.path: .*absent does not exist"):
        folder(tmp_path / "absent").recipe()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is not a folder"):
        folder(tmp_path / "file").recipe()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "no images in class folders"),
        (["a.png", "b.png"], "no images in class folders"),
        (["train/a.png"], "no images in class folders"),
        (["cat/a.png", "cat/b.png"], r"one class only \(cat\)"),
        (["train/cat/a.png", "test/cat/a.png"], r"one class only \(cat\)"),
        (["test/cat/a.png", "test/dog/a.png"], "but no train"),
        (["cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/b.png"], r"at least 3 readable training images, but there are: dog 2$"),
        (["train/cat/a.png", "train/dog/a.png", "test/bird/a.png"], "not in train: bird"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: list[str], reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number, name in enumerate(files):
        draw(root / name, number)
    with pytest.raises(DataError, match=reason) as caught:
        prepare(folder(root), tmp_path / "data", no_fetch)
    assert "\n" not in str(caught.value)


def test_an_empty_class_folder_is_named(tmp_path: Path, root: Path) -> None:
    (root / "bird").mkdir()
    with pytest.raises(DataError, match="there are: bird 0"):
        prepare(folder(root), tmp_path / "data", no_fetch)


def test_shares_that_leave_nothing() -> None:
    with pytest.raises(ValueError, match="leave nothing to train on"):
        ImageFolder(path="x", size=[4, 4], validation=0.5, test=0.5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30))
def test_any_name_of_a_file_or_class(tmp_path: Path, name: str) -> None:
    root = tmp_path / "names"
    shutil.rmtree(root, ignore_errors=True)
    for number in range(3):
        draw(root / "other" / f"{number}.png", number)
        draw(root / f"a{name}" / f"b{name}{number}.png", 9 + number)
    names = prepare(folder(root), tmp_path / "data", no_fetch).facts["class_names"]
    assert sorted(names) == sorted(["other", f"a{name}"])
