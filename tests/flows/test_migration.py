"""lab migrate, store by store on a real PostgreSQL: equal values, sequences that go on, all or nothing. All stores: test_team_e2e."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import postgresql
import pytest

from components.errors import RequestError, RunError
from flows import databases, migration
from flows.lab import postgres
from flows.lab.settings import Settings
from flows.records.store import Store
from flows.search import storage

pytestmark = postgresql.needs_postgresql
NUMBERS = count()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with postgresql.server() as port:
        yield port


@pytest.fixture
def lab(port: int, tmp_path: Path) -> Settings:
    """A lab with SQLite files, and an address with the lab's and Optuna's tables in an empty database, far from UTC."""
    (tmp_path / "secret").write_text(postgresql.PASSWORD)
    name = f"lab{next(NUMBERS)}"
    settings = Settings(tmp_path, database=f"postgresql+psycopg://lab@127.0.0.1:{port}/{name}", password_file=tmp_path / "secret")
    with postgres.connect(settings.lab_store.replace(f"/{name}", "/postgres")) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Seoul'")
    Store(settings.lab_store).close()
    databases.migrate_optuna(settings.optuna_store)
    return settings


def here(settings: Settings) -> Settings:
    """The same lab before it moved."""
    return Settings(settings.home)


def copy(settings: Settings, store: str, file: Path) -> dict[str, int]:
    with ExitStack() as transactions:
        return migration._copy(store, f"sqlite:///{file}", settings, transactions, None)


def evaluate(store: Store, run: str) -> dict[str, Any]:
    outcomes = {"index": np.arange(1000), "correct": np.arange(1000) % 3 == 0, "nll": np.linspace(0, 9, 1000)}
    store.add_evaluation(run, "test", data="digits", fingerprint="f" * 64, metrics={"accuracy": 0.25, "nll": math.inf}, outcomes=outcomes)
    return outcomes


def test_the_labs_own_tables(lab: Settings) -> None:
    with Store(here(lab).lab_store) as before:
        before.add_data("digits", "f" * 64, {"facts": {"classes": 10}, "name": "한글"})
        outcomes = [evaluate(before, run) for run in ("a", "b", "c")]
        before.link("a", mlflow_run="m", prefect_flow_run="p", optuna_study="s", optuna_trial=3)
        created = before.evaluations("b")[0].created
        assert copy(lab, "lab", lab.lab_database)["outcome_series"] == 9
        with Store(lab.lab_store) as after:
            assert after.links("m") == before.links("m")
            assert after.data()[0].card == {"facts": {"classes": 10}, "name": "한글"}
            found = after.evaluations("b")[0]
            assert (found.metrics, found.created.timestamp()) == ({"accuracy": 0.25, "nll": None}, created.replace(tzinfo=UTC).timestamp())
            assert all((after.outcomes("c", "test")[name] == values).all() for name, values in outcomes[2].items())
            evaluate(after, "d")  # the next number is one that no row has
            assert [each.run for each in after.evaluations()] == ["a", "b", "c", "d"]


def test_studies_with_every_kind_of_value(lab: Settings) -> None:
    store = storage.storage(here(lab))
    study = optuna.create_study(storage=store, study_name="mine", directions=["maximize", "minimize"])
    study.set_user_attr("plan", {"space": {"x": [1, None, "한글"]}})
    rates = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    for values in ([math.inf, -math.inf], [0.1 + 0.2, 1e-300]):
        trial = optuna.trial.create_trial(params={"rate": 1e-3}, distributions={"rate": rates}, values=values)
        study.add_trial(trial)
    study.enqueue_trial({"rate": 0.5})
    assert copy(lab, "optuna", lab.optuna_database)["trials"] == 3
    moved = optuna.load_study(study_name="mine", storage=storage.storage(lab))
    assert moved.user_attrs == study.user_attrs
    assert moved.directions == study.directions
    for old, new in zip(study.trials, moved.trials, strict=True):
        assert (new.values, new.params, new.distributions, new.state) == (old.values, old.params, old.distributions, old.state)
        assert new.datetime_start == old.datetime_start
    assert moved.ask().number == 2, "the waiting one"
    assert moved.ask().number == 3
    for each in (store, storage.storage(lab)):
        each.engine.dispose()


def test_what_does_not_arrive_leaves_nothing_behind(lab: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(here(lab).lab_store) as before:
        evaluate(before, "a")

    def forgetful(old: Any, new: Any, table: Any, real: Any = migration._copy_table) -> int:
        copied = real(old, new, table)
        if table.name == "outcome_series":
            new.execute(table.delete().where(table.c.name == "nll"))
        return int(copied)

    monkeypatch.setattr(migration, "_copy_table", forgetful)
    with pytest.raises(RunError, match="of 3 rows of outcome_series, 3 were sent and 2 arrived; nothing was kept"):
        copy(lab, "lab", lab.lab_database)

    def careless(old: Any, new: Any, table: Any, real: Any = forgetful.__defaults__[0]) -> int:
        copied = real(old, new, table)
        if table.name == "outcome_series":
            new.execute(table.update().where(table.c.name == "nll").values(kind="<f4"))
        return int(copied)

    monkeypatch.setattr(migration, "_copy_table", careless)
    with pytest.raises(RunError, match=r"a row of outcome_series did not arrive as it was: \[1, 'nll'\]; nothing was kept"):
        copy(lab, "lab", lab.lab_database)
    monkeypatch.undo()
    with Store(lab.lab_store) as after:
        assert after.evaluations() == []


def test_a_row_without_its_parent_is_refused(lab: Settings) -> None:
    with Store(here(lab).lab_store) as before:
        evaluate(before, "a")
    with closing(sqlite3.connect(lab.lab_database)) as connection, connection:
        connection.execute("DELETE FROM data")
    with pytest.raises(RunError, match=r"copying lab failed, and nothing was copied: .*foreign key constraint"):
        copy(lab, "lab", lab.lab_database)


def test_tables_that_nobody_knows_are_not_passed_over(lab: Settings) -> None:
    Store(here(lab).lab_store).close()
    with closing(sqlite3.connect(lab.lab_database)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("INSERT INTO mine VALUES (1)")
    with pytest.raises(RunError, match="the table mine of lab holds rows that this version does not know how to copy"):
        copy(lab, "lab", lab.lab_database)


def test_a_lab_that_is_used_is_not_overwritten(lab: Settings) -> None:
    migration._refuse_what_is_used("lab", lab)
    with Store(lab.lab_store) as store:
        evaluate(store, "a")
    with pytest.raises(RequestError, match="the PostgreSQL lab has 1 evaluations already, and they would be lost"):
        migration._refuse_what_is_used("lab", lab)


def test_artifacts_move_with_their_addresses(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "lab", artifact_store=str(tmp_path / "shared"))
    (settings.artifacts / "run").mkdir(parents=True)
    (settings.artifacts / "run" / "file").write_text("content")
    assert migration._copy_artifacts(settings, lambda _: None) == (f"file://{tmp_path}/lab/artifacts", f"file://{tmp_path}/shared")
    assert (tmp_path / "shared" / "run" / "file").read_text() == "content"
    assert migration._copy_artifacts(Settings(tmp_path / "lab"), lambda _: None) is None


def test_nothing_to_copy_or_nowhere_to_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="LAB_DATABASE_URL says where to: it is not set"):
        migration.migrate(Settings(tmp_path))
    with pytest.raises(RequestError, match=r"there is nothing to copy: .* has no databases"):
        migration.migrate(Settings(tmp_path, database="postgresql+psycopg://lab@127.0.0.1:1/lab"))
