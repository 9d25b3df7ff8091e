"""What BERT is pretrained on: pieces, which words are asked about, which second piece stands there, what is fixed and what is not."""

from pathlib import Path

import pytest
import torch

from components.data.batches import Batches
from components.data.prepared import Prepared, prepare
from components.data.sentence_pairs import KingJamesPairs, TextFilePairs, packed, sentences
from components.data.text_stream import IGNORED, KING_JAMES
from components.data.tokens import BERTS_SPECIALS, Vocabulary
from components.errors import DataError, RequestError

WORDS = [f"{first}{last}" for first in "bcdfghklmn" for last in ("ale", "ore", "ine", "ump", "ark")]


def text(count: int = 900) -> str:
    """Sentences of five different words, none of them twice in two neighbours."""
    return " ".join(" ".join(WORDS[(7 * row + 11 * place) % len(WORDS)] for place in range(5)) + "." for row in range(count))


def prepared(tmp_path: Path, **settings) -> Prepared:
    (tmp_path / "text.txt").write_text(text())
    data = TextFilePairs(path=str(tmp_path / "text.txt"), tokens="word", longest=32, validation=0.2, test=0.2, **settings)
    return prepare(data, tmp_path / "data", lambda source: pytest.fail(str(source)))


def test_sentences_end_with_their_line_or_mark():
    assert sentences('He said, "Go!" She went. Why?\n\nNo end') == ['He said, "Go!"', "She went.", "Why?", "No end"]


def test_sentences_are_packed_and_long_ones_cut():
    assert packed([[1, 2], [3], [4, 5, 6], [7] * 9], 4) == [[1, 2, 3], [4, 5, 6], [7] * 4, [7] * 4, [7]]


def test_an_example_is_two_pieces_that_follow_each_other_or_not(tmp_path: Path):
    found = prepared(tmp_path)
    split, vocabulary = found.splits["train"], Vocabulary.load(found.facts["vocabulary"])
    assert found.facts["predicts"] == "pretraining"
    assert vocabulary.tokens(range(5)) == list(BERTS_SPECIALS)
    batch = split.batch(torch.arange(len(split)))
    truth = torch.where(batch["places"], batch["targets"], batch["inputs"])
    follow = 0
    for row, length in enumerate(batch["lengths"].tolist()):
        ids, segments = truth[row, :length].tolist(), batch["segments"][row, :length].tolist()
        first, second = split.pieces.row(2 * row).tolist(), split.pieces.row(2 * row + 1).tolist()
        assert ids[: len(first) + 2] == [vocabulary.start, *first, vocabulary.end]
        assert segments == [0] * (len(first) + 2) + [1] * (length - len(first) - 2)
        follows = ids[len(first) + 2 : -1] == second
        assert follows or bool(batch["elsewhere"][row])
        follow += int(batch["elsewhere"][row]) == 0
    assert 0.35 < follow / len(split) < 0.65
    assert not (batch["places"] & (truth < len(BERTS_SPECIALS))).any()  # no mark is asked about


def test_what_is_asked_about_is_masked_replaced_or_left(tmp_path: Path):
    found = prepared(tmp_path)
    split, vocabulary = found.splits["train"], Vocabulary.load(found.facts["vocabulary"])
    places = masked = kept = other = words = 0
    for epoch in range(30):
        batch = split.batch(torch.arange(len(split)), torch.Generator().manual_seed(epoch))
        asked, targets, inputs = batch["places"], batch["targets"], batch["inputs"]
        assert torch.equal(asked, targets != IGNORED)
        assert bool(asked.any(1).all())
        places += int(asked.sum())
        masked += int((inputs[asked] == vocabulary.mask).sum())
        kept += int((inputs[asked] == targets[asked]).sum())
        other += int(((inputs[asked] != targets[asked]) & (inputs[asked] != vocabulary.mask)).sum())
        words += int(batch["lengths"].sum()) - 3 * len(split)
        assert int(inputs[asked].min()) > 3  # replaced by words only
    assert abs(places / words - 0.15) < 0.01
    assert abs(masked / places - 0.8) < 0.02
    assert abs(other / places - 0.1) < 0.02
    assert abs(kept / places - 0.1) < 0.02


def test_evaluation_asks_the_same_whatever_the_batches_are_and_training_asks_anew(tmp_path: Path):
    split = prepared(tmp_path).splits["train"]
    whole, one = split.batch(torch.arange(6)), split.batch(torch.tensor([4]))
    length = int(one["lengths"][0])
    for name in ("inputs", "targets", "segments", "places"):
        assert torch.equal(whole[name][4, :length], one[name][0])
    assert whole["elsewhere"][4] == one["elsewhere"][0]
    batches = [Batches(split, batch_size=8, seed=3, shuffle=True) for _ in range(2)]
    first, again, later = next(batches[0].epoch(0)), next(batches[1].epoch(0)), next(batches[0].epoch(1))
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["places"].sum(1), later["places"].sum(1))


def test_the_commonest_word_is_the_training_splits(tmp_path: Path):
    found = prepared(tmp_path)
    card, split = found.card["commonest"], found.splits["test"]
    assert card["token"] == "."
    assert 0.15 < card["share"] < 0.18  # one of six
    batch = split.batch(torch.arange(len(split)))
    assert torch.equal(batch["commonest"], (batch["targets"] == card["number"]).sum(1))


def test_a_person_masks_words_or_gives_two_texts(tmp_path: Path):
    found = prepared(tmp_path)
    data, vocabulary = TextFilePairs(path="gone.txt", tokens="word"), Vocabulary.load(found.facts["vocabulary"])
    batch = data.read("bale [MASK] core [MASK]", found.facts)
    assert vocabulary.tokens(batch["inputs"][0].tolist()) == ["[CLS]", "bale", "[MASK]", "core", "[MASK]", "[SEP]"]
    assert batch["places"].int().tolist() == [[0, 0, 1, 0, 1, 0]]
    pair = data.read("bale ||| core", found.facts)
    assert pair["segments"].tolist() == [[0, 0, 0, 1, 1]]
    assert not pair["places"].any()
    for wrong, message in (
        ("bale core", r"write \[MASK\]"),
        ("a ||| b ||| c", r"\|\|\| once"),
        ("bale ||| ", "nothing in it"),
        ("", "empty"),
    ):
        with pytest.raises(DataError, match=message):
            data.read(wrong, found.facts)


def test_what_cannot_be_divided_is_refused(tmp_path: Path):
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(DataError, match=r"too short: its train part has \d+ pieces"):
        TextFilePairs(path=str(tmp_path / "short.txt"), tokens="word").prepare(lambda _: tmp_path, tmp_path)
    with pytest.raises(RequestError, match="there is no file"):
        TextFilePairs(path=str(tmp_path / "none.txt")).recipe()
    with pytest.raises(ValueError, match="too few for two pieces"):
        KingJamesPairs(longest=5)


def test_the_bible_is_read_out_of_its_module(tmp_path: Path):
    (tmp_path / "bible.py").write_text(f"name = 'x'\ntext = {('[In] ' + text())!r}\n")
    asked = []
    data = KingJamesPairs(tokens="word", longest=16)
    card = data.prepare(lambda source: asked.append(source) or tmp_path / "bible.py", tmp_path)
    assert asked == [KING_JAMES]
    assert sum(count["examples"] for count in card["counts"].values()) > 100
    assert "[" not in Vocabulary.load(card["facts"]["vocabulary"]).tokens(range(5, 60))
