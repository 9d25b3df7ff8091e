"""COCO's annotations: what is read, and every fault by line and place in its list."""

import json

import pytest

from components.data.annotations import Marked
from components.data.coco_annotations import read_coco
from components.errors import DataError

FILE = """{"info": {"annotations": [1]},
 "images": [
  {"id": 7, "file_name": "a.png"},
  {"id": "8", "file_name": "b.png"},
  {"id": 7, "file_name": "c.png"},
  {"id": 9, "file_name": "a.png"}, {"file_name": "d.png"},
  {"id": 10}, 5
 ],
 "categories": [{"id": 3, "name": "bee"}, {"id": 1, "name": "ant"},
  {"id": 3, "name": "cow"},
  {"id": 4, "name": "ant"},
  {"id": 5, "name": " "}],
 "annotations": [
  {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "iscrowd": 1},
  {"id": 2, "image_id": 7, "category_id": 9, "bbox": [1, 2, 10, -3.5]},

  {"id": 3, "image_id": 8, "category_id": 1, "bbox": [1, 2, 10]},
  {"id": 4, "image_id": 8, "category_id": 1, "bbox": [1, 2, "x", NaN]},
  {"id": 5, "image_id": 8, "bbox": [1, 2, 3, 4]},
  {"id": 6, "image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4]},
  {"id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}, null,
  {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]},
  {"image_id": 8, "category_id": 1, "bbox": [0, 0, 5, 6]},
  {"image_id": 8, "category_id": 1, "bbox": [0, 0, 7, 6]}
 ]}
"""


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(FILE)
    found = read_coco(path)
    assert found.class_names == ["ant", "bee"]
    first, second = found.pictures
    assert (first.picture, first.source, first.place) == ("a.png", "x.json", "line 3 (images[0])")
    assert first.objects == [
        Marked("bee", (1, 2, 11, 22), True, "line 14 (annotations[0])", crowd=True),
        Marked("category 9", (1, 2, 11, -1.5), False, "line 15 (annotations[1])"),
    ]
    assert first.objects[1].written == "[1, 2, 10, -3.5]"
    assert [each.box for each in second.objects] == [(0, 0, 5, 6), (0, 0, 7, 6)], "an annotation needs no id"
    assert second.faults == [
        ("line 17 (annotations[2])", "it has no bbox of four numbers"),
        ("line 18 (annotations[3])", "it has no bbox of four numbers"),
        ("line 19 (annotations[4])", "it has no category_id that is a whole number"),
    ]
    assert found.faults == [
        ("line 10 (categories[2])", "the category's id 3 is that of line 9 (categories[0]), too"),
        ("line 11 (categories[3])", "the category's name 'ant' is that of line 9 (categories[1]), too"),
        ("line 12 (categories[4])", "the category has no name"),
        ("line 5 (images[2])", "the picture's id 7 is that of line 3 (images[0]), too"),
        ("line 6 (images[3])", "the picture's file a.png is that of line 3 (images[0]), too"),
        ("line 6 (images[4])", "the picture has no whole number as its id"),
        ("line 7 (images[5])", "the picture has no file_name"),
        ("line 7 (images[6])", "the picture is no object of JSON"),
        ("line 20 (annotations[5])", "the annotation belongs to no picture that can be used (image_id 99)"),
        ("line 21 (annotations[6])", "the annotation has no image_id"),
        ("line 21 (annotations[7])", "the annotation is no object of JSON"),
        ("line 22 (annotations[8])", "the annotation's id 1 is that of line 14 (annotations[0]), too"),
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"images": [],\n oops}', r"^x\.json: line 2: it is not JSON"),
        ('{"images": [{}\n {}]}', r"line 2: it is not JSON \(Expecting ']'\)"),
        ('{"images": []} 3', r"it is not JSON \(Extra data\)"),
        ('{"images": [', r"it is not JSON \(Expecting value\)"),
        ("", "x.json is empty"),
        ("[1, 2]", r"^x\.json: it has no list 'images' \(COCO's files are one object with images, annotations, categories\)$"),
        ('{"images": [], "annotations": {"a": 1}, "categories": []}', "it has no list 'annotations'"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "has a number that is too long"),
    ],
)
def test_what_is_no_file_of_cocos_is_one_line(tmp_path, content, why):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=why) as raised:
        read_coco(tmp_path / "x.json")
    assert "\n" not in str(raised.value)


def test_lines_are_those_of_any_layout(tmp_path):
    content = {
        "images": [{"id": place, "file_name": f"{place}.png"} for place in range(30)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": place, "image_id": place, "category_id": 1, "bbox": [0, 0, place + 2, 5]} for place in range(30)],
    }
    for indent in (None, 1, 4):
        text = json.dumps(content, indent=indent)
        (tmp_path / "x.json").write_text(text)
        found = read_coco(tmp_path / "x.json")
        assert not found.faults
        for place, picture in enumerate(found.pictures):
            (marked,) = picture.objects
            assert marked.box == (0, 0, place + 2, 5)
            line = int(marked.place.split()[1])
            assert text[: text.index(f'"image_id": {place},')].count("\n") + 1 == line + (2 if indent else 0)
