"""Running texts: blocks that follow each other, targets one token on, characters counted, the Bible parsed and never imported."""

import os
from pathlib import Path

import pytest
import torch

from components.data.prepared import prepare
from components.data.sources import Sources
from components.data.text_stream import IGNORED, KING_JAMES, KingJames, StreamSplit, TextFile, TinyShakespeare
from components.data.tokens import PAD, Vocabulary
from components.errors import DataError, RequestError


def text_file(tmp_path: Path, text: str, **settings) -> TextFile:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    return TextFile(path=str(tmp_path / "text.txt"), **{"tokens": "character", "block": 4} | settings)


def test_blocks_by_hand():
    split = StreamSplit(torch.tensor([5, 6, 7, 8, 9, 4], dtype=torch.int32), torch.tensor([1, 2, 4, 5, 6, 9]), block=3)
    assert len(split) == 2
    batch = split.batch(torch.tensor([0, 1]))
    assert batch["inputs"].tolist() == [[5, 6, 7], [8, 9, PAD]]
    assert batch["targets"].tolist() == [[6, 7, 8], [9, 4, IGNORED]]
    assert batch["lengths"].tolist() == [3, 2]
    assert batch["characters"].tolist() == [4, 4]  # those of 6, 7, 8 and of 9, 4


def test_every_token_but_the_first_is_asked_about_once(tmp_path: Path):
    text = "".join(chr(97 + place % 26) for place in range(403))
    data = text_file(tmp_path, text)
    found = prepare(data, tmp_path / "data", lambda _: tmp_path)
    vocabulary = Vocabulary.load(found.facts["vocabulary"])
    said = ""
    for name in ("train", "validation", "test"):
        split = found.splits[name]
        batch = split.batch(torch.arange(len(split)))
        asked = batch["targets"][batch["targets"] != IGNORED]
        part = vocabulary.decode([int(batch["inputs"][0, 0]), *asked.tolist()])
        assert int(batch["characters"].sum()) == len(part) - 1
        said += part
    assert said == text
    assert found.card["counts"]["train"]["characters"] == 363
    assert (found.facts["classes"], found.facts["predicts"]) == (30, "next")


def test_characters_of_longer_tokens_include_the_spaces_between(tmp_path: Path):
    data = text_file(tmp_path, "one two  three four\n" * 30, tokens="word")
    found = prepare(data, tmp_path / "data", lambda _: tmp_path)
    split = found.splits["train"]
    counted = int(split.batch(torch.arange(len(split)))["characters"].sum())
    assert counted == found.card["counts"]["train"]["characters"] - len("one") - len("\n")


def test_unknown_characters_are_counted(tmp_path: Path):
    found = prepare(text_file(tmp_path, "ab" * 190 + "☃" * 20), tmp_path / "data", lambda _: tmp_path)
    assert found.card["counts"]["train"]["unknown"] == 0
    assert found.card["counts"]["test"]["unknown"] == 20


def test_too_short_and_missing(tmp_path: Path):
    with pytest.raises(DataError, match="the text is too short: its validation part has 1 tokens"):
        prepare(text_file(tmp_path, "a" * 20), tmp_path / "data", lambda _: tmp_path)
    with pytest.raises(RequestError, match="there is no file"):
        TextFile(path=str(tmp_path / "none")).recipe()


def test_the_bible_is_parsed_and_never_run(tmp_path: Path):
    module = tmp_path / "bible.py"
    module.write_text(
        'raise SystemExit("imported")\nbible = Bible("short", """\nAnd God said, [it was] good.\n' + "Amen. " * 100 + '""")\n'
    )
    asked = []
    data = KingJames(tokens="character", block=16)
    found = prepare(data, tmp_path / "data", lambda source: asked.append(source) or module)
    assert asked == [KING_JAMES]
    batch = found.splits["train"].batch(torch.tensor([0, 1]))
    assert (
        Vocabulary.load(found.facts["vocabulary"]).decode(batch["inputs"].flatten().tolist()) == "And God said, it was good.\nAmen. "[:32]
    )


@pytest.mark.data
def test_tiny_shakespeare_has_its_known_size_and_split(tmp_path: Path):
    mirror = os.environ.get("LAB_DATA_MIRROR")
    if not mirror:
        pytest.skip("LAB_DATA_MIRROR is not set: no tinyshakespeare")
    data = TinyShakespeare(tokens="character", vocabulary_limit=1000)
    found = prepare(data, tmp_path / "data", Sources(tmp_path / "downloads", mirror, offline=True))
    counts = found.card["counts"]
    assert [counts[name]["characters"] for name in ("train", "validation", "test")] == [1_003_855, 55_769, 55_770]  # of 1,115,394
    assert found.facts["vocabulary_size"] == 65 + 4
    assert sum(count["unknown"] for count in counts.values()) == 0
    start = found.splits["train"].batch(torch.tensor([0]))["inputs"][0].tolist()
    assert Vocabulary.load(found.facts["vocabulary"]).decode(start).startswith("First Citizen:\nBefore we proceed any further")
