"""Labelled texts: a user's table, the vocabulary of the training split alone, unknown words counted, the baseline, what a person gives."""

import io
import re
import tarfile
from pathlib import Path

import pytest
import torch

from components.data.batches import Batches
from components.data.faults import FaultList
from components.data.movie_reviews import ARCHIVE, MEMBER, MovieReviews
from components.data.prepared import Prepared, prepare
from components.data.text_csv import TextCsv
from components.data.tokens import UNKNOWN, Vocabulary
from components.data.written import given_text
from components.errors import DataError, RequestError

GOOD, BAD = ["good", "fine", "lovely"], ["bad", "awful", "boring"]


def table(path: Path, rows: int = 60, header: str = "text,label") -> Path:
    lines = [header]
    for row in range(rows):
        words, label = (GOOD, "positive") if row % 2 else (BAD, "negative")
        lines.append(f'"a {words[row % 3]} film number{row}, {"very " * (row % 7)}long",{label}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepared(tmp_path: Path, **settings) -> Prepared:
    return prepare(TextCsv(path=str(table(tmp_path / "texts.csv")), **settings), tmp_path / "data", lambda source: pytest.fail(str(source)))


def test_a_table_becomes_splits(tmp_path: Path):
    found = prepared(tmp_path)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 48, "validation": 6, "test": 6}
    assert found.facts["class_names"] == ["negative", "positive"]
    assert found.facts["predicts"] == "sequence"
    split = found.splits["test"]
    batch = split.batch(torch.tensor([3, 0]))
    vocabulary = Vocabulary.load(found.facts["vocabulary"])
    for row, place in enumerate((3, 0)):
        ids = batch["inputs"][row, : batch["lengths"][row]].tolist()
        assert ids == vocabulary.encode(split.text(place))
        assert ("good" in split.text(place) or "fine" in split.text(place) or "lovely" in split.text(place)) == bool(batch["targets"][row])


def test_the_vocabulary_is_the_training_splits_and_unknown_words_are_counted(tmp_path: Path):
    found = prepared(tmp_path)
    vocabulary = Vocabulary.load(found.facts["vocabulary"])
    for name in ("train", "validation", "test"):
        split = found.splits[name]
        unknown = sum(vocabulary.encode(split.text(place)).count(UNKNOWN) for place in range(len(split)))
        assert found.card["counts"][name]["unknown"] == unknown
        assert unknown == (0 if name == "train" else 6)  # each text has a number that no other has


def test_the_baseline_stands_beside_each_example(tmp_path: Path):
    found = prepared(tmp_path)
    split = found.splits["test"]
    batch = split.batch(torch.arange(len(split)))
    assert torch.equal(batch["baseline"], batch["targets"])  # six words decide everything
    assert found.card["counts"]["test"]["baseline_accuracy"] == 1


def test_long_texts_are_cut(tmp_path: Path):
    found = prepared(tmp_path, longest=5)
    assert int(found.splits["train"].lengths.max()) == 5
    assert found.card["counts"]["train"]["cut"] == 48


def test_the_recipe_is_about_content_and_not_about_the_place(tmp_path: Path):
    one = TextCsv(path=str(table(tmp_path / "one.csv")))
    other = TextCsv(path=str(table(tmp_path / "other.csv")))
    assert one.recipe() == other.recipe()
    assert one.recipe() != TextCsv(path=str(table(tmp_path / "more.csv", rows=62))).recipe()
    with pytest.raises(RequestError, match=r"data\.path: there is no file .*none\.csv"):
        TextCsv(path=str(tmp_path / "none.csv")).recipe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words,label\na,b\n", r"no column 'text' \(its columns: words, label\)"),
        ("texts,label\na,b\n", "did you mean 'texts'"),
        ("text,label\nalone\n", "line 2 has fewer columns than the header"),
        ("text,label\n" + "a,same\n" * 9, "has 1 different labels; 2 to 1000 are needed"),
        ("text,label\n" + "a,x\n" * 9 + "b,y\n", "the label 'y' has 1 examples, and each needs 3"),
        ('text,label\n"a,x\n', "after line 1: unexpected end of data"),
        ("text,label\n" + "a,x\n" * 9 + "b,y\nc,z\n", r"2 faults: the label 'y' has 1 examples, .*; the label 'z' has 1 examples"),
        ("", r"t\.csv is empty"),
        ("text,label\na,x\n\nwell, not good,y\n", r"line 4 has more columns than the header \(a text with ',' in it has to be in quotes\)"),
        ('text,label\n"two\nlines",x\n"three\nmore, lines",y,z\n', "line 4 has more columns than the header"),
        ("id,text,label,note\na film,x,none\n", "line 2 has fewer columns than the header"),
        ('text,label\na\nb,x\nc,x,y\n"d', r"3 faults: line 2 has fewer .*; line 4 has more .*; after line 4: unexpected end of data$"),
        ("text,label,text\na,x,b\n", "the header has 'text' twice"),
        ("label,text,label,label\nx,a,y,z\n", "the header has 'label' 3 times"),
    ],
)
def test_a_wrong_table_is_one_clear_line(tmp_path: Path, content: str, message: str):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        TextCsv(path=str(tmp_path / "t.csv")).prepare(lambda _: tmp_path, tmp_path)


