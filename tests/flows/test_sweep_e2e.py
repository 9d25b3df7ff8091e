"""Sweeps as flow runs of a real lab: scheduled, killed, cancelled, spread over the pool, and agreed on by all three stores."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import psutil
import pytest
from lab_command import lab, start
from prefect_runs import artifacts, ended, flow_run, logs, queue, running, task_runs, until
from timetables import due, records, runs_of, schedule, soon
from trainings import wait_for

from flows.lab import health
from flows.lab.settings import Settings
from flows.records import journal
from flows.records.tracking import tracking_client
from flows.search.session import EXPERIMENT
from flows.search.study import Sweep

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COMMON = ["trainer.epochs=2", "trainer.threads=1", "trainer.checkpoint_seconds=0.01"]
SEARCH = ["search=initializers", "search.space.initializer=[he_normal,xavier]", "search.seeds=2"]
PARAMETERS: dict[str, Any] = {"experiment": "mlp_digits", "search": "initializers", "overrides": [*COMMON, *SEARCH]}


def mlflow_runs(settings: Settings, tag: str) -> list[Any]:
    """The runs with this tag in MLflow, the sweep's own first."""
    client = tracking_client(settings.mlflow_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], tag, order_by=["attributes.start_time ASC"])) if experiment else []


def sweep_of(settings: Settings, identity: str) -> Any:
    """The MLflow run of the sweep that a flow run did; None while there is none."""
    return next(iter(mlflow_runs(settings, f"tags.`prefect.flow_run_id` = '{identity}'")), None)


