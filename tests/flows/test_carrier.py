"""The carrier brings a sweep's trials to MLflow, each once and whole, whatever happens to it or to the server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from run_folders import begin, result, train

from flows.records.carrier import Carrier
from flows.records.journal import Journal
from flows.records.tracking import tracking_client

EXPERIMENT = "sweeps"


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """The folder of a sweep's trials."""
    folder = tmp_path / "sweeps" / "s" / "trials"
    folder.mkdir(parents=True)
    return folder


def carrier(trials: Path, uri: str, tmp_path: Path, tags: Any = lambda: {"mlflow.parentRunId": "p"}) -> Carrier:
    artifacts = (tmp_path / "artifacts").as_uri()
    return Carrier(trials, tracking_uri=lambda: uri, experiment=EXPERIMENT, artifacts=artifacts, tags=tags)


def ended(trials: Path, name: str, how: str = "result") -> Path:
    """A trial that has ended."""
    with Journal(trials / name) as journal:
        begin(journal)
        train(journal, 1, 20)
        if how == "result":
            result(journal)
        else:
            journal.event(how, reason=f"it {how}")
    return trials / name


def runs(uri: str) -> dict[str, Any]:
    client = tracking_client(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    assert len({run.data.tags["lab.run"] for run in found}) == len(found), "each once"
    return {run.data.tags["lab.run"]: run for run in found}


def test_each_end_is_told_as_what_it_was(trials: Path, mlflow_uri: str, tmp_path: Path) -> None:
    for name, how in (("a", "result"), ("b", "failed"), ("c", "pruned"), ("d", "interrupted")):
        ended(trials, name, how)
    with Journal(trials / "e") as journal:
        begin(journal)
    assert carrier(trials, mlflow_uri, tmp_path).deliver() == ["a", "b", "c", "d", "e"]
    found = runs(mlflow_uri)
    ends = {"a": "FINISHED", "b": "FAILED", "c": "KILLED", "d": "KILLED", "e": "KILLED"}
    assert {name: run.info.status for name, run in found.items()} == ends, "one whose worker died waits, as one that could say so"
    assert found["e"].data.tags["lab.reason"] == "interrupted; it goes on with its sweep"
    assert (found["c"].data.tags["lab.ended"], found["c"].data.tags["lab.reason"]) == ("pruned", "it pruned")
    whole = found["a"]
    assert whole.data.tags["mlflow.parentRunId"] == "p"
    assert (whole.data.metrics["summary/validation/accuracy"], whole.data.params["seed"]) == (0.9, "7")
    assert len(tracking_client(mlflow_uri).get_metric_history(whole.info.run_id, "train/loss")) == 20
    assert tracking_client(mlflow_uri).list_artifacts(whole.info.run_id) == [], "its files are on the sweep's own run"


def test_delivering_again_changes_nothing(trials: Path, mlflow_uri: str, tmp_path: Path) -> None:
    ended(trials, "a")
    assert carrier(trials, mlflow_uri, tmp_path).deliver() == ["a"]
    assert carrier(trials, mlflow_uri, tmp_path).deliver() == []
    (trials / "a" / "delivery.json").unlink()
    before = runs(mlflow_uri)["a"].info.run_id
    progress = '{"experiment": "sweeps", "brief": true, "begun": true}'  # a crash just after MLflow made the run
    (trials / "a" / "delivery.json").write_text(progress)
    assert carrier(trials, mlflow_uri, tmp_path).deliver() == ["a"]
    assert runs(mlflow_uri)["a"].info.run_id == before


def test_a_trial_that_is_taken_up_again_goes_on_in_its_run(trials: Path, mlflow_uri: str, tmp_path: Path) -> None:
    ended(trials, "a", "interrupted")
    found = carrier(trials, mlflow_uri, tmp_path)
    found.start()
    while "a" not in found._settled:
        threading.Event().wait(0.1)
    with Journal(trials / "a") as journal:
        begin(journal)
        train(journal, 1, 30)
        result(journal)
    assert found.finish(timeout=30)
    run = runs(mlflow_uri)["a"]
    assert run.info.status == "FINISHED"
    assert [point.step for point in tracking_client(mlflow_uri).get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 31))


def test_a_running_trial_is_shown_once_it_takes_long(
    trials: Path, mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.records.carrier.SECONDS_SHORT", 0.0)
    with Journal(trials / "a") as journal:
        begin(journal)
        train(journal, 1, 5)
        found = carrier(trials, mlflow_uri, tmp_path)
        assert found.deliver() == []
        assert runs(mlflow_uri)["a"].info.status == "RUNNING"
        result(journal)
    assert found.deliver() == ["a"]
    assert runs(mlflow_uri)["a"].info.status == "FINISHED"


def test_nothing_is_made_before_the_sweep_has_a_run(trials: Path, mlflow_uri: str, tmp_path: Path) -> None:
    ended(trials, "a")
    assert carrier(trials, mlflow_uri, tmp_path, tags=lambda: None).deliver() == []
    assert runs(mlflow_uri) == {}


def test_a_server_that_is_away_is_trouble_and_no_error(trials: Path, mlflow_uri: str, tmp_path: Path) -> None:
    ended(trials, "a")
    away = carrier(trials, "http://127.0.0.1:9", tmp_path)
    assert away.deliver() == []
    assert away.trouble is not None
    assert carrier(trials, mlflow_uri, tmp_path).deliver() == ["a"], "what did not arrive is still there"
