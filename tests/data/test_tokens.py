"""Vocabularies: what a token is, what is unknown, that decoding gives the text back, and that marks cannot be smuggled in."""

import pytest

from components.data.tokens import END, PAD, SPECIALS, START, UNKNOWN, TokenSettings, Vocabulary
from components.errors import DataError

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
