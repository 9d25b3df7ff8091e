"""VOC's annotations: what is read, and every fault by file and line; and what becomes of annotated pictures."""

import io

import pytest
import torch
from PIL import Image

from components.data.annotated_pictures import Annotated, Report, divided, fault_of, write_annotated
from components.data.annotations import Annotation, Marked, read_voc
from components.data.detection import DetectionData
from components.errors import DataError

VOC = """<annotation>
 <filename>one.jpg</filename>
 <size><width>100</width><height>50</height></size>
 <object>
  <name>dog</name><difficult>1</difficult>
  <bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
 </object>
 <object>
  <name>cat</name>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>x7</xmax><ymax>8</ymax></bndbox>
 </object>
 <object><name> </name><bndbox><xmin>1</xmin></bndbox></object>
 <object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>
</annotation>"""


def test_voc_by_hand():
    annotation = read_voc(VOC.encode(), "one.xml")
    assert (annotation.picture, annotation.place) == ("one.jpg", "line 2")
    assert annotation.objects[0].written == "(11, 6, 30, 25)", "as the file has it"
    assert annotation.objects == [Marked("dog", (10, 5, 30, 25), True, "line 4")], "VOC counts from 1; a part of an object is none"
    assert annotation.faults == [
        ("line 9", "a side of the box is no number ('x7')"),
        ("line 13", "the object has no name"),
        ("line 14", "the object has no ymin"),
    ]


def test_what_is_no_voc_names_its_line():
    with pytest.raises(DataError, match=r"^a\.xml: line 2: it is not XML \(mismatched tag\)$"):
        read_voc(b"<annotation>\n</object>", "a.xml")
    with pytest.raises(DataError, match="begins with <html>"):
        read_voc(b"<html></html>", "a.xml")


@pytest.mark.parametrize("entity", ['a "dog"', 'a SYSTEM "file:///etc/hostname"', '% a "dog"'], ids=["internal", "external", "parameter"])
def test_xml_that_defines_entities_is_refused(entity):
    text = VOC.replace("<name>dog", "<name>&a;") if "%" not in entity else VOC
    with pytest.raises(DataError, match=r"^a\.xml: line 2: it defines entities, which no annotation does$"):
        read_voc(f"<!DOCTYPE annotation [\n<!ENTITY {entity}>]>\n{text}".encode(), "a.xml")
    assert read_voc(f"<!DOCTYPE annotation>\n{VOC}".encode(), "a.xml").objects == read_voc(f"\n{VOC}".encode(), "a.xml").objects


@pytest.mark.parametrize(
    ("box", "name", "reason"),
    [
        ((5, 5, 20, 20), "cow", "unknown class 'cow'"),
        ((20, 5, 10, 20), "dog", "inverted"),
        ((5, 5, 5, 20), "dog", "empty"),
        ((5, 5, 20, 60), "dog", "is beyond the picture of 100×50"),
        ((-9, 5, 20, 20), "dog", "is beyond"),
        ((float("nan"), 5, 20, 20), "dog", "not finite"),
        ((-1, 0, 100, 50), "dog", None),
    ],
)
def test_faults_of_a_box(box, name, reason):
    found = fault_of(Marked(name, box, False, "line 1"), 100, 50, ["dog"])
    assert found is None if reason is None else reason in found


def png(width=100, height=50):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def given():
    good = Marked("dog", (10, 5, 30, 25), False, "line 4")
    bad = Marked("dog", (30, 5, 10, 25), False, "line 9", written="(31, 6, 10, 25)")
    return [
        Annotated(Annotation("a.png", "a.xml", [good, bad]), png, "train"),
        Annotated(Annotation("b.png", "b.xml", []), png, "train"),
        Annotated(Annotation("c.png", "c.xml", [good], place="line 2"), lambda: b"no picture", "test"),
        Annotated(Annotation("d.png", "d.xml", [good], [("line 2", "odd")]), png, "test"),
    ]


