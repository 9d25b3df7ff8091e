"""What an experiment's parts say to the person who asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from flows import parts
from flows.lab.settings import Settings


def test_every_unreadable_picture_is_said(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(6):
            Image.new("L", (8, 8), 20 * place).save(tmp_path / "pictures" / name / f"{place}.png")
    (tmp_path / "pictures" / "cat" / "torn.png").write_bytes(b"not a picture")
    section = parts.data_section(["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.size=[8,8]"])
    said: list[str] = []
    for _ in range(2):  # found prepared, it is said again: the run that asks is another one
        said.clear()
        parts.prepare_data({"data": section}, Settings(tmp_path / "lab"), tell=lambda line: said.append(line["text"]))
        assert said[-1] == "left out: cat/torn.png: not a picture in any known format"


def test_many_unreadable_pictures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SHOWN", 2)
    card = {"unreadable": [{"file": f"{place}.png", "reason": "empty"} for place in range(5)]}
    lines = ["left out: 0.png: empty", "left out: 1.png: empty", "left out: 3 more; all are in mine/card.json"]
    assert list(parts._left_out(card, Path("mine/card.json"))) == lines


def test_rows_without_a_text_or_a_label_are_counted(tmp_path: Path) -> None:
    rows = [f"a {('bad', 'good')[row % 2]} film,{row % 2}" for row in range(40)]
    for empty, line in (([",1", "a film,", " ,0"], "3 rows without a text or a label"), (["a film, "], "1 row without a text or a label")):
        (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows, *empty]) + "\n")
        section = parts.data_section(["data=text_csv", f"data.path={tmp_path / 'texts.csv'}"])
        said: list[dict[str, str]] = []
        parts.prepare_data({"data": section}, Settings(tmp_path / "lab"), tell=said.append)
        assert said[-1]["text"] == f"left out: {line}"
    assert list(parts._left_out({"left_out": 3}, Path("card.json"))) == []  # what the data set's settings leave out is no fault of a file
    assert list(parts._left_out({"left_out": 0, "left_out_reason": "without a text or a label"}, Path("card.json"))) == []