def agree(settings: Settings, name: str, asked: int) -> None:
    """Optuna, MLflow and Prefect all say that `asked` trials are finished, once each, and nothing runs."""
    sweep = Sweep.load(settings, name)
    assert sweep.counts() == {"complete": asked, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert not [trial for trial in sweep.study.trials if trial.state.name in ("RUNNING", "WAITING")]
    runs = mlflow_runs(settings, f"tags.`lab.sweep` = '{name}'")
    children = [run.data.tags["lab.run"] for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(children) == sorted(trial.run for trial in sweep.results().trials)
    assert Counter(run.info.status for run in runs) == {"FINISHED": asked + 1}
    claim = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    until(lambda: health.call(f"{settings.prefect_api}/flow_runs/filter", claim) == [], 60)


def test_a_sweep_scheduled_two_minutes_ahead_is_seen_runs_and_is_found_in_mlflow(running_lab: Settings) -> None:
    first = soon(120)
    made = schedule(
        running_lab, "sweep", "experiment=mlp_digits", *COMMON, *SEARCH, "--every", "1h", "--at", first.isoformat(), "--name", "soon"
    )
    assert datetime.fromisoformat(made["next"]) == first
    there = records(running_lab, "sweep")["soon"]
    assert (there["parameters"]["experiment"], there["parameters"]["search"]) == ("mlp_digits", "initializers")
    assert set(SEARCH[1:]) <= set(there["parameters"]["overrides"])
    run = runs_of(running_lab, there["id"])[0]
    assert due(run) == first
    assert ended(running_lab, run["id"], within=300)["type"] == "COMPLETED", logs(running_lab, run["id"])
    began = datetime.fromisoformat(flow_run(running_lab, run["id"])["start_time"])
    assert timedelta(seconds=-10) <= began - first < timedelta(seconds=90), "a worker looks ten seconds ahead"
    schedule(running_lab, "delete", "soon")
    parent = sweep_of(running_lab, run["id"])
    assert parent.info.status == "FINISHED"
    agree(running_lab, parent.data.tags["lab.sweep"], 4)


def test_workers_of_a_flow_run_are_killed_and_the_stores_agree(running_lab: Settings) -> None:
    slow = {**PARAMETERS, "overrides": ["trainer.epochs=12", *COMMON[1:], *SEARCH]}
    identity = queue(running_lab, "sweep/sweep", **slow, workers=2)
    killed: set[int] = set()
    for _ in range(3):
        worker = until(lambda: [each for each in running(running_lab, "flows.search.worker") if each.pid not in killed], 120)[0]
        parent = until(lambda: sweep_of(running_lab, identity), 60)
        folder = running_lab.sweeps / parent.data.tags["lab.sweep"] / "trials"
        until(
            lambda folder=folder: (
                any(journal.is_open(each) for each in folder.glob("*")) or flow_run(running_lab, identity)["state_type"] == "COMPLETED"
            ),
            60,
        )
        killed.add(worker.pid)
        worker.kill()
    assert ended(running_lab, identity)["type"] == "COMPLETED", logs(running_lab, identity)
    agree(running_lab, parent.data.tags["lab.sweep"], 4)
    assert "it is started again and its trial goes on" in logs(running_lab, identity)
    names = list(task_runs(running_lab, identity))
    assert {"compose", "prepare-data", "report"} <= set(names)
    shown = artifacts(running_lab, identity)
    assert "he_normal" in shown["verdict"]
    assert parent.info.run_id in shown["mlflow-run"]
    assert float(shown["trials"]) == 100


def test_a_cancelled_sweep_is_cancelled_everywhere_and_goes_on(running_lab: Settings) -> None:
    slow = {**PARAMETERS, "overrides": ["trainer.epochs=60", *COMMON[1:], *SEARCH]}
    identity = queue(running_lab, "sweep/sweep", **slow)
    until(lambda: running(running_lab, "flows.search.worker"), 120)
    parent = until(lambda: sweep_of(running_lab, identity), 60)
    name = parent.data.tags["lab.sweep"]
    folder = running_lab.sweeps / name / "trials"
    until(lambda: any(journal.is_open(each) for each in folder.glob("*")), 60)
    health.call(f"{running_lab.prefect_api}/flow_runs/{identity}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(running_lab, identity)["type"] == "CANCELLED", logs(running_lab, identity)
    until(lambda: not running(running_lab, "flows.search.worker"), 30)
    sweep = Sweep.load(running_lab, name)
    assert (sweep.counts()["running"], sweep.counts()["waiting"]) == (0, 1)
    until(lambda: {run.info.status for run in mlflow_runs(running_lab, f"tags.`lab.sweep` = '{name}'")} <= {"KILLED", "FINISHED"}, 30)
    again = queue(running_lab, "sweep/sweep", experiment="mlp_digits", resume=name)
    assert ended(running_lab, again)["type"] == "COMPLETED", logs(running_lab, again)
    agree(running_lab, name, 4)


def test_a_sweep_spreads_over_the_pool(running_lab: Settings) -> None:
    slow = {**PARAMETERS, "overrides": ["trainer.epochs=40", *COMMON[1:], *SEARCH]}
    identity = queue(running_lab, "sweep/sweep", **slow, backend="pool", workers=2)
    until(lambda: len(running(running_lab, "flows.search.worker")) == 2, 120)
    assert ended(running_lab, identity)["type"] == "COMPLETED", logs(running_lab, identity)
    agree(running_lab, sweep_of(running_lab, identity).data.tags["lab.sweep"], 4)
    query = {"flows": {"name": {"any_": ["sweep-worker"]}}}
    states = {run["state_type"] for run in health.call(f"{running_lab.prefect_api}/flow_runs/filter", query)}
    assert states <= {"COMPLETED", "CANCELLED"}


def test_ctrl_c_in_a_terminal_is_one_line_and_cancels_the_flow_run(running_lab: Settings) -> None:
    with start(running_lab, "sweep", "experiment=mlp_digits", "trainer.epochs=60", *COMMON[1:], *SEARCH, "--name", "stopped") as command:
        trials = running_lab.sweeps / "stopped" / "trials"
        wait_for(lambda: any(journal.is_open(folder) for folder in trials.glob("*")), 90)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=90)
    assert command.returncode == 1
    assert err.strip().splitlines()[-1].startswith("lab: stopped after ")
    assert "Traceback" not in err
    identity = mlflow_runs(running_lab, "tags.`lab.sweep` = 'stopped'")[0].data.tags["prefect.flow_run_id"]
    assert flow_run(running_lab, identity)["state_type"] == "CANCELLED"


def test_a_terminal_that_dies_is_repaired_in_prefect_too(running_lab: Settings) -> None:
    with start(running_lab, "sweep", "experiment=mlp_digits", "trainer.epochs=60", *COMMON[1:], *SEARCH, "--name", "gone") as command:
        trials = running_lab.sweeps / "gone" / "trials"
        wait_for(lambda: any(journal.is_open(folder) for folder in trials.glob("*")), 90)
        everyone = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
        for process in everyone:
            process.kill()
        psutil.wait_procs(everyone, timeout=10)
    identity = until(lambda: mlflow_runs(running_lab, "tags.`lab.sweep` = 'gone'"), 10)[0].data.tags["prefect.flow_run_id"]
    assert flow_run(running_lab, identity)["state_type"] == "RUNNING"

    def repaired() -> bool:
        done = lab(running_lab, "repair", "--json")
        assert done.code == 0
        return flow_run(running_lab, identity)["state_type"] == "CRASHED"

    until(repaired, 60)
    assert {run["state_type"] for run in task_runs(running_lab, identity).values()} <= {"COMPLETED", "CRASHED"}
    assert {run.info.status for run in mlflow_runs(running_lab, "tags.`lab.sweep` = 'gone'")} <= {"FAILED", "KILLED", "FINISHED"}
    assert lab(running_lab, "sweep", "--resume", "gone", "--json").json["trials"]["complete"] == 4
    agree(running_lab, "gone", 4)
