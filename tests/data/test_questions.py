"""Questions: SQuAD's format, windows, the way from characters to tokens and back, what is refused and where it says so."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data.prepared import Prepared, prepare
from components.data.question_split import Question, QuestionSplit, tensors_of
from components.data.questions import QuestionsJsonl, SquadJson, Xquad, asked, squad, xquad
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.errors import DataError, OwnDataError

CONTEXT = "Nikola Tesla, born 1856 in Smiljan, moved to New York."


def vocabulary(*texts: str) -> Vocabulary:
    return TokenSettings(tokens="word").train([CONTEXT, "who where was he born ?", *texts], specials=BERTS_SPECIALS)


def own_split(questions: list[Question], words: Vocabulary, **sizes: int) -> QuestionSplit:
    return QuestionSplit(tensors_of(questions, words, 10)[0], words, **{"longest": 64, "overlap": 2} | sizes)


def question(answer: str, context: str = CONTEXT) -> Question:
    return Question("1", "where was he born ?", context, [(context.index(answer), answer)] if answer else [], "g", "here")


def squad_file(articles: int = 10) -> dict[str, Any]:
    def paragraph(a: int) -> dict[str, Any]:
        text = f"City {a} has {a}00 people. Its river is the Long{a}."
        answers = (
            [{"text": f"{a}00 people", "answer_start": text.index(f"{a}00")}],
            [{"text": f"Long{a}", "answer_start": text.index("Long")}],
        )
        asks = ("How many live there?", "Which river?")
        qas = [{"id": f"{a}-{n}", "question": ask, "answers": given} for n, (ask, given) in enumerate(zip(asks, answers, strict=True))]
        return {"context": text, "qas": qas}

    return {"version": "1.1", "data": [{"title": f"City_{a}", "paragraphs": [paragraph(a)]} for a in range(articles)]}


def prepared(tmp_path: Path, **settings: Any) -> Prepared:
    (tmp_path / "own.json").write_text(json.dumps(squad_file()))
    data = SquadJson(path=str(tmp_path / "own.json"), tokens="word", **settings)
    return prepare(data, tmp_path / "data", lambda source: pytest.fail(str(source)))


def test_an_answers_characters_become_tokens_and_back():
    words = vocabulary()
    batch = own_split([question("1856"), question("New York")], words).batch(torch.tensor([0, 1]))
    written = words.tokens(batch["inputs"][0].tolist())
    assert written[:8] == ["[CLS]", "where", "was", "he", "born", "?", "[SEP]", "Nikola"]
    assert [written[place] for place in (batch["starts"][0], batch["ends"][0])] == ["1856", "1856"]
    assert [words.tokens(batch["inputs"][1].tolist())[place] for place in (batch["starts"][1], batch["ends"][1])] == ["New", "York"]
    for row, answer in ((0, "1856"), (1, "New York")):
        begin, stop = batch["begins"][row, batch["starts"][row]], batch["stops"][row, batch["ends"][row]]
        assert batch["contexts"][row][begin:stop] == answer
    assert batch["answers"] == [["1856"], ["New York"]]
    assert batch["rows"].tolist() == [0, 1]
    within = batch["context_places"][0]
    assert written[int(within.nonzero()[0])] == "Nikola"
    assert written[int(within.nonzero()[-1])] == "."
    assert not within[written.index("[SEP]", 8) :].any()


def test_a_long_context_is_read_in_windows_that_overlap():
    context = " ".join(f"w{place}" for place in range(50))
    words = vocabulary(context)
    split = own_split([question("w30 w31", context), question("1856")], words, longest=21, overlap=4)  # 13 tokens of context a window
    batch = split.batch(torch.tensor([1, 0]))
    assert batch["rows"].tolist() == [0, 1, 1, 1, 1, 1, 1]  # 13, then 9 more each time: 50 = 13 + 4·9 + 1
    parts = [
        [token for token in words.tokens(row.tolist()) if token.startswith("w") and token[1:].isdigit()] for row in batch["inputs"][1:]
    ]
    assert parts[0] == [f"w{place}" for place in range(13)]
    assert parts[1] == [f"w{place}" for place in range(9, 22)]
    assert parts[5] == [f"w{place}" for place in range(45, 50)]
    assert int(batch["lengths"].max()) == 21
    inside = (batch["starts"] > 0).tolist()
    assert inside == [True, False, False, False, True, False, False]  # the window before it has w18 … w30
    window = inside.index(True, 1)
    begin, stop = batch["begins"][window, batch["starts"][window]], batch["stops"][window, batch["ends"][window]]
    assert context[begin:stop] == "w30 w31"
    assert batch["starts"][1] == batch["ends"][1] == 0


def test_a_question_without_an_answer_points_to_the_beginning():
    batch = own_split([question("")], vocabulary()).batch(torch.tensor([0]))
    assert (batch["starts"].tolist(), batch["ends"].tolist(), batch["answers"]) == ([0], [0], [[]])


def test_an_answer_within_a_token_takes_the_whole_token():
    batch = own_split([question("mil")], vocabulary()).batch(torch.tensor([0]))
    assert CONTEXT[batch["begins"][0, batch["starts"][0]] : batch["stops"][0, batch["ends"][0]]] == "Smiljan"


def test_articles_stay_together(tmp_path: Path):
    found = prepared(tmp_path)
    assert {name: count["examples"] for name, count in found.card["counts"].items()} == {"train": 14, "validation": 2, "test": 4}
    seen = [{split.context_texts.text(place) for place in range(len(split.contexts))} for split in found.splits.values()]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 10
    assert found.facts["predicts"] == "span"
    again = prepare(SquadJson(path=str(tmp_path / "own.json"), tokens="word", split_seed=1), tmp_path / "data", lambda _: tmp_path)
    assert again.splits["test"].text(0) == found.splits["test"].text(0)  # the same question
    assert {again.splits["test"].context_texts.text(0)} != {found.splits["test"].context_texts.text(0)}  # of another city


def test_what_is_wrong_in_a_file_is_said_with_its_place():
    good = squad_file(3)
    assert [one.id for one in squad(json.dumps(good), "f.json")][:2] == ["0-0", "0-1"]

    def broken(change: Any) -> str:
        changed = copy.deepcopy(good)
        change(changed["data"][1]["paragraphs"][0])
        return json.dumps(changed)

    for change, message in (
        (
            lambda p: p["qas"][1]["answers"][0].update(answer_start=3),
            r"f\.json: article 2, paragraph 1, question 2: the answer 'Long1' does not",
        ),
        (lambda p: p["qas"][0].pop("answers"), r"question 1 has no 'answers' \(it has: id, question\)"),
        (lambda p: p.update(context=7), r"article 2, paragraph 1: 'context' is not a text"),
        (lambda p: p.update(qas={}), r"article 2, paragraph 1: a list is expected"),
    ):
        with pytest.raises(DataError, match=message):
            squad(broken(change), "f.json")
    for place in (0, 2):
        good["data"][place]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    with pytest.raises(DataError, match=r"f\.json: 2 faults: article 1, paragraph 1, question 1: .*; article 3, paragraph 1, question 1: "):
        squad(json.dumps(good), "f.json")
    good = squad_file(3)
    for content, message in (("{", "not JSON"), ("[]", 'no "data"'), ('{"data": []}', "has no question")):
        with pytest.raises(DataError, match=message):
            squad(content, "f.json")
    good["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    assert squad(json.dumps(good), "f.json")[0].answers == []
    assert len({one.group for one in squad(json.dumps(good), "f.json", group="paragraph")}) == 3


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "own.json").write_text(" \n")
    with pytest.raises(OwnDataError, match=r"own\.json is empty$"):
        prepare(SquadJson(path=str(tmp_path / "own.json"), tokens="word"), tmp_path / "data", lambda _: tmp_path)


def test_too_few_articles(tmp_path: Path):
    (tmp_path / "own.json").write_text(json.dumps(squad_file(2)))
    with pytest.raises(DataError, match="there are 2 articles: 3 are the fewest"):
        SquadJson(path=str(tmp_path / "own.json"), tokens="word").prepare(lambda _: tmp_path, tmp_path)


def test_a_window_has_to_have_room():
    with pytest.raises(ValueError, match=r"leaves 13 tokens of context beside a question: overlap has to be less"):
        Xquad(longest=64, longest_question=48, overlap=16)


def test_own_lines(tmp_path: Path):
    rows = [{"q": "Where?", "text": f"In town {place // 2}.", "a": f"town {place // 2}" if place % 2 else ""} for place in range(20)]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = QuestionsJsonl(path=str(path), question="q", context="text", answer="a", tokens="word")
    found = prepare(data, tmp_path / "data", lambda _: tmp_path)
    assert [count["unanswerable"] for count in found.card["counts"].values()] == [7, 1, 2]
    assert [count["examples"] for count in found.card["counts"].values()] == [14, 2, 4]
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"a": "city"}))
    with pytest.raises(DataError, match=r"own\.jsonl: line 2: the answer 'city' does not stand in its context"):
        data.prepare(lambda _: tmp_path, tmp_path)


def test_xquads_file_is_fetched_by_its_hash(tmp_path: Path):
    (tmp_path / "f.json").write_text(json.dumps(squad_file()))
    sources = []
    card = Xquad(tokens="word", language="de").prepare(lambda source: sources.append(source) or tmp_path / "f.json", tmp_path)
    assert sources == [xquad("de")]
    assert card["counts"]["train"]["articles"] == 7


def test_a_person_asks(tmp_path: Path):
    found = prepared(tmp_path)
    data = SquadJson(path="gone.json", tokens="word", longest=256)
    batch = data.read("Which river? ||| City 3 has a river.", found.facts)
    assert (batch["questions"], batch["contexts"]) == (["Which river?"], ["City 3 has a river."])
    (tmp_path / "context.txt").write_text("City 4.\n")
    assert data.read(f"Which? ||| {tmp_path / 'context.txt'}", found.facts)["contexts"] == ["City 4.\n"]
    (tmp_path / "asked.json").write_text(json.dumps({"question": "Which?", "context": "City 5."}))
    assert data.read(str(tmp_path / "asked.json"), found.facts)["contexts"] == ["City 5."]
    assert (
        len(data.read(f"Which? ||| {'City 3 has a river. ' * 3000}", found.facts)["inputs"]) == 96
    )  # 251 of 18,000 tokens, then 187 more each
    for wrong, message in (
        ("Which river?", r"write a question, \|\|\| and the text"),
        ("||| City", "no question"),
        ("Which? ||| ", "no text behind"),
        ('{"question": "a"}', "needs two texts"),
        ("{", "not JSON"),
        (" ", "empty"),
    ):
        with pytest.raises(DataError, match=message):
            data.read(wrong, found.facts)


def test_both_forms_of_asking():
    assert asked("Who? ||| He ||| she") == ("Who?", "He ||| she")
    assert asked("Who? ||| he.txt \n") == ("Who?", "he.txt ")  # the space says that it is the text itself
    assert asked('{"question": " Who? ", "context": "He ||| she"}') == ("Who?", "He ||| she")
