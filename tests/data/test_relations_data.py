"""Sentences with two marked things: the task's format, own lines, where the marks stand, what is cut, what is refused."""

import json
from pathlib import Path

import pytest
import torch

from components.data.prepared import prepare
from components.data.relations import SEMEVAL, RelationsJsonl, SemevalRelations, encoded, semeval
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.errors import DataError

NAMES = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other"]


def sentence(row: int) -> str:
    verb = ("causes", "is caused by", "is near")[row % 3]
    return f"The <e1>thing{row % 7}</e1> {verb} the <e2>other{row % 5}</e2> today."


def task_file(rows: int = 60) -> str:
    return "".join(f'{row + 1}\t"{sentence(row)}"\r\n{NAMES[row % 3]}\r\nComment: none\r\n\r\n' for row in range(rows))


def test_the_tasks_format():
    found = semeval(task_file(2).replace("\r\n", "\n"), "f.txt")
    assert [one.relation for one in found] == NAMES[:2]
    assert found[1].text == "The <e1>thing1</e1> is caused by the <e2>other1</e2> today."
    assert found[1].place == "line 5"
    with pytest.raises(DataError, match=r"f\.txt: line 3 is no number, tab and sentence"):
        semeval('\n\n1 "a"\nOther\n', "f.txt")
    with pytest.raises(DataError, match=r"f\.txt: line 2 is no relation"):
        semeval('1\t"a"\nCause Effect\n', "f.txt")


def test_a_model_reads_a_token_for_each_mark(tmp_path: Path):
    (tmp_path / "f.txt").write_text(task_file(), newline="")
    asked = []
    data = SemevalRelations(tokens="word", lowercase=True, validation=0.2, test=0.2)
    found = prepare(data, tmp_path / "data", lambda source: asked.append(source) or tmp_path / "f.txt")
    assert asked == [SEMEVAL]
    assert found.facts["class_names"] == NAMES
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 36, "validation": 12, "test": 12}
    vocabulary, split = Vocabulary.load(found.facts["vocabulary"]), found.splits["train"]
    batch = split.batch(torch.tensor([4, 0]))
    written = vocabulary.tokens(batch["inputs"][0].tolist())
    thing, other = (split.text(4).split(f"<e{n}>")[1].split("<")[0] for n in (1, 2))
    assert written[:6] == ["[CLS]", "the", "[E1]", thing, "[/E1]", split.text(4).split("> ")[1].split()[0]]
    assert [written[place] for place in batch["places"][0].tolist()] == ["[E1]", "[E2]"]
    assert written[int(batch["places"][0, 1]) + 1] == other
    assert torch.equal(batch["baseline"], batch["targets"])  # the verb says it all
    given = data.read("A <e2>fire</e2> near the <e1>thing1</e1>", found.facts)
    assert [vocabulary.tokens(given["inputs"][0].tolist())[place] for place in given["places"][0].tolist()] == ["[E1]", "[E2]"]


def test_a_pretrained_vocabulary_lends_its_unused_tokens():
    words = ["[unused1]", "[unused2]", "[unused3]", "[unused4]"]
    vocabulary = TokenSettings(tokens="word").train(["a b c d e"], specials=(*BERTS_SPECIALS, *words))
    ids, places = encoded("a <e1>b</e1> c <e2>d</e2>", vocabulary, 20)
    assert vocabulary.tokens(ids) == ["[CLS]", "a", "[unused1]", "b", "[unused2]", "c", "[unused3]", "d", "[unused4]", "[SEP]"]
    assert places == [2, 6]
    with pytest.raises(DataError, match="has no tokens for the marks"):
        encoded("a <e1>b</e1> c <e2>d</e2>", TokenSettings(tokens="word").train(["a b"]), 20)


def test_both_ends_of_a_long_sentence_are_cut_but_never_between_the_marks():
    vocabulary = TokenSettings(tokens="word").train(["a b c"], specials=(*BERTS_SPECIALS, "[E1]", "[/E1]", "[E2]", "[/E2]"))
    long = "a " * 30 + "<e1>b</e1> c <e2>b</e2>" + " a" * 30
    ids, places = encoded(long, vocabulary, 15)
    written = vocabulary.tokens(ids)
    assert len(ids) == 15
    assert (written[0], written[-1]) == ("[CLS]", "[SEP]")
    assert [written[place] for place in places] == ["[E1]", "[E2]"]
    assert written.count("a") == 6
    with pytest.raises(DataError, match=r"from the first mark to the last there are 205 tokens; 13 are the most"):
        encoded("<e1>b</e1>" + " a" * 199 + "<e2>b</e2>", vocabulary, 15)


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        "<e1>a</e1> b",
        "<e1>a <e2>b</e1> c</e2>",
        "<e1>a</e1> <e1>b</e1> <e2>c</e2>",
        "</e1>a<e1> <e2>b</e2>",
        "<e1></e1> <e2>b</e2>",
    ],
)
def test_wrong_marks_are_refused(text: str):
    vocabulary = TokenSettings(tokens="word").train(["a b c"], specials=(*BERTS_SPECIALS, "[E1]", "[/E1]", "[E2]", "[/E2]"))
    with pytest.raises(DataError, match=r"mark two things|there is nothing between"):
        encoded(text, vocabulary, 20)


def test_own_lines_and_a_rare_relation_that_only_trains(tmp_path: Path):
    rows = [{"sentence": sentence(row), "kind": NAMES[row % 3]} for row in range(60)] + [{"sentence": sentence(1), "kind": "Rare"}]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = RelationsJsonl(path=str(path), text="sentence", relation="kind", tokens="word")
    found = prepare(data, tmp_path / "data", lambda _: tmp_path)
    assert found.card["only_in_training"] == ["Rare"]
    assert [count["classes"]["Rare"] for count in found.card["counts"].values()] == [1, 0, 0]
    rows[2]["sentence"] = "no marks here"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"own\.jsonl: line 3: mark two things"):
        data.prepare(lambda _: tmp_path, tmp_path)
    rows[0] = {"sentence": sentence(0)}
    rows[4]["kind"] = ""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    wanted = r"own\.jsonl: 3 faults: line 1 has no 'kind' .*; line 3: mark two things .*; line 5: 'kind' is empty$"
    with pytest.raises(DataError, match=wanted):
        data.prepare(lambda _: tmp_path, tmp_path)
    apart = f"The <e1>thing</e1> {'is ' * 30} near the <e2>other</e2>."
    path.write_text("\n".join(json.dumps({"sentence": sentence(row) if row % 7 else apart, "kind": NAMES[row % 3]}) for row in range(30)))
    with pytest.raises(DataError, match=r"5 faults: line 1: from the first mark .* \(the same in lines 8, 15, 22 and 29\)$"):
        RelationsJsonl(path=str(path), text="sentence", relation="kind", tokens="word", longest=20).prepare(lambda _: tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"line 1 has no 'text' \(it has: sentence, kind\)"):
        RelationsJsonl(path=str(path)).prepare(lambda _: tmp_path, tmp_path)
