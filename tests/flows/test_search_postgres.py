"""Sweeps in PostgreSQL, as several machines use it: one setting, and the same promises. Starts a server of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import postgresql
import psycopg
import pytest

from flows.lab.settings import Settings
from flows.records.store import Store
from flows.search import storage
from flows.search.plan import Plan
from flows.search.results import Objective, Range
from flows.search.space import Parameter, Space
from flows.search.study import Sweep

pytestmark = postgresql.needs_postgresql


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database on a server of the tests' own."""
    with postgresql.server() as port:
        yield f"postgresql+psycopg://lab:{quote(postgresql.PASSWORD, safe='')}@127.0.0.1:{port}/postgres"


def test_the_first_who_come_make_the_tables_in_turn(database: str) -> None:
    """Eight at once find an empty database: each ends with the tables, none with an error."""
    url = database.replace("+psycopg", "").replace("/postgres", "")
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE race")
    ready, failed = threading.Barrier(8), []

    def come() -> None:
        ready.wait()
        try:
            Store(f"{database.removesuffix('postgres')}race").close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_many_workers_share_nothing_but_the_database(database: str, tmp_path: Path) -> None:
    rate = Parameter("optimizer.learning_rate", range=Range(0.001, 1.0, log=True), place=("space", "optimizer.learning_rate"))
    homes = [Settings(tmp_path / f"machine{number}", database=database) for number in range(3)]
    plan = Plan(name="mine", space={"x": 1}, sampler="tpe", trials=18, seeds=2)
    objectives = [Objective("validation/accuracy", "max")]
    Sweep.create(homes[0], "shared", overrides=[], plan=plan, space=Space((rate,)), objectives=objectives, seed=0)
    lost = Sweep.load(homes[0], "shared").take("elsewhere.example:1:1.00")
    assert lost is not None
    done: list[str] = []

    def work(settings: Settings) -> None:
        sweep = Sweep.load(settings, "shared")
        worker = sweep.presence.sign_in("shared")
        while (taken := sweep.take(worker)) is not None:
            sweep.complete((taken, {"seconds": 0.1, "samples": 1}, [taken.chosen["optimizer.learning_rate"]]))
            done.append(taken.run)

    threads = [threading.Thread(target=work, args=(settings,)) for settings in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 18
    assert lost.run in done
    results = Sweep.load(homes[1], "shared").results()
    assert Counter(trial.seed for trial in results.trials) == {0: 9, 1: 9}
    assert not any(settings.optuna_database.exists() or settings.lab_database.exists() for settings in homes)
    storage.storage(homes[0]).engine.dispose()