def test_columns_that_are_not_read_may_have_any_name(tmp_path: Path):
    (tmp_path / "t.csv").write_text("id,text,,label,id,\n1,a film,,x,2,\n3,the film,,y,4,\n")
    faults = FaultList("t.csv")
    assert list(TextCsv(path="t.csv")._rows(tmp_path / "t.csv", faults)) == [("a film", "x"), ("the film", "y")]
    assert not faults.found


def test_a_cell_may_be_longer_than_csvs_own_limit(tmp_path: Path):
    table(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open("a") as file:
        file.write(f"{'good ' * 40_000},positive\n")
    found = prepare(TextCsv(path=str(tmp_path / "t.csv"), longest=50), tmp_path / "data", lambda _: tmp_path)
    assert sum(len(split) for split in found.splits.values()) == 61
    assert sum(count["cut"] for count in found.card["counts"].values()) == 1


def test_a_file_that_is_no_text(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"text,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        TextCsv(path=str(tmp_path / "t.csv")).prepare(lambda _: tmp_path, tmp_path)


def test_what_a_person_gives(tmp_path: Path):
    found = prepared(tmp_path)
    data = TextCsv(path="gone.csv")
    batch = data.read("a good film", found.facts)
    assert Vocabulary.load(found.facts["vocabulary"]).tokens(batch["inputs"][0].tolist()) == ["a", "good", "film"]
    assert batch["lengths"].tolist() == [3]
    (tmp_path / "review.txt").write_text("\ufeffa bad\r\nfilm", encoding="utf-8")
    assert data.read(str(tmp_path / "review.txt"), found.facts)["lengths"].tolist() == [3]
    assert set(data.read("שלום ☃", found.facts)["inputs"][0].tolist()) == {UNKNOWN}
    long = data.read("good " * 20_000, found.facts)
    assert (long["lengths"].tolist(), long["truncated"]) == ([1000], (20_000, 1000)), "as in training"
    assert "truncated" not in batch
    for nothing in ("", " \n\t"):
        with pytest.raises(DataError, match="there is no text: it is empty"):
            data.read(nothing, found.facts)


def test_odd_names_are_texts():
    assert given_text("a\0b") == "a\0b"
    assert given_text("x" * 5000) == "x" * 5000
    assert given_text("y" * 400) == "y" * 400  # too long for a file's name
    with pytest.raises(DataError, match="not UTF-8"):
        given_text("\udcff")


@pytest.mark.parametrize("name", ["./nofile.csv", "missing_review.txt", "~/none.MD", "reviews/12", "/no/such/file"])
def test_a_mistyped_files_name_is_no_text(name: str):
    with pytest.raises(RequestError, match=f"^there is no file {re.escape(name)} \\(if it is the text itself, put a space behind it\\)$"):
        given_text(name)
    assert given_text(f"{name} ") == f"{name} "


def test_a_folder_is_no_text(tmp_path: Path):
    folder = tmp_path / "my reviews"
    folder.mkdir()
    with pytest.raises(RequestError, match=f"^{re.escape(str(folder))} is a folder; name the files in it"):
        given_text(str(folder))


@pytest.mark.parametrize(
    "text", ["22/11/2026", "<e1>Oslo</e1>…<e2>Bern</e2>", '{"a":"b/c"}', "Who?|||he/she", "good/bad it is", "good.", "data", "é/" * 300]
)
def test_texts_that_are_hardly_files_names_are_texts(text: str):
    assert given_text(text) == text


def test_padding_is_little_and_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path):
    lines = ["text,label"] + [f"{'word ' * (1 + (row * 7919) % 60)},{'xy'[row % 2]}" for row in range(3000)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = prepare(TextCsv(path=str(tmp_path / "t.csv")), tmp_path / "data", lambda _: tmp_path)
    batches = Batches(found.splits["train"], batch_size=32, seed=1, shuffle=True)
    padding = places = 0
    for batch in batches.epoch(0):
        places += batch["inputs"].numel()
        padding += batch["inputs"].numel() - int(batch["lengths"].sum())
    assert padding / places < 0.15
    again = Batches(found.splits["train"], batch_size=32, seed=1, shuffle=True)
    assert all(torch.equal(one, other) for one, other in zip(batches.order(3), again.order(3), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(batches.order(3), batches.order(4), strict=True))


def test_reviews_are_read_out_of_the_archive(tmp_path: Path):
    archive = tmp_path / "reviews.tar"
    lines = [f"{row}\t{(2.5 if row % 2 else -1.5)}\ta {'fine' if row % 2 else 'dull'} film {row}" for row in range(200)]
    lines += ["200\t0.5\tneither nor", "201\t-0.2\tso so"]
    content = "\r\n".join(lines).encode()
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(MEMBER)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    asked = []
    data = MovieReviews(validation=20, test=40)
    found = prepare(data, tmp_path / "data", lambda source: asked.append(source) or archive)
    assert asked == [ARCHIVE]
    assert found.card["left_out"] == 2
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 140, "validation": 20, "test": 40}
    split = found.splits["test"]
    targets = split.batch(torch.arange(40))["targets"].tolist()
    assert [("fine" in split.text(place)) for place in range(40)] == [bool(target) for target in targets]
