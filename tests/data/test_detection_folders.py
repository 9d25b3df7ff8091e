"""Folders as VOC and COCO have them, end to end; and the public sets where the mirror is."""

import json
import os
from itertools import pairwise

import pytest
import torch
from PIL import Image

from components.data.detection_folders import CocoFolder, VocFolder
from components.data.detection_sets import Bccd, _starts
from components.data.prepared import prepare
from components.data.sources import Sources
from components.errors import DataError, RequestError

SETTINGS = {"size": [40, 80], "class_names": []}


def voc(root, count=10):
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for place in range(count):
        Image.new("RGB", (40, 40), (place, 0, 0)).save(root / "JPEGImages" / f"p{place}.png")
        (root / "Annotations" / f"p{place}.xml").write_text(
            f"<annotation><filename>p{place}.png</filename><object><name>{'ant' if place % 2 else 'bee'}</name>"
            f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{10 + place}</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    return root


def test_voc_is_divided_by_us(tmp_path):
    prepared = prepare(VocFolder(path=str(voc(tmp_path / "mine")), **SETTINGS), tmp_path / "data", None)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 8, "validation": 1, "test": 1}
    assert prepared.facts["class_names"] == ["ant", "bee"]
    train = prepared.splits["train"]
    for place in range(8):
        which = round(train.picture(place)[0, 0, 0].item())
        assert train.objects(place).boxes.tolist() == [[0, 0, 2 * (10 + which), 20]]
        assert train.objects(place).labels.tolist() == [0 if which % 2 else 1]


def test_moving_voc_changes_nothing_and_a_box_does(tmp_path):
    root = voc(tmp_path / "mine")
    first = VocFolder(path=str(root), **SETTINGS).recipe()
    (tmp_path / "elsewhere").mkdir()
    moved = root.rename(tmp_path / "elsewhere" / "yours")
    assert VocFolder(path=str(moved), **SETTINGS).recipe() == first
    assert VocFolder(path=str(moved), flip=0.5, **SETTINGS).recipe() == first, "augmentation comes later"
    file = moved / "Annotations" / "p0.xml"
    file.write_text(file.read_text().replace("<xmax>10", "<xmax>11"))
    assert VocFolder(path=str(moved), **SETTINGS).recipe() != first


def test_vocs_own_lists_and_faults(tmp_path):
    root = voc(tmp_path / "mine", 4)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, members in (("train", "p0\np1\n"), ("val", "p2 1\n"), ("test", "p3\n")):
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(members)
    (root / "JPEGImages" / "p1.png").write_bytes(b"torn")
    (root / "Annotations" / "p3.xml").write_text("<annotation>\n<object></annotation>")
    prepared = prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 1, "validation": 1}
    assert prepared.card["unreadable"] == [
        {"file": "p3.xml", "reason": "line 2: it is not XML (mismatched tag)"},
        {"file": "p1.xml: line 1", "reason": "p1.png: not a picture in any known format"},
    ]
    with pytest.raises(DataError, match=r"2 faults in the annotated pictures: p3\.xml: line 2"):
        prepare(VocFolder(path=str(root), faults="fail", **SETTINGS), tmp_path / "data", None)


def lists(root, **members):
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, lines in members.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(lines)


def test_a_picture_that_several_xmls_name_is_in_one_split(tmp_path):
    root = voc(tmp_path / "mine", 6)
    for place in range(4):
        copy = root / "Annotations" / f"q{place}.xml"
        copy.write_text((root / "Annotations" / "p0.xml").read_text().replace("<annotation>", "<annotation>\n"))
    (root / "JPEGImages" / "r.png").symlink_to("p1.png")
    (root / "Annotations" / "r.xml").write_text((root / "Annotations" / "p1.xml").read_text().replace("p1.png", "r.png"))
    prepared = prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert prepared.card["unreadable"] == [
        *({"file": f"q{place}.xml: line 2", "reason": "p0.png is there already (p0.xml)"} for place in range(4)),
        {"file": "r.xml: line 1", "reason": "r.png is there already (p1.xml)"},
    ]
    seen = [round(split.picture(place)[0, 0, 0].item()) for split in prepared.splits.values() for place in range(len(split))]
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"^5 faults in the annotated pictures: q0\.xml: line 2: p0\.png is there already \(p0\.xml\);"):
        prepare(VocFolder(path=str(root), faults="fail", **SETTINGS), tmp_path / "data", None)
    lists(root, train="q1\np2\n", val="p3\n", test="r\n")
    prepared = prepare(VocFolder(path=str(root), faults="fail", **SETTINGS), tmp_path / "data", None)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 2, "validation": 1, "test": 1}, "what no list has"


