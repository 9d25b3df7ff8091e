"""Real sweeps (the long ones are `e2e`): workers killed at any moment, everything killed at once, and nothing lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from lab_command import start
from trainings import wait_for

from components.errors import Interrupted, RequestError, RunError
from flows import experiment
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.pretraining import Earlier
from flows.records import journal
from flows.records.tracking import tracking_client
from flows.reproduction import recorded
from flows.search.repair import repair
from flows.search.session import EXPERIMENT, SweepSession, sweep_here
from flows.search.space import overrides
from flows.search.study import Sweep


def common(epochs: int = 2) -> list[str]:
    """The experiment of these sweeps: as small as can be, with a checkpoint at nearly every step."""
    return ["experiment=mlp_digits", f"trainer.epochs={epochs}", "trainer.threads=1", "trainer.checkpoint_seconds=0.01"]


SEARCH = ["search=initializers", "search.space.initializer=[he_normal,xavier]", "search.seeds=2"]
SMALL = [*common(), *SEARCH]


def mlflow_runs(settings: Settings) -> list[Any]:
    client = tracking_client(settings.mlflow_store)
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    return list(client.search_runs([found.experiment_id], max_results=1000))


def agree(settings: Settings, name: str, asked: int) -> list[Any]:
    """All three stores say that `asked` trials are finished, once each, and nothing runs; returns the trials' runs in MLflow."""
    sweep = Sweep.load(settings, name)
    assert sweep.counts() == {"complete": asked, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert sweep.finished()
    assert not [trial for trial in sweep.study.trials if trial.state.name in ("RUNNING", "WAITING")]
    runs = mlflow_runs(settings)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.data.tags["lab.run"] for run in parents] == [name]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["lab.run"] for run in children) == sorted(trial.run for trial in sweep.results().trials)
    return children


def test_what_the_trials_begin_with_is_trained_first(tracked_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Earlier] = []
    before = Earlier("before", ["experiment=before"])
    begun = "pretrained=experiment:mlp_mnist"
    monkeypatch.setattr("flows.search.session.needed", lambda overrides, _: [before] if begun in overrides else [])
    monkeypatch.setattr("flows.search.session.train_first", lambda earlier, _: trained.append(earlier))
    with SweepSession({"overrides": [*SMALL, begun]}, tracked_settings) as session:
        session.accept()
        session.prepare()
    assert trained == [before]


def test_a_sweep_from_request_to_report(tracked_settings: Settings) -> None:
    lines: list[dict[str, Any]] = []
    with SweepSession({"overrides": [*SMALL, "search.workers=2"]}, tracked_settings, watch=lines.append) as session:
        found = sweep_here(session)
    children = agree(tracked_settings, found["sweep"], 4)
    assert {run.data.params["initializer._target_"].rpartition(".")[2] for run in children} == {"HeNormal", "Xavier"}
    assert Counter(run.data.params["seed"] for run in children) == {"0": 2, "1": 2}
    assert all(
        len(tracking_client(tracked_settings.mlflow_store).get_metric_history(run.info.run_id, "validation/accuracy")) == 2
        for run in children
    )
    values = {trial.run: trial.values[0] for trial in session.sweep.results().trials if trial.values} if session.sweep else {}
    for run in children:
        assert run.data.metrics["summary/validation/accuracy"] == pytest.approx(values[run.data.tags["lab.run"]])
        assert not [name for name in run.data.metrics if name.startswith("test/") and "evaluation" not in name]
    assert {line["worker"] for line in lines if line["kind"] == "trial"} == {0, 1}
    again = recorded(children[0].data.tags["lab.run"], tracked_settings)
    assert again.config == experiment.read_config(tracked_settings.sweeps / found["sweep"] / "trials" / children[0].data.tags["lab.run"])
    report = Path(found["report"])
    assert "<img" in report.read_text(encoding="utf-8")
    stored = {file.path for file in tracking_client(tracked_settings.mlflow_store).list_artifacts(found["mlflow_run_id"], "report")}
    assert "report/report.html" in stored
    assert found["metrics"]["test/accuracy"] > 0.2


def test_one_trial_is_the_training_that_it_names(tracked_settings: Settings, tmp_path: Path) -> None:
    with SweepSession({"overrides": [*SMALL, "search.trials=2"]}, tracked_settings) as session:
        sweep_here(session)
        assert session.sweep is not None
        trials = session.sweep.results().trials
    for trial in trials:
        config = validate(compose([*common(), *overrides(trial.params), f"seed={trial.seed}"]))
        alone = experiment.run(config, experiment.create(config, tracked_settings), tracked_settings, draw=False)
        folder = tracked_settings.sweeps / session.name / "trials" / trial.run
        assert weights(folder) == alone["weights_sha256"]
        assert trial.values == (alone["metrics"]["validation/accuracy"],)
        assert trial.samples == 2 * 1257


