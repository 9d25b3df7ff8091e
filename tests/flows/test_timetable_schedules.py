"""Schedules on Prefect's deployments: what the server is asked, and what stays of the others when one changes."""

from __future__ import annotations

import urllib.error
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_prefect import NOW, Clock, FakePrefect

from components.errors import LabError, RequestError, RunError
from flows import schedules
from flows.lab import health
from flows.lab.settings import Settings

NIGHTLY = {"cron": "0 2 * * *", "timezone": "UTC"}
HOURLY = {"interval": 3_600, "anchor_date": "2026-11-25T13:45:00+00:00", "timezone": "UTC"}
PARAMETERS = {"experiment": "mlp_digits", "overrides": ["trainer.epochs=1"], "catch_up": "skip"}
TRAIN = {"experiment": {}, "overrides": {}, "catch_up": {"default": "latest"}}


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    fake = FakePrefect()
    fake.add_deployment("train", **TRAIN)
    fake.add_deployment("sweep", **TRAIN, search={}, trials={})
    monkeypatch.setattr(health, "call", fake.call)
    monkeypatch.setattr(health, "answers", lambda *_: True)
    monkeypatch.setattr(schedules, "datetime", Clock)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def create(settings: Settings, name: str, rule: dict[str, Any] = NIGHTLY, flow: str = "train") -> schedules.Schedule:
    return schedules.create(settings, schedules.deployment(settings, f"{flow}/{flow}"), name, rule, PARAMETERS)


def planned(prefect: FakePrefect, schedule: schedules.Schedule) -> list[str]:
    return [f"{run['expected_start_time'][5:16]}" for run in prefect.runs if (run["created_by"] or {}).get("id") == schedule.id]


def test_a_schedule_is_made_with_its_first_runs(prefect: FakePrefect, settings: Settings) -> None:
    made = create(settings, "nightly")
    assert prefect.asked[1:] == [
        ("POST", "/deployments/deployment-train/schedules", [{"slug": "nightly", "schedule": NIGHTLY, "parameters": PARAMETERS}]),
        ("POST", "/deployments/deployment-train/schedule", {}),
        prefect.asked[3],
    ]
    assert (made.name, made.rule, made.parameters, made.active) == ("nightly", NIGHTLY, PARAMETERS, True)
    assert made.deployment["name"] == "train"
    assert planned(prefect, made) == ["11-26T02:00", "11-27T02:00", "11-28T02:00"]
    assert schedules.upcoming(settings, made) == [datetime.fromisoformat("2026-11-26T02:00:00+00:00")]
    assert len(schedules.upcoming(settings, made, 5)) == 3
    assert schedules.find(settings, "nightly") == made


def test_a_paused_deployment_plans_nothing(prefect: FakePrefect, settings: Settings) -> None:
    prefect.deployments["deployment-train"]["paused"] = True
    assert planned(prefect, create(settings, "nightly")) == []


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 25 * * *", 'Prefect refuses the schedule: Invalid cron string: "0 25 * * *"'),
        ("0 0 31 2 *", "Prefect cannot work out when that is due (a day that never comes, or UNTIL with a Z?)"),
        ("* * * * * *", "that is due more often than every 60 seconds"),
    ],
)
def test_what_cannot_be_stays_nowhere(prefect: FakePrefect, settings: Settings, cron: str, message: str) -> None:
    kept = create(settings, "kept")
    with pytest.raises(RequestError) as caught:
        create(settings, "wrong", {"cron": cron, "timezone": "UTC"})
    assert str(caught.value) == message
    assert [each.name for each in schedules.every(settings)] == ["kept"]
    assert planned(prefect, kept) == ["11-26T02:00", "11-27T02:00", "11-28T02:00"]
    assert len(prefect.runs) == 3


def test_a_name_is_taken(prefect: FakePrefect, settings: Settings) -> None:
    create(settings, "nightly")
    with pytest.raises(RequestError, match="there is a schedule 'nightly' already; choose another --name, or: lab schedule delete nightly"):
        create(settings, "nightly")
    assert len(schedules.every(settings)) == 1


def test_pausing_keeps_the_parameters_and_the_other_schedules_runs(prefect: FakePrefect, settings: Settings) -> None:
    nightly, hourly = create(settings, "nightly"), create(settings, "hourly", HOURLY)
    schedules.set_active(settings, nightly, active=False)
    paused = schedules.find(settings, "nightly")
    assert (paused.active, paused.parameters, paused.rule) == (False, PARAMETERS, NIGHTLY)
    assert planned(prefect, nightly) == []
    assert planned(prefect, hourly) == ["11-25T13:45", "11-25T14:45", "11-25T15:45"], "the server forgets them, so they are planned again"
    schedules.set_active(settings, paused, active=True)
    assert schedules.find(settings, "nightly") == nightly
    assert planned(prefect, nightly) == ["11-26T02:00", "11-27T02:00", "11-28T02:00"]


