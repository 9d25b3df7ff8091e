"""`lab schedule …` against a Prefect server of plain values."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
from fake_prefect import Clock, FakePrefect
from lab_command import Done, lab

from components.errors import ConfigError
from flows import schedules
from flows.commands import schedule
from flows.commands.queued import absolute
from flows.lab import health
from flows.lab.settings import Settings

TRAIN = {"experiment": {}, "seed": {"default": -1}, "overrides": {}, "catch_up": {"default": "latest"}}
DIGITS = ("train", "experiment=mlp_digits")
NIGHTLY = ("--cron", "0 2 * * *", "--timezone", "UTC")
TWO = "2026-11-26T02:00:00+00:00"


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> FakePrefect:
    fake = FakePrefect()
    fake.add_deployment("train", **TRAIN)
    fake.add_deployment("sweep", **TRAIN, search={"default": "optimizers"}, trials={"default": 0})
    fake.add_deployment("evaluate", run={}, split={"default": "test"})
    monkeypatch.setattr(health, "call", fake.call)
    monkeypatch.setattr(health, "answers", lambda *_, **__: True)
    monkeypatch.setattr(schedules, "datetime", Clock)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The requests of sweeps that were checked; one with `search=wrong` is refused."""
    module, asked = types.ModuleType("flows.search.request"), []

    def check_request(overrides: list[str]) -> None:
        asked.append(overrides)
        if "search=wrong" in overrides:
            raise ConfigError("search: 'wrong' is not one of optimizers")

    module.check_request = check_request  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.search.request", module)
    return asked


def add(settings: Settings, *arguments: str) -> Done:
    return lab(settings, "schedule", *arguments, "--json")


def test_a_training_on_a_timetable(prefect: FakePrefect, settings: Settings) -> None:
    done = add(settings, *DIGITS, "optimizer=adam", "trainer.epochs=1", *NIGHTLY, "--catch-up", "skip")
    (made,) = prefect.deployments["deployment-train"]["schedules"]
    parameters = {"experiment": "mlp_digits", "optimizer": "adam", "overrides": ["trainer.epochs=1"], "catch_up": "skip"}
    assert made == {
        "id": made["id"],
        "slug": "train-mlp_digits",
        "active": True,
        "schedule": {"cron": "0 2 * * *", "timezone": "UTC"},
        "parameters": parameters,
    }
    assert done.code == 0
    assert done.json == {
        "name": "train-mlp_digits",
        "id": made["id"],
        "deployment": "train",
        "schedule": made["schedule"],
        "parameters": parameters,
        "active": True,
        "next": TWO,
        "page": f"{settings.prefect_ui}/deployments/deployment/deployment-train",
    }
    assert done.err.splitlines()[:2] == [
        "train-mlp_digits: train experiment=mlp_digits optimizer=adam trainer.epochs=1",
        "0 2 * * * (UTC); next run 2026-11-26 02:00:00",
    ]


def test_every_and_rrule(prefect: FakePrefect, settings: Settings) -> None:
    past = add(settings, *DIGITS, "--every", "6h", "--at", "2020-01-01T02:00", "--timezone", "Asia/Seoul").json
    assert past["schedule"] == {"interval": 21_600, "anchor_date": "2020-01-01T02:00:00+09:00", "timezone": "Asia/Seoul"}
    assert past["next"] == "2026-11-26T02:00:00+09:00", "in step with two o'clock in Seoul, which is 17:00 UTC"
    far = add(settings, *DIGITS, "--every", "6h", "--at", "2099-01-01T02:00", "--timezone", "Asia/Seoul")
    assert far.json["schedule"]["rrule"] == "DTSTART:20990101T020000\nRRULE:FREQ=HOURLY;INTERVAL=6"
    assert (far.json["name"], far.json["next"]) == ("train-mlp_digits-2", None)
    assert "no run within the next 100 days, as far ahead as Prefect plans" in far.err
    rule = "FREQ=WEEKLY;BYDAY=MO;BYHOUR=2"
    assert add(settings, *DIGITS, "--rrule", rule, "--timezone", "UTC").json["schedule"] == {"rrule": rule, "timezone": "UTC"}