def weights(folder: Path) -> str:
    return next(str(line["facts"]["weights_sha256"]) for line in journal.read(folder) if line.get("event") == "result")


@pytest.mark.e2e
def test_workers_killed_at_any_moment_lose_nothing(tracked_settings: Settings) -> None:
    """Each worker's first process dies while it trains, the others between trials; every trial goes on from its checkpoint."""
    killed: list[int] = []

    def watch(line: dict[str, Any]) -> None:
        dying = (line["kind"] == "progress" and line["step"] > 20) or (line["kind"] == "trial" and line["state"] == "complete")
        if dying and len(killed) < 4:
            assert session.crew is not None
            child = session.crew.children[line["worker"]]
            if child.process.pid not in killed and child.process.poll() is None:
                killed.append(child.process.pid)
                child.process.kill()

    with SweepSession({"overrides": [*SMALL, "search.workers=2", "trainer.log_every=5"]}, tracked_settings, watch=watch) as session:
        found = sweep_here(session)
    assert len(killed) == 4
    agree(tracked_settings, found["sweep"], 4)
    assert session.sweep is not None
    for trial in session.sweep.results().trials:
        folder = tracked_settings.sweeps / found["sweep"] / "trials" / trial.run
        config = experiment.read_config(folder)
        alone = experiment.run(config, experiment.create(config, tracked_settings), tracked_settings, draw=False)
        assert weights(folder) == alone["weights_sha256"], "a trial that was broken off ends with the same weights, bit for bit"


@pytest.mark.e2e
def test_everything_killed_at_once_is_repaired_and_goes_on(tracked_settings: Settings) -> None:
    arguments = ["sweep", *common(30), *SEARCH, "search.workers=2", "--name", "cut", "--json"]
    with start(tracked_settings, *arguments) as command:
        trials = tracked_settings.sweeps / "cut" / "trials"
        wait_for(lambda: any(line.get("event") == "result" for folder in trials.glob("*") for line in journal.read(folder)), 90)
        wait_for(lambda: any(journal.is_open(folder) for folder in trials.glob("*")), 30)
        everyone = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
        for process in everyone:
            process.kill()
        psutil.wait_procs(everyone, timeout=10)
    before = Sweep.load(tracked_settings, "cut")
    assert before.counts()["running"] > 0
    changed = repair(tracked_settings)
    assert changed.trials.keys() == {"cut"}
    assert before.counts()["running"] == 0
    assert "cut" in changed.delivered
    assert not {run.info.status for run in mlflow_runs(tracked_settings)} & {"RUNNING", "SCHEDULED"}
    assert not repair(tracked_settings).trials, "the second time there is nothing to repair"
    with SweepSession({"resume": "cut"}, tracked_settings) as session:
        sweep_here(session)
    agree(tracked_settings, "cut", 4)


@pytest.mark.e2e
def test_a_stopped_sweep_saves_its_trials_and_goes_on(tracked_settings: Settings) -> None:
    def watch(line: dict[str, Any]) -> None:
        if line["kind"] == "progress" and line["step"] > 20:
            session.stop()

    request = {"overrides": [*common(20), *SEARCH], "name": "later"}
    with (
        pytest.raises(Interrupted, match=r"^stopped after \d of 4 trials$"),
        SweepSession(request, tracked_settings, watch=watch) as session,
    ):
        sweep_here(session)
    sweep = Sweep.load(tracked_settings, "later")
    assert (sweep.counts()["running"], sweep.counts()["waiting"]) == (0, 1)
    assert {run.info.status for run in mlflow_runs(tracked_settings)} <= {"KILLED", "FINISHED"}
    with SweepSession({"resume": "later"}, tracked_settings) as session:
        sweep_here(session)
    agree(tracked_settings, "later", 4)
    with SweepSession({"resume": "later", "overrides": ["search.trials=5"]}, tracked_settings) as session:
        sweep_here(session)
    agree(tracked_settings, "later", 5)


@pytest.mark.e2e
def test_a_second_copy_is_refused_and_workers_can_join(tracked_settings: Settings) -> None:
    asked: list[str] = []

    def watch(line: dict[str, Any]) -> None:
        if line["kind"] == "worker" and not asked:
            refused = pytest.raises(RequestError, match=r"^twice is being worked on already; more workers for it: lab sweep --join twice$")
            with refused, SweepSession({"resume": "twice"}, tracked_settings) as second:
                second.accept()
            asked.append("refused")
            with SweepSession({"join": "twice", "workers": 1}, tracked_settings) as third:
                joined.update(sweep_here(third))

    joined: dict[str, Any] = {}
    with SweepSession({"overrides": SMALL, "name": "twice"}, tracked_settings, watch=watch) as session:
        sweep_here(session)
    assert joined["sweep"] == "twice"
    agree(tracked_settings, "twice", 4)