def test_a_run_that_is_due_survives_a_pause(prefect: FakePrefect, settings: Settings) -> None:
    nightly = create(settings, "nightly")
    due = prefect.add_run(nightly.id, NOW - timedelta(minutes=5))
    schedules.set_active(settings, nightly, active=False)
    assert prefect.states() == {due: "SCHEDULED"}


def test_deleting_keeps_the_waiting_runs_of_the_other_schedules(prefect: FakePrefect, settings: Settings) -> None:
    nightly, hourly, sweep = create(settings, "nightly"), create(settings, "hourly", HOURLY), create(settings, "sweep", flow="sweep")
    prefect.add_run(nightly.id, NOW - timedelta(minutes=5), name="own")
    prefect.add_run(hourly.id, NOW - timedelta(minutes=5), name="waits", parameters={"seed": 3})
    prefect.add_run(hourly.id, NOW - timedelta(minutes=5), name="tries again", run_count=1)
    prefect.add_run(sweep.id, NOW - timedelta(minutes=5), name="elsewhere")
    schedules.delete(settings, nightly)
    assert [each.name for each in schedules.every(settings)] == ["hourly", "sweep"]
    assert planned(prefect, nightly) == []
    assert planned(prefect, hourly)[1:] == ["11-25T13:45", "11-25T14:45", "11-25T15:45"]
    there = {run["name"]: run for run in prefect.runs if not run["name"].startswith("at-")}
    assert there.keys() == {"waits", "tries again", "elsewhere"}
    again = there["waits"]
    assert (again["parameters"], again["state"], again["deployment_id"]) == ({"seed": 3}, {"type": "SCHEDULED"}, "deployment-train")
    assert sum(path.endswith("create_flow_run") for _, path, _ in prefect.asked) == 1


def test_finding(prefect: FakePrefect, settings: Settings) -> None:
    with pytest.raises(RequestError, match=r"^there is no schedule 'nightly'; lab schedule list shows all$"):
        schedules.find(settings, "nightly")
    create(settings, "nightly")
    with pytest.raises(RequestError, match=r"there is no schedule 'nigtly' \(did you mean 'nightly'\?\)"):
        schedules.find(settings, "nigtly")
    create(settings, "nightly", flow="sweep")
    with pytest.raises(RequestError, match="'nightly' is the name of schedules of train and sweep; rename one in the Prefect UI"):
        schedules.find(settings, "nightly")
    nameless = prefect.add_schedule("deployment-train", None, {}, **NIGHTLY)
    assert schedules.find(settings, nameless).id == nameless


def test_parameters(prefect: FakePrefect, settings: Settings) -> None:
    train, sweep = (schedules.deployment(settings, f"{name}/{name}") for name in ("train", "sweep"))
    assert schedules.parameters(train, ["experiment=mlp_digits", "optimizer=adam", "trainer.epochs=1"], "all") == {
        "experiment": "mlp_digits",
        "optimizer": "adam",
        "overrides": ["trainer.epochs=1"],
        "catch_up": "all",
    }
    assert schedules.parameters(sweep, ["experiment=mlp_digits", "search=optimizers", "search.trials=40"], "latest") == {
        "experiment": "mlp_digits",
        "search": "optimizers",
        "overrides": ["search.trials=40"],
        "catch_up": "latest",
    }
    assert schedules.parameters(train, ["search=optimizers"], "latest")["overrides"] == ["search=optimizers"]
    prefect.add_deployment("old", experiment={})
    with pytest.raises(RequestError, match="the deployment old is older than --catch-up: lab down and lab up deploy it again"):
        schedules.parameters(schedules.deployment(settings, "old/old"), [], "latest")


@pytest.mark.parametrize(("code", "message"), [(404, "has no deployment train/train"), (500, "did not do what was asked: HTTP Error 500")])
def test_a_server_that_fails(prefect: FakePrefect, settings: Settings, code: int, message: str) -> None:
    prefect.fails["/deployments/name/.*"] = code
    with pytest.raises(RunError, match=message):
        schedules.deployment(settings, "train/train")


@pytest.mark.parametrize(("there", "kind"), [(False, RequestError), (True, RunError)])
def test_a_server_that_does_not_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch, there: bool, kind: type[LabError]) -> None:
    def call(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("connection refused")

    monkeypatch.setattr(health, "call", call)
    monkeypatch.setattr(health, "answers", lambda *_: there)
    for ask in (lambda: schedules.every(settings), lambda: schedules.deployment(settings, "train/train")):
        with pytest.raises(kind, match="connection refused" if there else "no lab is running"):
            ask()


def test_a_failure_while_planning_is_no_refusal(prefect: FakePrefect, settings: Settings) -> None:
    prefect.fails["/deployments/deployment-train/schedule"] = 503
    with pytest.raises(RunError, match="HTTP Error 503"):
        create(settings, "nightly")
    assert schedules.every(settings) == []