def test_a_sweep_on_a_timetable(prefect: FakePrefect, settings: Settings, checked: list[list[str]]) -> None:
    overrides = ["experiment=mlp_mnist", "search=optimizers", "search.trials=40"]
    done = add(settings, "sweep", *overrides, *NIGHTLY)
    assert checked == [overrides]
    assert (done.json["name"], done.json["deployment"]) == ("sweep-mlp_mnist-optimizers", "sweep")
    assert done.json["parameters"] == {
        "experiment": "mlp_mnist",
        "search": "optimizers",
        "overrides": ["search.trials=40"],
        "catch_up": "latest",
    }
    wrong = add(settings, "sweep", "experiment=mlp_mnist", "search=wrong", *NIGHTLY)
    assert (wrong.code, wrong.json["error"]) == (2, "search: 'wrong' is not one of optimizers")
    assert len(prefect.deployments["deployment-sweep"]["schedules"]) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("train", *NIGHTLY), "say what to train, such as: lab schedule train experiment=mlp_mnist --every 6h"),
        (DIGITS, "say when with exactly one of --cron"),
        ((*DIGITS, *NIGHTLY, "--every", "6h"), "say when with exactly one of --cron"),
        ((*DIGITS, "--every", "5s"), "--every 5s has to be from 60s to 100d"),
        ((*DIGITS, "--cron", "0 2 * * *", "--timezone", "Asia/Soul"), "there is no time zone 'Asia/Soul' (did you mean 'Asia/Seoul'?)"),
        ((*DIGITS, "--cron", "0 25 * * *", "--timezone", "UTC"), 'Prefect refuses the schedule: Invalid cron string: "0 25 * * *"'),
        ((*DIGITS, *NIGHTLY, "--name", "my schedule"), "--name 'my schedule': a schedule's name is made of letters"),
        ((*DIGITS, *NIGHTLY, "--name", "there"), "there is a schedule 'there' already"),
        ((*DIGITS, *NIGHTLY, "--catch-up", "some"), "'some' is not one of 'skip', 'latest', 'all'"),
        (("train", "experiment=mlp_dgits", *NIGHTLY), "experiment: 'mlp_dgits' is not one of"),
        ((*DIGITS, "trainer.epocs=1", *NIGHTLY), "trainer.epocs"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_made(
    prefect: FakePrefect, settings: Settings, arguments: tuple[str, ...], error: str
) -> None:
    prefect.add_schedule("deployment-sweep", "there", {}, cron="0 2 * * *")
    done = add(settings, *arguments)
    assert done.code == 2
    assert error in done.json["error"]
    assert done.err.count("\n") == 1
    assert prefect.deployments["deployment-train"]["schedules"] == []


def test_without_a_lab(settings: Settings) -> None:
    unused = Settings(settings.home, prefect_port=1, mlflow_port=2)
    for arguments in ((*DIGITS, *NIGHTLY), ("list",), ("pause", "x"), ("resume", "x"), ("delete", "x")):
        done = lab(unused, "schedule", *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err == "lab: no lab is running, so there is nobody to keep a schedule: lab up --detach starts it\n"


def test_paths_are_those_of_this_folder(
    prefect: FakePrefect, settings: Settings, checked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.home)
    assert absolute("data.path=pictures") == f"data.path='{settings.home}/pictures'"
    add(settings, "sweep", "experiment=mlp_digits", "data.path=pictures", *NIGHTLY)
    assert checked == [["experiment=mlp_digits", f"data.path='{settings.home}/pictures'"]]
    assert prefect.deployments["deployment-sweep"]["schedules"][0]["parameters"]["overrides"] == checked[0][1:]


def test_names_that_are_made_up(prefect: FakePrefect, settings: Settings) -> None:
    assert [add(settings, *DIGITS, *NIGHTLY).json["name"] for _ in range(3)] == [
        "train-mlp_digits",
        "train-mlp_digits-2",
        "train-mlp_digits-3",
    ]
    assert schedule.default_name("sweep", ["search=optimizers", "experiment=mlp_mnist"]) == "sweep-mlp_mnist-optimizers"
    assert schedule.default_name("train", ["model=mlp", "data=digits"]) == "train-mlp"
    assert schedule.default_name("train", ["seed=1"]) == "train"
    assert schedule.default_name("train", ["experiment='a b/ü'"]) == "train-a-b-ü"
    assert add(settings, *DIGITS, *NIGHTLY, "--name", "nightly.v2").json["name"] == "nightly.v2"


def test_the_list(prefect: FakePrefect, settings: Settings) -> None:
    assert "there are no schedules" in lab(settings, "schedule", "list").out
    assert add(settings, "list").json == {"schedules": []}
    add(settings, *DIGITS, "trainer.epochs=1", "--cron", "0 2 * * *", "--timezone", "Asia/Seoul", "--name", "b", "--catch-up", "all")
    add(settings, *DIGITS, "--every", "6h", "--at", "2020-01-01T02:00", "--timezone", "UTC", "--name", "a")
    in_the_ui = {"experiment": "mlp_mnist", "seed": 3, "search": "optimizers", "trials": 0, "overrides": ["search.seeds=2"]}
    prefect.add_schedule("deployment-sweep", "c", in_the_ui, cron="0 2 * * *", timezone=None)
    prefect.add_schedule("deployment-evaluate", "d", {"run": "last", "split": "test"}, cron="0 2 * * *", timezone="UTC")
    lab(settings, "schedule", "pause", "a")
    listed = add(settings, "list").json["schedules"]
    assert [(each["name"], each["deployment"], each["next"], each["active"], each["catch_up"], each["overrides"]) for each in listed] == [
        ("a", "train", None, False, "latest", ["experiment=mlp_digits"]),
        ("b", "train", TWO, True, "all", ["experiment=mlp_digits", "trainer.epochs=1"]),
        ("c", "sweep", None, True, "latest", ["experiment=mlp_mnist", "seed=3", "search.seeds=2", "search=optimizers"]),
        ("d", "evaluate", None, True, "latest", ["run=last"]),
    ]
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lab(settings, "schedule", "list").out.splitlines()]
    assert ["a", "train", "every 6h", "UTC", "paused", "latest", "experiment=mlp_digits"] in rows
    assert ["b", "train", "0 2 * * *", "Asia/Seoul", "2026-11-26 11:00:00", "yes", "all", "experiment=mlp_digits trainer.epochs=1"] in rows


def test_pause_resume_and_delete(prefect: FakePrefect, settings: Settings) -> None:
    made = add(settings, *DIGITS, *NIGHTLY, "--name", "nightly").json
    paused = add(settings, "pause", "nightly")
    facts = {key: made[key] for key in ("name", "id", "deployment", "schedule", "parameters")}
    assert paused.json == facts | {"active": False, "next": None}
    assert paused.err == "nightly is paused; lab schedule resume nightly\n"
    assert prefect.runs == []
    resumed = add(settings, "resume", "nightly")
    assert resumed.json == facts | {"active": True, "next": TWO}
    assert resumed.err == "nightly goes on; next run 2026-11-26 02:00:00\n"
    unknown = add(settings, "delete", "nigtly")
    assert (unknown.code, unknown.json["error"]) == (
        2,
        "there is no schedule 'nigtly' (did you mean 'nightly'?); lab schedule list shows all",
    )
    assert add(settings, "delete", "nightly").json == facts | {"active": True, "deleted": True}
    assert add(settings, "list").json == {"schedules": []}
    assert prefect.runs == []


def test_a_paused_deployment_is_said(prefect: FakePrefect, settings: Settings) -> None:
    prefect.deployments["deployment-train"]["paused"] = True
    done = add(settings, *DIGITS, *NIGHTLY)
    assert "nothing runs before the deployment train, which is paused, is resumed in the Prefect UI" in done.err
    assert done.json["next"] is None


def test_names_are_completed(prefect: FakePrefect, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nightly", "night-2", "weekly"):
        prefect.add_schedule("deployment-train", name, {}, cron="0 2 * * *")
    monkeypatch.setenv("LAB_HOME", str(settings.home))
    assert schedule.names("night") == ["night-2", "nightly"]
    assert schedule.names("x") == []
    prefect.fails[".*"] = 500
    assert schedule.names("night") == []


def test_prefect_is_not_imported() -> None:
    code = """
import sys
from flows import cli
code = cli.run(["schedule", "list"])
found = sorted({name.partition(".")[0] for name in sys.modules} & {"prefect", "torch", "mlflow", "hydra", "optuna", "requests", "httpx"})
print(code, found)
"""
    environment = {"LAB_PREFECT_PORT": "1", "LAB_MLFLOW_PORT": "2", "LAB_HOME": "/nowhere"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "2 []\n", done.stderr
