"""Many trials at a time in Optuna's database: what is written and read is what Optuna itself writes and reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from flows.search import bulk
from flows.search.bulk import Database, End


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/optuna.db")
    yield found
    found.engine.dispose()


def running(number: int) -> FrozenTrial:
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params={"rate": 0.1 * (number + 1), "layers": number, "activation": "relu"},
        distributions={
            "rate": FloatDistribution(0.01, 10.0, log=True),
            "layers": IntDistribution(0, 9),
            "activation": CategoricalDistribution(["tanh", "relu"]),
        },
        user_attrs={"run": f"s-{number}", "fixed": {"a": [1, None]}},
        system_attrs={"fixed_params": {"layers": number}},
    )


def every_kind_of_trial(study: optuna.Study) -> None:
    """What a study can hold: one trial of each state, values and reports that are no numbers, two objectives."""
    trial = study.ask()
    trial.suggest_float("rate", 1e-3, 1.0, log=True)
    trial.suggest_categorical("activation", ["tanh", "relu"])
    for step, value in enumerate([1.0, math.inf, -math.inf, math.nan]):
        study._storage.set_trial_intermediate_value(trial._trial_id, step, value)
    trial.set_user_attr("outcome", {"curve": [[1, 0.5]]})
    study.tell(trial, [0.25, -math.inf])
    study.tell(study.ask(), state=TrialState.PRUNED)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.enqueue_trial({"rate": 0.5}, user_attrs={"seed": 3})
    study.enqueue_trial({"rate": 0.6})
    study.ask()


def as_optuna_reads(study_id: int, database: Database, *arguments: Any) -> list[FrozenTrial]:
    return RDBStorage._get_trials(database, study_id, *(arguments or (None, set(), -1)))


def test_a_study_is_read_as_optuna_reads_it(database: Database) -> None:
    studies = [optuna.create_study(storage=database, directions=["maximize", "minimize"]) for _ in range(2)]
    for study in (studies[0], studies[1], studies[0]):
        every_kind_of_trial(study)
    for study in studies:
        mine, theirs = database._get_trials(study._study_id, None, set(), -1), as_optuna_reads(study._study_id, database)
        assert [_plain(trial) for trial in mine] == [_plain(trial) for trial in theirs]
        assert [list(trial.params) for trial in mine] == [list(trial.params) for trial in theirs]
    assert len(mine) == 5
    assert {trial.state.name for trial in mine} == {"COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING"}


@pytest.mark.parametrize("few", [1, 500])
def test_only_what_is_new_or_unfinished_is_read_again(database: Database, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(bulk, "FEW", few)
    study = optuna.create_study(storage=database, directions=["maximize", "minimize"])
    for _ in range(3):
        every_kind_of_trial(study)
    for wanted in (({4, 5, 14}, 8), ({2}, 8), (set(), 8), ({3}, 20)):
        assert [_plain(trial) for trial in database._get_trials(study._study_id, None, *wanted)] == [
            _plain(trial) for trial in as_optuna_reads(study._study_id, database, None, *wanted)
        ]
    found = database._get_trials(study._study_id, (TrialState.RUNNING,), set(), -1)
    assert [_plain(trial) for trial in found] == [
        _plain(trial) for trial in as_optuna_reads(study._study_id, database, (TrialState.RUNNING,), set(), -1)
    ]
    assert len(found) == 3


def test_trials_that_are_added_together_are_those_that_optuna_adds(database: Database) -> None:
    mine, theirs = (optuna.create_study(storage=database, study_name=name) for name in ("mine", "theirs"))
    templates = [running(number) for number in range(3)]
    templates.append(optuna.create_trial(value=0.5, params={}, distributions={}, user_attrs={"phase": "search"}))
    theirs.add_trials([templates[0]])
    mine.add_trial(templates[0])
    added = database.add(mine._study_id, templates[1:])
    theirs.add_trials(templates[1:])
    assert [number for number, _ in added] == [1, 2, 3]
    assert [_plain(trial) for trial in as_optuna_reads(mine._study_id, database)] == [
        _plain(trial) for trial in as_optuna_reads(theirs._study_id, database)
    ]
    assert [trial._trial_id for trial in mine.trials][1:] == [identity for _, identity in added]
    assert database.add(mine._study_id, []) == []


def test_trials_that_end_together_end_as_optuna_ends_them_and_those_that_had_ended_are_named(database: Database) -> None:
    study = optuna.create_study(storage=database, directions=["maximize", "minimize"])
    pairs = database.add(study._study_id, [running(number) for number in range(4)])
    study.tell(0, state=TrialState.FAIL)
    study._storage.set_trial_user_attr(pairs[1][1], "outcome", "half written")
    ends = [End(identity, TrialState.COMPLETE, {"outcome": {"n": number}}, (0.5, math.inf)) for number, identity in pairs[:3]]
    assert database.end([*ends, End(pairs[3][1], TrialState.FAIL, {"reason": "r"})]) == {pairs[0][1]}
    found = study.trials
    assert [trial.state.name for trial in found] == ["FAIL", "COMPLETE", "COMPLETE", "FAIL"]
    assert [trial.values for trial in found] == [None, [0.5, math.inf], [0.5, math.inf], None]
    assert [trial.user_attrs.get("outcome") for trial in found] == [None, {"n": 1}, {"n": 2}, None]
    assert found[3].user_attrs["reason"] == "r"
    assert all(trial.user_attrs["run"] == f"s-{trial.number}" for trial in found)
    assert all(abs((datetime.now() - trial.datetime_complete).total_seconds()) < 60 for trial in found if trial.datetime_complete)
    assert all(trial.datetime_complete for trial in found)


def test_nothing_of_several_trials_is_written_when_one_cannot_be(database: Database) -> None:
    study = optuna.create_study(storage=database)
    wrong = running(1)
    wrong.set_user_attr("x", object())
    with pytest.raises(TypeError, match="not JSON serializable"):
        database.add(study._study_id, [running(0), wrong])
    assert study.trials == []


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial is, but for its id and its times' last digits; NaN equals NaN."""
    found = {key: value for key, value in vars(trial).items() if key not in ("_trial_id", "_datetime_start", "datetime_complete")}
    found["intermediate_values"] = str(trial.intermediate_values)
    times = (trial.datetime_start, trial.datetime_complete)
    return {**found, "times": [None if time is None else time.replace(second=0, microsecond=0) for time in times]}
