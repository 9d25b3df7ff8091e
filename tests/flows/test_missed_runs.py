"""Runs missed while the lab was down: which of them the worker is shown when it is back."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_prefect import NOW, FakePrefect, refusal

from components.errors import RunError
from flows.lab import health, timetable
from flows.lab.settings import Settings

UP = NOW
"""When the servers were started."""


def minutes(number: float) -> datetime:
    """A moment so many minutes after the servers' start."""
    return UP + timedelta(minutes=number)


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    fake = FakePrefect()
    fake.add_deployment("train")
    fake.add_deployment("sweep")
    monkeypatch.setattr(health, "call", fake.call)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A lab whose servers were started at UP."""
    settings = Settings(tmp_path)
    settings.run.mkdir()
    settings.running_file.write_text("{}")
    os.utime(settings.running_file, (UP.timestamp(), UP.timestamp()))
    return settings


def schedule(prefect: FakePrefect, slug: str, deployment: str = "train", **parameters: object) -> str:
    return prefect.add_schedule(f"deployment-{deployment}", slug, dict(parameters), cron="0 2 * * *", timezone="UTC")


@pytest.mark.parametrize(
    ("policy", "run"),
    [
        ({"catch_up": "skip"}, []),
        ({"catch_up": "latest"}, ["newest"]),
        ({"catch_up": "all"}, ["oldest", "older", "newest"]),
        ({}, ["newest"]),
        ({"catch_up": "sometimes"}, ["newest"]),
    ],
)
def test_each_policy(prefect: FakePrefect, settings: Settings, policy: dict[str, str], run: list[str]) -> None:
    nightly = schedule(prefect, "nightly", **policy)
    missed = {"oldest": -180, "newest": -60, "older": -120}
    runs = {name: prefect.add_run(nightly, minutes(number)) for name, number in missed.items()}
    later = prefect.add_run(nightly, minutes(0.01))
    said = list(timetable.prepare(settings))
    states = prefect.states()
    assert [name for name in ("oldest", "older", "newest") if states[runs[name]] == "SCHEDULED"] == run
    assert {states[runs[name]] for name in runs if name not in run} <= {"CANCELLED"}
    assert states[later] == "SCHEDULED", "what is due since the start merely waits"
    count, name = 3 - len(run), policy.get("catch_up") if policy.get("catch_up") in ("skip", "all") else "latest"
    assert said == ([f"nightly: {count} runs missed while the lab was down do not run (catch_up {name})"] if count else [])


def test_the_state_says_why(prefect: FakePrefect, settings: Settings) -> None:
    for policy in ("skip", "latest"):
        nightly = schedule(prefect, policy, catch_up=policy)
        prefect.add_run(nightly, minutes(-2))
        prefect.add_run(nightly, minutes(-1))
    list(timetable.prepare(settings))
    messages = [run["state"].get("message") for run in prefect.runs]
    assert messages == [
        "Missed: the lab was down when this was due, and missed runs are not made up for (catch_up: skip).",
        "Missed: the lab was down when this was due, and missed runs are not made up for (catch_up: skip).",
        "Missed: the lab was down when this was due, and only the newest missed run of a schedule is made up for (catch_up: latest).",
        None,
    ]
    assert {run["state"]["name"] for run in prefect.runs if "message" in run["state"]} == {"Cancelled"}


def test_schedules_are_settled_each_for_itself(prefect: FakePrefect, settings: Settings) -> None:
    one, other = schedule(prefect, "a", catch_up="latest"), schedule(prefect, "b", "sweep", catch_up="latest")
    runs = [prefect.add_run(which, minutes(-number)) for number, which in enumerate([one, other, one, other, one], 1)]
    assert timetable.settle_missed_runs(settings, UP) == {"a": ("latest", 2), "b": ("latest", 1)}
    assert [identity for identity, state in prefect.states().items() if state == "SCHEDULED"] == runs[:2]


def test_the_newest_run_decides_after_a_change_of_the_policy(prefect: FakePrefect, settings: Settings) -> None:
    nightly = schedule(prefect, "nightly", catch_up="skip")
    prefect.add_run(nightly, minutes(-2), parameters={"catch_up": "skip"})
    prefect.add_run(nightly, minutes(-1), parameters={"catch_up": "all"})
    assert timetable.settle_missed_runs(settings, UP) == {}


def test_only_what_a_schedule_planned_and_what_never_began(prefect: FakePrefect, settings: Settings) -> None:
    nightly = schedule(prefect, "nightly", catch_up="skip")
    by_hand = prefect.add_run(nightly, minutes(-5), created_by=None, auto_scheduled=False)
    again = prefect.add_run(nightly, minutes(-5), run_count=1, state={"type": "SCHEDULED", "name": "AwaitingRetry"})
    done = prefect.add_run(nightly, minutes(-5), state={"type": "COMPLETED", "name": "Completed"})
    late = prefect.add_run(nightly, minutes(-5), state={"type": "SCHEDULED", "name": "Late"})
    list(timetable.prepare(settings))
    assert prefect.states() == {by_hand: "SCHEDULED", again: "SCHEDULED", done: "COMPLETED", late: "CANCELLED"}
    (query,) = [body for _, path, body in prefect.asked if path == "/flow_runs/filter"]
    assert query["work_pools"] == {"name": {"any_": ["lab"]}}


def test_a_restart_of_the_worker_alone_changes_nothing_more(prefect: FakePrefect, settings: Settings) -> None:
    hourly = schedule(prefect, "hourly", catch_up="latest")
    for number in (-120, -60, 5, 65):
        prefect.add_run(hourly, minutes(number))
    list(timetable.prepare(settings))
    states = prefect.states()
    assert list(states.values()) == ["CANCELLED", "SCHEDULED", "SCHEDULED", "SCHEDULED"]
    assert list(timetable.prepare(settings)) == []
    assert prefect.states() == states


def test_more_runs_than_the_server_gives_or_changes_at_once(prefect: FakePrefect, settings: Settings) -> None:
    often = schedule(prefect, "often", catch_up="latest")
    runs = [prefect.add_run(often, minutes(number - 450)) for number in range(450)]
    assert timetable.settle_missed_runs(settings, UP) == {"often": ("latest", 449)}
    assert [identity for identity, state in prefect.states().items() if state == "SCHEDULED"] == [runs[-1]]
    assert [body["offset"] for _, path, body in prefect.asked if path == "/flow_runs/filter"] == [0, 200, 400]
    assert sum(path == "/flow_runs/bulk_set_state" for _, path, _ in prefect.asked) == 9


def test_a_full_last_page_is_followed_by_an_empty_one(prefect: FakePrefect, settings: Settings) -> None:
    often = schedule(prefect, "often", catch_up="skip")
    for number in range(200):
        prefect.add_run(often, minutes(number - 201))
    assert timetable.settle_missed_runs(settings, UP) == {"often": ("skip", 200)}


def test_the_worker_does_not_start_when_a_run_stays(prefect: FakePrefect, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    prefect.add_run(schedule(prefect, "nightly", catch_up="skip"), minutes(-1))
    monkeypatch.setattr(prefect, "_set_states", lambda body: {"results": [{"status": "ABORT", "details": {"reason": "locked"}}]})
    with pytest.raises(RunError, match=r"Prefect did not cancel 1 missed flow runs.*locked"):
        list(timetable.prepare(settings))
    prefect.fails["/flow_runs/filter"] = 500
    with pytest.raises(type(refusal(500))):
        list(timetable.prepare(settings))


def test_a_server_elsewhere_has_not_been_down(prefect: FakePrefect, settings: Settings) -> None:
    missed = prefect.add_run(schedule(prefect, "nightly", catch_up="skip"), minutes(-1))
    elsewhere = Settings(settings.home, remote_prefect="http://prefect.example/api")
    assert list(timetable.prepare(elsewhere)) == []
    assert prefect.states() == {missed: "SCHEDULED"}


def test_when_the_servers_were_started(settings: Settings) -> None:
    assert timetable.servers_started(settings) == datetime(2026, 11, 25, 13, 30, tzinfo=UTC)
    settings.running_file.unlink()
    assert timetable.servers_started(settings) is None


def test_schedules_without_a_name_get_one_and_keep_the_rest(prefect: FakePrefect, settings: Settings) -> None:
    named = schedule(prefect, "train", experiment="mlp_mnist")
    parameters = {"experiment": "mlp_digits", "catch_up": "all"}
    nameless = [prefect.add_schedule(f"deployment-{name}", None, parameters, cron="0 2 * * *") for name in ("train", "train", "sweep")]
    assert list(timetable.prepare(settings)) == [
        f"a schedule without a name is now called {name}" for name in ("train-2", "train-3", "sweep")
    ]
    there = {each["id"]: each for one in prefect.deployments.values() for each in one["schedules"]}
    assert [there[identity]["slug"] for identity in (named, *nameless)] == ["train", "train-2", "train-3", "sweep"]
    assert [there[identity]["parameters"] for identity in nameless] == [parameters] * 3
    assert there[named]["parameters"] == {"experiment": "mlp_mnist"}
    assert all(there[identity]["active"] for identity in nameless)
    assert list(timetable.prepare(settings)) == []
