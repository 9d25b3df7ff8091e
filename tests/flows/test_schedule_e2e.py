"""Schedules on a real lab: made from the command line, seen in Prefect's API, run by the worker, found in MLflow; and what is missed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect_runs import deployment, ended, flow_run, queue, until
from timetables import due, pause_pool, plan, records, runs_of, schedule, soon
from trainings import TINY

from flows.lab import health, servers
from flows.lab.settings import Settings
from flows.records.tracking import tracking_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TRAIN = ("train", *TINY)
PARAMETERS = {"experiment": "mlp_digits", "overrides": TINY[1:]}
SEOUL = ("--timezone", "Asia/Seoul")


@pytest.fixture(autouse=True)
def nothing_is_left(running_lab: Settings) -> Iterator[None]:
    """Each test begins without schedules, and with a worker that takes runs."""
    yield
    for each in schedule(running_lab, "list")["schedules"]:
        schedule(running_lab, "delete", each["name"])
    pause_pool(running_lab, False)


def mlflow_run(settings: Settings, flow_run: str) -> Any:
    """The MLflow run that a flow run recorded; None while there is none."""
    client = tracking_client(settings.mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return next(iter(client.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{flow_run}'")), None)


def test_a_scheduled_training_runs_until_it_is_paused(running_lab: Settings) -> None:
    first = soon(15)
    made = schedule(running_lab, *TRAIN, "--every", "60s", "--at", first.isoformat(), *SEOUL, "--name", "tick")
    assert datetime.fromisoformat(made["next"]) == first
    there = records(running_lab, "train")["tick"]
    assert (there["active"], there["parameters"]) == (True, PARAMETERS | {"catch_up": "latest"})
    assert (there["schedule"]["interval"], there["schedule"]["timezone"]) == (60, "Asia/Seoul")
    assert datetime.fromisoformat(there["schedule"]["anchor_date"]) == first

    run = runs_of(running_lab, there["id"])[0]
    assert (due(run), run["created_by"]["display_value"]) == (first, "tick")
    assert run["parameters"] == there["parameters"]
    assert ended(running_lab, run["id"])["type"] == "COMPLETED"
    began = datetime.fromisoformat(flow_run(running_lab, run["id"])["start_time"])
    assert timedelta(seconds=-15) < began - first < timedelta(seconds=90)  # the worker takes a run up to ten seconds early
    found = until(lambda: mlflow_run(running_lab, run["id"]), 30)
    assert (found.info.status, found.data.params["model.hidden"]) == ("FINISHED", "[16]")

    schedule(running_lab, "pause", "tick")
    paused = datetime.now(UTC)
    left = runs_of(running_lab, there["id"])
    assert all(due(each) < paused for each in left), "nothing is planned any more"
    next_time = max(due(each) for each in left) + timedelta(seconds=60)
    time.sleep((next_time - paused).total_seconds() + 5)
    assert [each["id"] for each in runs_of(running_lab, there["id"])] == [each["id"] for each in left]
    assert records(running_lab, "train")["tick"]["parameters"] == there["parameters"]

    resumed = schedule(running_lab, "resume", "tick")
    assert (datetime.fromisoformat(resumed["next"]) - first) % timedelta(seconds=60) == timedelta(0)
    schedule(running_lab, "delete", "tick")
    assert records(running_lab, "train") == {}
    assert [each["id"] for each in runs_of(running_lab, there["id"])] == [each["id"] for each in left]


def test_rules_are_those_of_the_command_line(running_lab: Settings) -> None:
    nightly = schedule(running_lab, *TRAIN, "--cron", "0 2 * * *", *SEOUL, "--catch-up", "all")
    assert nightly["name"] == "train-mlp_digits"
    there = records(running_lab, "train")["train-mlp_digits"]
    assert (there["schedule"]["cron"], there["schedule"]["timezone"]) == ("0 2 * * *", "Asia/Seoul")
    assert there["parameters"] == PARAMETERS | {"catch_up": "all"}
    assert [f"{due(run):%H:%M}" for run in runs_of(running_lab, there["id"])] == ["17:00"] * 3

    first = soon(10 * 24 * 3600).replace(minute=0, second=0)
    later = schedule(running_lab, *TRAIN, "--every", "6h", "--at", first.isoformat(), *SEOUL, "--name", "later")
    assert later["schedule"]["rrule"].endswith("RRULE:FREQ=HOURLY;INTERVAL=6")
    assert [due(run) for run in runs_of(running_lab, later["id"])] == [first + timedelta(hours=6 * number) for number in range(3)]

    for rule in (("--cron", "0 25 * * *"), ("--cron", "0 0 31 2 *"), ("--cron", "* * * * * *"), ("--rrule", "FREQ=NEVERLY")):
        wrong = schedule(running_lab, *TRAIN, *rule, code=2)
        assert set(wrong) == {"error", "exit_code"}
    taken = schedule(running_lab, *TRAIN, "--every", "6h", "--name", "later", code=2)
    assert "there is a schedule 'later' already" in taken["error"]
    listed = schedule(running_lab, "list")["schedules"]
    assert [(each["name"], each["next"] is not None, each["catch_up"]) for each in listed] == [
        ("later", True, "latest"),
        ("train-mlp_digits", True, "all"),
    ]


def test_a_change_of_one_schedule_leaves_the_others_alone(running_lab: Settings) -> None:
    pause_pool(running_lab, True)
    half_past = soon(-1800)
    kept, gone = (
        schedule(running_lab, *TRAIN, "--every", "1h", "--at", half_past.isoformat(), "--name", name)["id"] for name in ("kept", "gone")
    )
    plan(running_lab, "train", half_past - timedelta(minutes=1), half_past + timedelta(minutes=1))
    waiting, *planned = runs_of(running_lab, kept)
    assert due(waiting) == half_past
    schedule(running_lab, "pause", "gone")
    assert runs_of(running_lab, kept)[0]["id"] == waiting["id"]
    assert [due(run) for run in runs_of(running_lab, kept)[1:]] == [due(run) for run in planned]
    assert [due(run) for run in runs_of(running_lab, gone)] == [half_past], "a run that is due already still runs"
    schedule(running_lab, "delete", "gone")
    assert runs_of(running_lab, gone) == []
    assert [due(run) for run in runs_of(running_lab, kept)] == [due(run) for run in planned]
    wanted = {"name": {"any_": [waiting["name"]]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    (again,) = health.call(f"{running_lab.prefect_api}/flow_runs/filter", {"flow_runs": wanted})
    assert again["parameters"] == waiting["parameters"]
    health.call(f"{running_lab.prefect_api}/flow_runs/{again['id']}", method="DELETE")


def test_missed_runs_and_schedules_after_the_lab_was_down(running_lab: Settings) -> None:
    pause_pool(running_lab, True)  # or the worker would take the late runs at once
    half_past = soon(-1800)
    made = {
        policy: schedule(
            running_lab, *TRAIN, "--every", "1h", "--at", half_past.isoformat(), "--name", f"does-{policy}", "--catch-up", policy
        )
        for policy in ("skip", "latest", "all")
    }
    identity = deployment(running_lab, "train/train")["id"]
    in_the_ui = {"schedule": {"cron": "0 0 1 1 *", "timezone": "UTC"}, "parameters": {"experiment": "mlp_digits"}, "slug": None}
    health.call(f"{running_lab.prefect_api}/deployments/{identity}/schedules", [in_the_ui])
    plan(running_lab, "train", half_past - timedelta(minutes=61), half_past + timedelta(minutes=1))
    by_hand = queue(running_lab, "train/train", **PARAMETERS)
    missed = {policy: [run["id"] for run in runs_of(running_lab, each["id"]) if due(run) <= half_past] for policy, each in made.items()}
    assert {policy: len(runs) for policy, runs in missed.items()} == {"skip": 2, "latest": 2, "all": 2}

    servers.down(running_lab, lambda _line: None)
    servers.up(running_lab, lambda line: sys.stdout.write(f"{line}\n"))
    states = {policy: [flow_run(running_lab, run)["state"] for run in runs] for policy, runs in missed.items()}
    assert {policy: [state["type"] for state in each] for policy, each in states.items()} == {
        "skip": ["CANCELLED", "CANCELLED"],
        "latest": ["CANCELLED", "SCHEDULED"],
        "all": ["SCHEDULED", "SCHEDULED"],
    }
    assert states["skip"][0]["message"].startswith("Missed: the lab was down when this was due")
    assert flow_run(running_lab, by_hand)["state_type"] == "SCHEDULED"
    there = records(running_lab, "train")
    assert there.keys() == {"does-skip", "does-latest", "does-all", "train"}, "deploying again keeps them, also the one without a name"
    assert there["train"]["parameters"] == {"experiment": "mlp_digits"}
    assert {name: each["parameters"] for name, each in there.items() if name != "train"} == {
        f"does-{policy}": PARAMETERS | {"catch_up": policy} for policy in made
    }

    pause_pool(running_lab, False)
    for run in (missed["latest"][1], *missed["all"], by_hand):
        assert ended(running_lab, run)["type"] == "COMPLETED"
        assert until(lambda run=run: mlflow_run(running_lab, run), 30).info.status == "FINISHED"
    for run in (*missed["skip"], missed["latest"][0]):
        assert flow_run(running_lab, run)["state_type"] == "CANCELLED"
        assert mlflow_run(running_lab, run) is None