def test_what_vocs_lists_name_without_an_xml_or_twice_is_said(tmp_path):
    root = voc(tmp_path / "mine", 5)
    (root / "Annotations" / "p4.xml").rename(root / "Annotations" / "p 4.xml")
    lists(root, train="p0\np9  1\n\np 4\n", val="p1\np8", test="p2\np0 -1\n")
    prepared = prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert prepared.card["unreadable"] == [
        {"file": "train.txt: line 2", "reason": f"p9 has no p9.xml in {root / 'Annotations'}"},
        {"file": "val.txt: line 2", "reason": f"p8 has no p8.xml in {root / 'Annotations'}"},
        {"file": "test.txt: line 2", "reason": "p0 is there already (train.txt: line 1)"},
    ]
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    with pytest.raises(DataError, match=r"^3 faults in the annotated pictures: train\.txt: line 2: p9 has no p9\.xml"):
        prepare(VocFolder(path=str(root), faults="fail", **SETTINGS), tmp_path / "data", None)
    (root / "ImageSets" / "Main" / "train.txt").write_text("p7\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"none of the pictures to train on can be used; train\.txt: line 1: p7 has no p7\.xml"):
        prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)


def test_an_xml_that_is_a_link_to_nowhere_is_a_fault(tmp_path):
    root = voc(tmp_path / "mine", 5)
    (root / "Annotations" / "z.xml").symlink_to("nowhere.xml")
    prepared = prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert prepared.card["unreadable"] == [{"file": "z.xml", "reason": f"there is no such file in {root / 'Annotations'}"}]


def coco(root, names=("train2017", "val2017")):
    (root / "annotations").mkdir(parents=True)
    for name in names:
        (root / name).mkdir()
        for place in range(3):
            Image.new("RGB", (40, 40)).save(root / name / f"{place}.png")
        content = {
            "images": [{"id": place, "file_name": f"{place}.png"} for place in range(3)],
            "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}],
            "annotations": [{"id": place, "image_id": place, "category_id": 18, "bbox": [2, 4, 10, 20]} for place in range(3)],
        }
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


def test_coco(tmp_path):
    prepared = prepare(CocoFolder(path=str(coco(tmp_path / "mine")), **SETTINGS), tmp_path / "data", None)
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 3, "validation": 3}
    assert prepared.facts["class_names"] == ["bicycle", "dog"]
    objects = prepared.splits["validation"].objects(0)
    assert (objects.boxes.tolist(), objects.labels.tolist()) == ([[4, 4, 24, 24]], [1])


