"""A user's own pairs in JSON lines: columns by name, long texts cut, one line about each mistake."""

import json
from pathlib import Path

import pytest
import torch

from components.data.pairs_jsonl import PairsJsonl
from components.data.prepared import prepare
from components.errors import DataError


def nothing(source: object) -> Path:
    raise AssertionError("nothing is fetched")


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_columns_by_name_and_long_texts_cut(tmp_path: Path):
    rows = [{"id": place, "body": f"number {place} of a long\ntext that says more", "head": f"number {place}"} for place in range(20)]
    path = written(tmp_path / "mine.jsonl", rows)
    data = PairsJsonl(path=path, source="body", target="head", tokens="word", longest=5, shared_vocabulary=True)
    found = prepare(data, tmp_path / "data", nothing)
    assert {name: count["examples"] for name, count in found.card["counts"].items()} == {"train": 16, "validation": 2, "test": 2}
    assert found.facts["vocabulary"] == found.facts["target_vocabulary"]
    batch = found.splits["train"].batch(torch.arange(16))
    assert batch["lengths"].tolist() == [5] * 16
    assert batch["originals"][0] == f"{batch['references'][0]} of a long text that says more"


def test_what_is_no_pair_is_one_line(tmp_path: Path):
    rows = [{"text": "a b", "summary": "a"}, {"text": "a b", "summary": " "}]
    path = written(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=r"mine.jsonl: line 2: 'summary' is empty$"):
        prepare(PairsJsonl(path=path), tmp_path / "data", nothing)
    with pytest.raises(DataError, match=r"mine.jsonl: 2 faults: line 1 has no 'head' .*; line 2 has no 'head'"):
        prepare(PairsJsonl(path=path, target="head"), tmp_path / "data", nothing)
    with pytest.raises(ValueError, match="source and target are both 'x'"):
        PairsJsonl(path=path, source="x", target="x")
