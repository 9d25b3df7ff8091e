"""The lab's own tables keep what a paired comparison needs, and refuse what would make it wrong."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select

from components.errors import RequestError, RunError
from flows.records import tables
from flows.records.store import Links, Store

CARD = {"licence": "BSD-3", "counts": {"test": 4}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'lab.db'}") as opened:
        yield opened


def evaluate(store: Store, run: str, index: list[int], correct: list[bool], *, fingerprint: str = "f" * 64, split: str = "test") -> None:
    nll = [0.5 * place for place in index]
    metrics = {"accuracy": sum(correct) / len(correct), "nll": float("nan")}
    store.add_evaluation(
        run,
        split,
        data="digits",
        fingerprint=fingerprint,
        metrics=metrics,
        outcomes={"index": torch.tensor(index), "correct": torch.tensor(correct), "nll": nll},
    )


def test_paired_outcomes_are_aligned_by_example(store: Store) -> None:
    evaluate(store, "a", [0, 1, 2, 3], [True, True, False, False])
    evaluate(store, "b", [3, 1, 0, 2], [True, False, False, True])  # its batches came in another order
    a, b = store.paired("a", "b", "test", series="correct")
    assert (a.tolist(), b.tolist()) == ([True, True, False, False], [False, False, True, True])
    assert a.dtype == np.bool_
    a, b = store.paired("a", "b", "test", series="nll")
    assert a.tolist() == b.tolist() == [0.0, 0.5, 1.0, 1.5]


def test_outcomes_on_different_data_are_not_paired(store: Store) -> None:
    evaluate(store, "a", [0, 1], [True, False])
    evaluate(store, "b", [0, 1], [True, False], fingerprint="e" * 64)
    evaluate(store, "c", [0, 2], [True, False])
    with pytest.raises(RequestError, match=r"a and b .* different data \(fingerprints ffffffffffff and eeeeeeeeeeee\)"):
        store.paired("a", "b", "test", series="correct")
    with pytest.raises(RequestError, match=r"a and c .* different examples of test"):
        store.paired("a", "c", "test", series="correct")
    with pytest.raises(RequestError, match=r"a has no evaluation on validation \(it has: test\)"):
        store.paired("a", "b", "validation", series="correct")
    with pytest.raises(RequestError, match=r"no outcome 'margin' on test .*correct, nll"):
        store.paired("a", "a", "test", series="margin")


def test_evaluating_again_replaces_what_was_kept(store: Store) -> None:
    evaluate(store, "a", [0, 1], [True, False])
    evaluate(store, "a", [0, 1], [True, True])
    evaluate(store, "a", [0], [False], split="validation")
    (test, validation) = store.evaluations("a")
    assert (test.split, test.metrics) == ("test", {"accuracy": 1.0, "nll": None})
    assert validation.split == "validation"
    assert store.outcomes("a", "test")["correct"].tolist() == [True, True]
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("select count(*) from outcome_series").fetchone() == (6,)  # the replaced ones are gone
    connection.close()


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ({"correct": [True]}, "have an `index`"),
        ({"index": [0, 1], "correct": [True]}, r"shape \(1,\), index has \(2,\)"),
        ({"index": [0, 0]}, "twice"),
        ({"index": [0], "words": ["a"]}, "not numbers"),
        ({"index": [[0]]}, "one number an example"),
    ],
)
def test_outcomes_that_cannot_be_aligned_are_refused(store: Store, outcomes: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.add_evaluation("a", "test", data="digits", fingerprint="f", metrics={}, outcomes=outcomes)
    assert store.evaluations() == []


def test_the_catalogue_keeps_the_first_card_that_says_something(store: Store) -> None:
    evaluate(store, "a", [0], [True])
    store.add_data("digits", "f" * 64, CARD)
    store.add_data("digits", "f" * 64, {"licence": "other"})
    store.add_data("cats", "a" * 64, {})
    assert [(data.name, data.card) for data in store.data()] == [("cats", {}), ("digits", CARD)]


def test_links_grow_and_are_found_by_any_name(store: Store) -> None:
    assert store.links("a") is None
    store.link("a", mlflow_run="m1")
    store.link("a", prefect_flow_run="p1")
    store.link("a", optuna_study="s", optuna_trial=0)
    expected = Links("a", "m1", "p1", "s", 0)
    assert (store.links("a"), store.links("m1"), store.links("p1")) == (expected, expected, expected)


def test_an_unknown_newer_schema_is_one_clear_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    Store(url).close()
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        connection.execute("update schema_version set number = 99")
    connection.close()
    with pytest.raises(RunError, match="has schema 99, this version of the lab knows 2: use the newer version"):
        Store(url)


def test_an_older_schema_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    with Store(url) as store:
        evaluate(store, "a", [0], [True])
    now = tables.SCHEMA
    monkeypatch.setattr(tables, "SCHEMA", now + 2)
    monkeypatch.setitem(tables.MIGRATIONS, now, lambda connection: connection.exec_driver_sql("create table extra (note text)"))
    monkeypatch.setitem(tables.MIGRATIONS, now + 1, lambda connection: connection.exec_driver_sql("insert into extra values ('here')"))
    with Store(url) as store:
        assert len(store.evaluations()) == 1
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        assert connection.execute("select number, note from schema_version, extra").fetchall() == [(now + 2, "here")]
    connection.close()


def test_a_database_from_before_sweeps_gets_their_workers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    Store(url).close()
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        connection.execute("drop table worker")
        connection.execute("update schema_version set number = 1")
    connection.close()
    with Store(url) as store, store.reading() as session:
        assert list(session.scalars(select(tables.Worker))) == []


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    Store(url).close()

    def half(connection: tables.Connection) -> None:
        connection.exec_driver_sql("create table extra (note text)")
        raise RunError("the step failed")

    now = tables.SCHEMA
    monkeypatch.setattr(tables, "SCHEMA", now + 1)
    monkeypatch.setitem(tables.MIGRATIONS, now, half)
    with pytest.raises(RunError, match="the step failed"):
        Store(url)
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        assert connection.execute("select number from schema_version").fetchall() == [(now,)]
        assert connection.execute("select count(*) from sqlite_master where name = 'extra'").fetchone() == (0,)
    connection.close()


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "lab.db").mkdir()
    (tmp_path / "other.db").write_text("not a database, whatever its name says")
    for name in ("lab.db", "other.db"):
        with pytest.raises(RunError, match="cannot be opened"):
            Store(f"sqlite:///{tmp_path / name}")


def test_many_writers_at_once_wait_for_one_another(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"

    def work(number: int) -> None:
        with Store(url) as store:  # the first ones make the tables at the same time
            for again in range(5):
                evaluate(store, f"run-{number}-{again}", [0, 1], [True, False])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with Store(url) as store:
        assert len(store.evaluations()) == 40


def test_those_who_open_a_new_database_first_at_once_wait_for_one_another(tmp_path: Path) -> None:
    """SQLite grants no wait to a switch to its write-ahead log: without a turn for it, one opening in 180 failed."""
    for again in range(40):
        url = f"sqlite:///{tmp_path / str(again) / 'lab.db'}"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda address: Store(address).close(), [url] * 8))


def test_sqlite_is_set_up_for_several_processes(store: Store) -> None:
    with store._engine.connect() as connection:
        settings = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "foreign_keys", "busy_timeout")]
    assert settings == ["wal", 1, 30_000]


def test_ten_thousand_examples_are_quick(store: Store) -> None:
    index = np.arange(10_000)
    nll = np.random.default_rng(0).random(10_000)
    start = time.perf_counter()
    for run in ("a", "b"):
        store.add_evaluation(run, "test", data="d", fingerprint="f", metrics={}, outcomes={"index": index, "nll": nll})
    a, b = store.paired("a", "b", "test", series="nll")
    assert time.perf_counter() - start < 2
    np.testing.assert_array_equal(a, nll)
    np.testing.assert_array_equal(b, nll)


def test_importing_it_brings_in_neither_torch_nor_numpy() -> None:
    program = "import sys, flows.records.store; print([m for m in ('torch', 'mlflow', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