def write(into, **changed):
    settings = {"size": [100, 50], "class_names": ["dog"], "faults": "drop", "without_objects": "drop", "report": Report()}
    return write_annotated(into, given(), **settings | changed)


def test_faults_are_dropped_and_listed(tmp_path):
    card = write(tmp_path)
    assert [(line["file"], line["reason"]) for line in card["unreadable"]] == [
        ("a.xml: line 9", "the box (31, 6, 10, 25) is inverted"),
        ("b.xml", "b.png has no objects"),
        ("c.xml: line 2", "c.png: not a picture in any known format"),
        ("d.xml: line 2", "odd"),
    ]
    assert {name: count["examples"] for name, count in card["counts"].items()} == {"train": 1, "test": 1}
    objects = DetectionData().open(tmp_path, card)["train"].objects(0)
    assert objects.boxes.tolist() == [[5, 10, 15, 50]], "half as wide, twice as high"


def test_pictures_without_objects_may_stay(tmp_path):
    card = write(tmp_path, without_objects="keep")
    assert card["counts"]["train"] == {"examples": 2, "objects": 1, "classes": {"dog": 1}}


def test_or_faults_are_fatal(tmp_path):
    with pytest.raises(
        DataError, match=r"^3 faults in the annotated pictures: a\.xml: line 9: the box .* is inverted; c\.xml: line 2: c\.png: not"
    ):
        write(tmp_path, faults="fail")
    with pytest.raises(DataError, match=r"^1 fault .*: b\.xml: b\.png has no objects$"):
        write(tmp_path, without_objects="fail")
    with pytest.raises(DataError, match=r"none of the pictures to train on can be used; a\.xml: line 4: unknown class 'dog'"):
        write(tmp_path, class_names=["cat"])


def test_shares_are_drawn_by_name():
    names = [f"{place}.jpg" for place in range(40)]
    splits = divided(names, {"validation": 0.1, "test": 0.2}, seed=0)
    assert [list(splits.values()).count(name) for name in ("train", "validation", "test")] == [28, 4, 8]
    assert divided(names[::-1], {"validation": 0.1, "test": 0.2}, seed=0) == splits
    assert divided(names, {"validation": 0.1, "test": 0.2}, seed=1) != splits


def test_objects_of_a_card_are_tensors(tmp_path):
    card = write(tmp_path, without_objects="keep")
    empty = DetectionData().open(tmp_path, card)["train"].objects(1)
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.dtype == torch.int64


def test_crowds_are_not_trained_on_and_count_neither_as_found_nor_as_missed(tmp_path):
    dog, crowd = (Marked("dog", (10, 5, 30, 25), which, "line 4", crowd=which) for which in (False, True))
    pictures = [Annotated(Annotation(f"{split}.png", "a", [crowd, dog]), png, split) for split in ("train", "validation", "test")]
    card = write_annotated(tmp_path, pictures, size=[50, 100], class_names=["dog"], faults="fail", without_objects="fail", report=Report())
    assert card["notes"] == ["boxes around crowds (iscrowd), which are not trained on: 1"]
    splits = DetectionData().open(tmp_path, card)
    assert {name: split.objects(0).difficult.tolist() for name, split in splits.items()} == {
        "train": [False],
        "validation": [True, False],
        "test": [True, False],
    }


def test_an_error_says_how_many_faults_it_does_not_name(tmp_path):
    bad = [Marked("dog", (30, 5, 10, 25), False, f"line {line}") for line in range(23)]
    pictures = [Annotated(Annotation("a.png", "a.xml", bad), png, "train")]
    for faults, without, why in (("drop", "drop", "none of the pictures to train on"), ("fail", "keep", "^23 faults")):
        with pytest.raises(DataError, match=why) as raised:
            write_annotated(tmp_path, pictures, size=[9, 9], class_names=["dog"], faults=faults, without_objects=without, report=Report())
        assert str(raised.value).endswith(f"and {4 if faults == 'drop' else 3} more")
