"""Pairs of texts: teacher forcing's shift, splits without overlap, dates by rule, catalogues, a user's table, little padding."""

import gettext
import io
import os
from datetime import date
from pathlib import Path

import pytest
import torch

from components.data.batches import Batches
from components.data.parallel_text import PairSplit, vocabularies_of
from components.data.prepared import prepare
from components.data.ragged import Ragged
from components.data.sources import Sources
from components.data.tokens import END, PAD, START
from components.data.translations import LocalizedDates, Multi30k, ParallelTsv, catalogue_pairs, written
from components.errors import DataError


def nothing(source: object) -> Path:
    raise AssertionError(f"{source} was asked for")


def test_a_batch_by_hand():
    texts = Ragged.of_texts(["x", "y"])
    split = PairSplit(Ragged.of([[7, 8], [9]]), Ragged.of([[4], [5, 6]]), texts, texts)
    batch = split.batch(torch.tensor([0, 1]))
    assert batch["inputs"].tolist() == [[7, 8], [9, PAD]]
    assert batch["lengths"].tolist() == [2, 1]
    assert batch["decoder_inputs"].tolist() == [[START, 4, PAD], [START, 5, 6]]
    assert batch["targets"].tolist() == [[4, END, PAD], [5, 6, END]]
    assert batch["references"] == ["x", "y"]


@pytest.mark.parametrize(
    ("locale", "form", "expected"),
    [
        ("iso", "full", "2026-11-22"),
        ("en", "full", "Sunday, November 22, 2026"),
        ("de", "full", "Sonntag, 22. November 2026"),
        ("ko", "full", "2026년 11월 22일 일요일"),
        ("ko", "long", "2026년 11월 22일"),
    ],
)
def test_a_date_as_locales_write_it(locale, form, expected):
    assert written(date(2026, 11, 22), locale, form) == expected


def test_a_locale_that_does_not_exist():
    with pytest.raises(ValueError, match="'klingon' is no locale that Babel knows"):
        LocalizedDates(source="klingon")
    with pytest.raises(ValueError, match="source and target are both en"):
        LocalizedDates(source="en", target="en")


def test_dates_are_pairs_and_no_day_is_in_two_splits(tmp_path: Path):
    data = LocalizedDates(source="ko", examples=300, validation=50, test=100, tokens="character")
    found = prepare(data, tmp_path, nothing)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 150, "validation": 50, "test": 100}
    source, target = vocabularies_of(found.facts)
    days = []
    for split in found.splits.values():
        batch = split.batch(torch.arange(len(split)))
        days += batch["references"]
        for row, reference in enumerate(batch["references"]):
            year, month, day = (int(part) for part in reference.split("-"))
            assert source.decode(batch["inputs"][row].tolist()) == written(date(year, month, day), "ko", "full") == split.text(row)
            assert target.decode(batch["targets"][row].tolist()) == reference
    assert len(set(days)) == 300
    assert data.recipe() == LocalizedDates(source="ko", examples=300, validation=50, test=100, tokens="character").recipe()


def mo_file(messages: dict[str, str]) -> io.BytesIO:
    """A compiled catalogue, as the gettext manual lays it out."""
    ids = sorted(messages)
    texts = [[text.encode() for text in side] for side in (ids, [messages[name] for name in ids])]
    place = 28 + 16 * len(ids)
    tables, data = b"", b""
    for side in texts:
        for text in side:
            tables += len(text).to_bytes(4, "little") + (place + len(data)).to_bytes(4, "little")
            data += text + b"\0"
    head = [0x950412DE, 0, len(ids), 28, 28 + 8 * len(ids), 0, 0]
    return io.BytesIO(b"".join(number.to_bytes(4, "little") for number in head) + tables + data)


def test_pairs_of_a_catalogue():
    catalogue = mo_file(
        {
            "": "Content-Type: text/plain; charset=UTF-8\n",
            "Open\n file": "Ouvrir un fichier",
            "menu\x04Close": "Fermer",
            "OK": "OK",
            "%d file\0%d files": "%d fichier\0%d fichiers",
        }
    )
    assert catalogue_pairs(gettext.GNUTranslations(catalogue)) == [("Close", "Fermer"), ("Open file", "Ouvrir un fichier")]


def test_a_users_table(tmp_path: Path):
    table = tmp_path / "pairs.tsv"
    table.write_text("\n".join([f"wort {row}\tword {row}" for row in range(50)] + ["", "wort 1\tanother word 1"]), encoding="utf-8")
    found = prepare(ParallelTsv(path=str(table), tokens="word"), tmp_path / "data", nothing)
    sources = [split.text(place) for split in found.splits.values() for place in range(len(split))]
    assert sorted(sources) == sorted({f"wort {row}" for row in range(50)})  # the repeated source counts once
    table.write_text("eins\tone\nzwei two\ndrei\tthree\tand\n")
    with pytest.raises(DataError, match=r"pairs\.tsv: 2 faults: line 2 is not source, tab, target \(1 columns\); line 3 .* \(3 columns"):
        prepare(ParallelTsv(path=str(table)), tmp_path / "data", nothing)
    table.write_text("eins\tone\nzwei\ttwo\n")
    with pytest.raises(DataError, match="2 different pairs are too few"):
        prepare(ParallelTsv(path=str(table)), tmp_path / "data", nothing)


def test_long_training_pairs_are_left_out_and_others_cut(tmp_path: Path):
    table = tmp_path / "pairs.tsv"
    table.write_text("\n".join(f"{'a ' * (1 + row % 9)}{row}\tb" for row in range(90)))
    found = prepare(ParallelTsv(path=str(table), tokens="word", longest=5), tmp_path / "data", nothing)
    counts = found.card["counts"]
    assert counts["train"]["examples"] == 72 - counts["train"]["too_long"]
    assert counts["train"]["too_long"] > 0
    assert counts["test"]["examples"] == 9
    assert int(found.splits["test"].sources.lengths.max()) <= 5


@pytest.mark.data
def test_multi30k_has_its_published_sizes_and_little_padding(tmp_path: Path):
    mirror = os.environ.get("LAB_DATA_MIRROR")
    if not mirror:
        pytest.skip("LAB_DATA_MIRROR is not set: no Multi30k")
    data = Multi30k(tokens="bpe", vocabulary_limit=4000)
    found = prepare(data, tmp_path / "data", Sources(tmp_path / "downloads", mirror, offline=True))
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    assert found.splits["test"].text(0) == "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt."
    assert found.splits["test"].batch(torch.tensor([0]))["references"] == ["A man in an orange hat starring at something."]
    places = words = 0
    for batch in Batches(found.splits["train"], batch_size=64, seed=0, shuffle=True).epoch(0):
        places += batch["inputs"].numel() + batch["targets"].numel()
        words += int(batch["lengths"].sum()) + int((batch["targets"] != PAD).sum())
    assert 1 - words / places < 0.15
