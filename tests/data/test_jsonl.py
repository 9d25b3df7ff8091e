"""JSON lines that people bring."""

import json
from pathlib import Path

import pytest

from components.data.faults import FaultList
from components.data.jsonl import read_rows
from components.data.prepared import prepare
from components.data.text_csv import TextJsonl
from components.errors import DataError, OwnDataError


def test_rows_come_with_their_lines(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": " one ", "b": 2}\n\n{"b": "drei", "a": "1", "c": null}\n')
    faults = FaultList(path)
    assert list(read_rows(path, ("a", "b"), faults)) == [(1, {"a": "one", "b": "2"}), (3, {"a": "1", "b": "drei"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "x", "b": "y"}\n{"a": ', r"line 2 is not JSON"),
        ('["a"]', r"line 1 is not a JSON object"),
        ('{"a": "x", "bb": "y"}', r"line 1 has no 'b' \(it has: a, bb\)"),
        ('{"a": null, "b": "y"}', r"line 1: 'a' is neither a text nor a whole number"),
        ('{"a": true, "b": "y"}', r"line 1: 'a' is neither"),
        ("[" * 100_000, r"line 1 is not JSON"),
        ("\n \n", r"rows\.jsonl is empty"),
        ('{"a": 1}\n{"a": "x", "b": "y"}\n[]\n', r"rows\.jsonl: 2 faults: line 1 has no 'b' .*; line 3 is not a JSON object.*$"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: str, message: str):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        faults = FaultList(tmp_path / "rows.jsonl")
        list(read_rows(tmp_path / "rows.jsonl", ("a", "b"), faults))
        faults.check()


def test_twenty_faults_are_spelt_out_and_all_are_counted(tmp_path: Path):
    (tmp_path / "texts.jsonl").write_text('{"text": "x"}\n' * 23)
    with pytest.raises(OwnDataError) as caught:
        prepare(TextJsonl(path=str(tmp_path / "texts.jsonl")), tmp_path / "data", lambda _: tmp_path)
    assert caught.value.exit_code == 2
    lines = ", ".join(str(line) for line in range(2, 22))
    assert str(caught.value).endswith(
        f"texts.jsonl: 23 faults: line 1 has no 'label' (it has: text) (the same in lines {lines} and 2 more)"
    ), "which is one fault, of the request more likely than of the file"

    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text{line}": "x"}}\n' for line in range(23)))
    with pytest.raises(OwnDataError) as caught:
        prepare(TextJsonl(path=str(tmp_path / "texts.jsonl")), tmp_path / "data", lambda _: tmp_path)
    first, *others = str(caught.value).split("; ")
    assert first.endswith("texts.jsonl: 23 faults: line 1 has no 'text' (it has: text0) (did you mean 'text0'?)")
    assert [fault.split()[1] for fault in others[:-1]] == [str(line) for line in range(2, 21)]
    assert others[-1] == "and 3 more"


def test_labelled_lines_become_splits(tmp_path: Path):
    rows = [{"review": f"a {('fine', 'dull')[row % 2]} film {row}", "stars": row % 2} for row in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = prepare(TextJsonl(path=str(tmp_path / "texts.jsonl"), text="review", label="stars"), tmp_path / "data", lambda _: tmp_path)
    assert found.facts["class_names"] == ["0", "1"]
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 32, "validation": 4, "test": 4}