def test_cocos_captions_are_passed_over(tmp_path):
    root = coco(tmp_path / "mine")
    recipe = CocoFolder(path=str(root), **SETTINGS).recipe()
    (root / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    assert CocoFolder(path=str(root), **SETTINGS).recipe() == recipe
    assert len(prepare(CocoFolder(path=str(root), **SETTINGS), tmp_path / "data", None).splits["train"]) == 3


def test_one_json_is_divided_and_missing_pictures_are_said(tmp_path):
    root = coco(tmp_path / "mine", ("all",))
    (root / "all" / "1.png").unlink()
    prepared = prepare(CocoFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert sum(len(split) for split in prepared.splits.values()) == 2
    assert prepared.card["unreadable"][0]["file"] == "instances_all.json: line 1 (images[1])"
    assert prepared.card["unreadable"][0]["reason"].startswith("1.png: there is no such file in /")
    content = json.loads((root / "annotations" / "instances_all.json").read_text())
    content["annotations"] += [{"id": 9, "image_id": 99, "category_id": 18, "bbox": [0, 0, 5, 5]}, 7]
    content["categories"] += [{"id": 5}]
    content["images"] += [{"id": 3, "file_name": "2.png"}, {"id": 4, "file_name": "../../secret.png"}]
    (root / "annotations" / "instances_all.json").write_text(json.dumps(content))
    (root / "all" / "1.png").write_bytes((root / "all" / "2.png").read_bytes())
    prepared = prepare(CocoFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    assert [line["file"].partition(": ")[2] for line in prepared.card["unreadable"]] == [
        f"line 1 ({place})" for place in ("categories[2]", "images[3]", "annotations[3]", "annotations[4]", "images[4]")
    ]
    assert prepared.card["unreadable"][-1]["reason"] == f"../../secret.png: its name leads out of the folder {root}"
    assert sum(len(split) for split in prepared.splits.values()) == 3
    with pytest.raises(DataError, match=r"^5 faults in the annotated pictures: instances_all\.json: line 1 \(categories\[2\]\)"):
        prepare(CocoFolder(path=str(root), faults="fail", **SETTINGS), tmp_path / "data", None)


def test_a_voc_picture_that_is_missing_is_said_with_the_line_that_names_it(tmp_path):
    root = voc(tmp_path / "mine", 5)
    (root / "JPEGImages" / "p2.png").unlink()
    prepared = prepare(VocFolder(path=str(root), **SETTINGS), tmp_path / "data", None)
    (fault,) = prepared.card["unreadable"]
    assert fault == {"file": "p2.xml: line 1", "reason": f"p2.png: there is no such file in {root / 'JPEGImages'}"}


@pytest.mark.parametrize("kind", [VocFolder, CocoFolder])
def test_class_names_are_names_and_different(kind):
    for names, why in ((["cat", "dog", "cat"], "class_names has 'cat' twice"), (["cat", " "], "a name that is empty")):
        with pytest.raises(ValueError, match=why):
            kind(path="anywhere", size=[40, 80], class_names=names)


@pytest.mark.parametrize(("kind", "message"), [(VocFolder, "has no folder Annotations"), (CocoFolder, r"has no annotations/\*\.json")])
def test_other_folders_are_refused(kind, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        kind(path=str(tmp_path), **SETTINGS).recipe()
    with pytest.raises(RequestError, match="does not exist"):
        kind(path=str(tmp_path / "no"), **SETTINGS).recipe()


def test_tiles_overlap_by_half_and_reach_both_ends():
    assert _starts(400, 300) == [0, 100]
    assert _starts(300, 300) == [0]
    assert _starts(200, 300) == [0]
    starts = _starts(2299, 300)
    assert (starts[0], starts[-1]) == (0, 1999)
    assert max(b - a for a, b in pairwise(starts)) <= 150


@pytest.mark.data
@pytest.mark.skipif("LAB_DATA_MIRROR" not in os.environ, reason="LAB_DATA_MIRROR is not set")
def test_bccd(tmp_path):
    prepared = prepare(Bccd(size=[48, 64]), tmp_path, Sources(tmp_path / "downloads", os.environ["LAB_DATA_MIRROR"], offline=True))
    assert {name: len(split) for name, split in prepared.splits.items()} == {"train": 205, "validation": 87, "test": 72}
    assert sorted(line["file"] for line in prepared.card["unreadable"]) == [
        "BloodImage_00338.xml: line 158",
        "BloodImage_00343.xml: line 50",
    ]
    assert sum(count["objects"] for count in prepared.card["counts"].values()) == 4155 + 372 + 361 - 2
    boxes = torch.cat([prepared.splits["train"].objects(place).boxes for place in range(205)])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 64
