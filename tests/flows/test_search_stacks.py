"""Sweeps whose trials are trained together: the same trials, with the same results, as one by one, and no less safe."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from test_sweep import agree, common, mlflow_runs, weights

from components.errors import Interrupted, RequestError
from flows.lab.settings import Settings
from flows.records.journal import history
from flows.reproduction import recorded
from flows.search.results import Results, Trial
from flows.search.session import SweepSession, sweep_here

SEARCH = ["search=initializers", "search.space.initializer=[he_normal,xavier]", "search.space.optimizer=[adam,momentum]", "search.seeds=2"]
STACKED = [*SEARCH, "search.backend=vectorised"]


def swept(settings: Settings, *overrides: str, watch: Any = lambda _: None, **request: Any) -> Results:
    """What a sweep comes to."""
    with SweepSession({"overrides": [*overrides], **request}, settings, watch=watch) as session:
        sweep_here(session)
        assert session.sweep is not None
        return session.sweep.results()


def by_what(results: Results) -> dict[tuple[str, int], Trial]:
    return {(str(sorted(trial.params.items())), trial.seed): trial for trial in results.trials}


def test_a_stack_of_trials_is_the_trials_one_by_one(tracked_settings: Settings) -> None:
    together = swept(tracked_settings, *common(), *STACKED, name="together")
    alone = swept(tracked_settings, *common(), *SEARCH, name="alone")
    for what, trial in by_what(alone).items():
        twin = by_what(together)[what]
        assert twin.values == pytest.approx(trial.values, abs=0.01), "an example or two of 180 may fall on the other side"
        assert (twin.samples, twin.state, len(twin.curve)) == (trial.samples, "complete", len(trial.curve))
        losses = [
            [value for _, value in history(tracked_settings.sweeps / name / "trials" / each.run)["validation/nll"]]
            for name, each in (("together", twin), ("alone", trial))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    with pytest.raises(AssertionError):  # both sweeps are there, so neither is the only parent
        agree(tracked_settings, "together", 8)
    runs = [run for run in mlflow_runs(tracked_settings) if run.data.tags["lab.sweep"] == "together"]
    assert Counter(run.info.status for run in runs) == {"FINISHED": 9}
    assert all("lab.weights_sha256" in run.data.tags for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert any("in a stack" in each for each in recorded(together.trials[0].run, tracked_settings).differences)
    assert not any("in a stack" in each for each in recorded(alone.trials[0].run, tracked_settings).differences)


@pytest.mark.e2e
def test_a_killed_stack_goes_on_where_it_was(tracked_settings: Settings) -> None:
    killed: list[int] = []

    def watch(line: dict[str, Any]) -> None:
        assert session.crew is not None
        if line["kind"] == "progress" and line["epoch"] >= 3 * (1 + len(killed)) and len(killed) < 2:
            child = session.crew.children[line["worker"]]
            if child.process.pid not in killed:
                killed.append(child.process.pid)
                child.process.kill()

    request = [*common(10), "trainer.log_every=5", *STACKED]
    with SweepSession({"overrides": request, "name": "cut"}, tracked_settings, watch=lambda line: session.crew and watch(line)) as session:
        found = sweep_here(session)
    assert len(killed) == 2
    agree(tracked_settings, found["sweep"], 8)
    again = Settings(tracked_settings.home.parent / "other", tracked_settings.prefect_port, tracked_settings.mlflow_port)
    again.home.mkdir()
    (again.home / "data").symlink_to((tracked_settings.home / "data").resolve())
    whole = by_what(swept(again, *request, name="whole"))
    assert session.sweep is not None
    for what, trial in by_what(session.sweep.results()).items():
        folders = (tracked_settings.sweeps / "cut" / "trials" / trial.run, again.sweeps / "whole" / "trials" / whole[what].run)
        assert weights(folders[0]) == weights(folders[1]), "bit for bit the weights of a stack that was not killed"


@pytest.mark.e2e
def test_a_stopped_stack_waits_and_goes_on(tracked_settings: Settings) -> None:
    def watch(line: dict[str, Any]) -> None:
        if line["kind"] == "progress" and line["epoch"] >= 2:
            session.stop()

    request = {"overrides": [*common(20), *STACKED], "name": "later"}
    with pytest.raises(Interrupted), SweepSession(request, tracked_settings, watch=watch) as session:
        sweep_here(session)
    assert session.sweep is not None
    assert session.sweep.counts() == {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 8}
    with SweepSession({"resume": "later"}, tracked_settings) as session:
        sweep_here(session)
    agree(tracked_settings, "later", 8)


def test_one_trial_that_fails_disturbs_no_other(tracked_settings: Settings) -> None:
    wild = ["optimizer=gradient_descent", "search=initializers", "search.space={optimizer.learning_rate:[1e30,1e-2]}", "search.seeds=3"]
    results = swept(tracked_settings, *common(), *wild, "search.backend=vectorised", name="wild")
    states = Counter((trial.params["optimizer.learning_rate"], trial.state) for trial in results.trials)
    assert states == {(1e30, "failed"): 3, (1e-2, "complete"): 3}
    assert all(trial.reason and "the loss became" in trial.reason for trial in results.trials if trial.state == "failed")


@pytest.mark.e2e
def test_pruned_trials_leave_the_stack(tracked_settings: Settings) -> None:
    space = "search.space={optimizer.learning_rate:{low:1e-7,high:1e-2,log:true}}"
    request = [*common(6), "search=initializers", "search.sampler=random", "search.pruner=asha", "search.trials=9", space]
    results = swept(tracked_settings, *request, "search.backend=vectorised", name="halves")
    assert Counter(trial.state for trial in results.trials).keys() == {"complete", "pruned"}
    for trial in results.trials:
        assert (trial.state == "pruned") == (len(trial.curve) < 6)
    killed = [run for run in mlflow_runs(tracked_settings) if run.info.status == "KILLED"]
    assert {run.data.tags["lab.ended"] for run in killed} == {"pruned"}


@pytest.mark.e2e
def test_auto_says_why_and_what_cannot_be_stacked_is_refused_or_run_one_by_one(tracked_settings: Settings) -> None:
    heard: list[dict[str, Any]] = []
    vgg = [
        "data=digits",
        "model=vgg",
        "model.stages=[[4]]",
        "model.head=[8]",
        "trainer.epochs=1",
        "trainer.threads=1",
        "initializer=he_normal",
    ]
    small = ["search=activations", "search.space.activation=[relu,tanh]", "search.seeds=1"]
    with pytest.raises(RequestError, match=r"cannot be stacked: .*batch.* \(one by one: lab sweep --resume refused search.backend=auto\)$"):
        swept(tracked_settings, *vgg, *small, "search.backend=vectorised", name="refused")
    results = swept(tracked_settings, *vgg, *small, "search.backend=auto", name="auto", watch=heard.append)
    assert [trial.state for trial in results.trials] == ["complete"] * 2
    ways = [line for line in heard if line["kind"] == "way"]
    assert 1 <= len(ways) <= 2, "each worker says it once"
    assert {line["way"] for line in ways} == {"processes"}
    assert all("batch" in line["reason"] for line in ways)


@pytest.mark.e2e
def test_auto_keeps_no_choice_that_it_has_not_timed(tracked_settings: Settings) -> None:
    heard: list[dict[str, Any]] = []
    space = "search.space={optimizer.learning_rate:{low:1e-3,high:1e-1,log:true}}"
    one = [*common(), "search=initializers", "search.sampler=random", "search.seeds=1", "search.trials=1", space, "search.backend=auto"]
    assert swept(tracked_settings, *one, name="grows").together is None
    with SweepSession({"resume": "grows", "overrides": ["search.trials=24"]}, tracked_settings, watch=heard.append) as session:
        sweep_here(session)
    assert session.sweep is not None
    assert session.sweep.results().together
    assert any("µs a step and trial" in line["reason"] for line in heard if line["kind"] == "way")


@pytest.mark.e2e
def test_a_kind_that_cannot_be_stacked_leaves_the_others_their_stack(tracked_settings: Settings) -> None:
    heard: list[dict[str, Any]] = []
    mixed = ["search=initializers", "search.space={trainer.accumulate:[2,1]}", "search.seeds=6", "search.backend=auto"]
    results = swept(tracked_settings, *common(), *mixed, name="mixed", watch=heard.append)
    assert Counter((trial.params["trainer.accumulate"], trial.state) for trial in results.trials) == {
        (2, "complete"): 6,
        (1, "complete"): 6,
    }
    assert results.together, heard
    ways = {line["way"]: line["reason"] for line in heard if line["kind"] == "way"}
    assert "accumulates gradients" in ways["processes"]
    assert "µs a step and trial" in ways["stacked"]
    tags = {run.data.tags["lab.run"]: run.data.tags.get("lab.together") for run in mlflow_runs(tracked_settings)}
    for trial in results.trials:
        assert tags[trial.run] == ("true" if trial.params["trainer.accumulate"] == 1 else None)