@pytest.mark.e2e
def test_failures_are_kept_with_their_reason_and_nothing_but_failures_stops(tracked_settings: Settings) -> None:
    wild = [*common(), "optimizer=gradient_descent", "search=initializers", "search.sampler=random", "search.trials=12"]
    wild += ["search.space={optimizer.learning_rate:[1e30,1e-3]}"]
    with SweepSession({"overrides": wild, "name": "wild"}, tracked_settings) as session:
        found = sweep_here(session)
    counts = found["trials"]
    assert counts["complete"] > 0
    assert counts["failed"] > 0
    assert counts["complete"] + counts["failed"] == 12
    failed = [run for run in mlflow_runs(tracked_settings) if run.info.status == "FAILED"]
    assert len(failed) == counts["failed"]
    assert all(run.data.tags["lab.reason"].startswith("the loss became") for run in failed)
    with (
        pytest.raises(RunError, match=r"^all 5 trials failed, the last one because the loss became "),
        SweepSession(
            {"overrides": [*wild, "search.space.optimizer.learning_rate=[1e30]"], "name": "hopeless"}, tracked_settings
        ) as session,
    ):
        sweep_here(session)


def test_what_would_fail_for_every_trial_stops_at_the_first(tracked_settings: Settings) -> None:
    request = {"overrides": [*SMALL, "search.objectives={validation/foo:max}"], "name": "foo"}
    refused = pytest.raises(RequestError, match=r"^search\.objectives: a run has no 'validation/foo' \(it has: .*validation/accuracy")
    with refused, SweepSession(request, tracked_settings) as session:
        sweep_here(session)
    assert session.sweep is not None
    assert session.sweep.counts()["failed"] == 1


def test_leaving_twice_does_nothing_the_second_time(tracked_settings: Settings) -> None:
    with pytest.raises(RunError, match=r"^so it is$"), SweepSession({"overrides": SMALL}, tracked_settings) as session, session:
        session.accept()
        raise RunError("so it is")


def test_pruned_means_the_same_everywhere(tracked_settings: Settings) -> None:
    request = [*common(6), "search=initializers", "search.sampler=random", "search.pruner=asha", "search.trials=9"]
    request += ["search.space={optimizer.learning_rate:{low:1e-7,high:1e-2,log:true}}"]
    with SweepSession({"overrides": request, "name": "halves"}, tracked_settings) as session:
        found = sweep_here(session)
    assert found["trials"]["pruned"] > 0
    ended = Counter(run.data.tags.get("lab.ended") for run in mlflow_runs(tracked_settings) if run.info.status == "KILLED")
    assert ended == {"pruned": found["trials"]["pruned"]}
    assert session.sweep is not None
    for trial in session.sweep.results().trials:
        assert (trial.state == "pruned") == (len(trial.curve) < 6)


def test_a_wrong_request_makes_nothing(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "lab")
    with (
        pytest.raises(RequestError),
        SweepSession({"overrides": ["experiment=mlp_digits", "search=initializers", "search.space.initializer=[he]"]}, settings) as session,
    ):
        session.accept()
    assert not settings.home.exists()


@pytest.mark.e2e
def test_the_report_counts_how_often_the_test_split_was_looked_at(tracked_settings: Settings) -> None:
    space = "search.space={optimizer.learning_rate:{low:1e-5,high:1e-4,log:true}}"
    given = [*common(1), "search=initializers", "search.sampler=random", "search.seeds=1", "search.trials=1", space]
    request = {"overrides": given, "name": "few"}
    with SweepSession(request, tracked_settings) as session:
        first = sweep_here(session)
    with SweepSession({"resume": "few", "overrides": ["search.trials=12"]}, tracked_settings) as session:
        second = sweep_here(session)
    assert first["best_run"] != second["best_run"], "the choice has changed"
    texts = [" ".join(found["text"].split()) for found in (first, second)]
    assert "looked at once" in texts[0]
    assert "looked at once" not in texts[1]
    assert "2 configurations" in texts[1]


def test_what_goes_wrong_at_the_end_hides_nothing_of_what_went_wrong_first(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"^first$"), SweepSession({}, Settings(tmp_path)) as session:
        session.sweep = cast(Any, SimpleNamespace(study=object(), settle=full))
        raise RunError("first")
