"""lab gc: what may go by the rules, and that a champion, a run that is written, and what MLflow has not got never do."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from lab_command import lab

from components.errors import RunError
from flows import cleaning
from flows.lab.settings import Settings
from flows.records.delivery import FILE
from flows.records.journal import Journal
from flows.records.tracking import tracking_client

NOW = time.time()


def run(settings: Settings, name: str, *, ended: str, days: float, checkpoint: int = 0, settled: bool = True, trial: bool = False) -> Path:
    folder = (settings.sweeps / "s" / "trials" if trial else settings.runs) / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with Journal(folder) as journal:
        journal.event("started", config={})
        journal.event(ended, reason="because")
    (folder / FILE).write_text(json.dumps({"experiment": "x", "settled": settled, "offset": (folder / "journal.jsonl").stat().st_size}))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step-1").write_bytes(bytes(checkpoint))
    os.utime(folder / "journal.jsonl", (NOW - days * cleaning.DAY,) * 2)
    return folder


@pytest.fixture
def made(tracked_settings: Settings) -> Settings:
    settings = tracked_settings
    run(settings, "failed-old", ended="failed", days=31, checkpoint=10)
    run(settings, "failed-new", ended="failed", days=29, checkpoint=10)
    run(settings, "failed-undelivered", ended="failed", days=31, settled=False)
    run(settings, "stopped-old", ended="interrupted", days=31, checkpoint=500)
    run(settings, "stopped-new", ended="interrupted", days=29, checkpoint=500)
    run(settings, "champion", ended="failed", days=400, checkpoint=10)
    run(settings, "finished", ended="result", days=400)
    run(settings, "trial-old", ended="failed", days=31, checkpoint=70, trial=True)
    client = tracking_client(settings.mlflow_store)
    champion = client.create_run("0", tags={"lab.run": "champion"})
    client.create_registered_model("digits")
    client.create_model_version("digits", source=f"file://{settings.home}/model", run_id=champion.info.run_id)
    client.set_registered_model_alias("digits", "champion", "1")
    return settings


def test_the_rules(made: Settings) -> None:
    found = cleaning.find(made, failed_days=30, checkpoint_days=30, now=NOW)
    assert {(str(each.path.relative_to(made.home)), each.why) for each in found} == {
        ("runs/failed-old", "failed 31 days ago"),
        ("runs/stopped-old/checkpoints", "checkpoints of 31 days ago"),
        ("sweeps/s/trials/trial-old/checkpoints", "checkpoints of 31 days ago"),
    }
    assert {each.path.parent.name: each.size for each in found if each.path.name == "checkpoints"} == {"stopped-old": 500, "trial-old": 70}

    with Journal(made.runs / "stopped-old"):  # somebody resumes it
        again = cleaning.find(made, failed_days=30, checkpoint_days=30, now=NOW)
        assert "stopped-old" not in {each.path.parent.name for each in again}
        assert "stopped-old" not in {each.path.parent.name for each in cleaning.remove(made, found)}
    assert (made.runs / "stopped-old" / "checkpoints" / "step-1").exists()
    assert not (made.runs / "failed-old").exists()
    assert sorted(each.name for each in made.runs.iterdir()) == [
        "champion",
        "failed-new",
        "failed-undelivered",
        "finished",
        "stopped-new",
        "stopped-old",
    ]


def test_the_command_shows_first_and_removes_only_when_told(made: Settings) -> None:
    shown = lab(made, "gc", "--json")
    assert shown.code == 0
    assert shown.json["deleted"] is False
    assert len(shown.json["removals"]) == 3
    assert (made.runs / "failed-old").exists()
    assert "lab gc --delete removes it" in lab(made, "gc").out
    assert len(lab(made, "gc", "--delete", "--json").json["removals"]) == 3
    assert not (made.runs / "failed-old").exists()
    assert "nothing is old enough to go" in lab(made, "gc").out
    assert (made.runs / "champion" / "checkpoints").exists()


def test_without_mlflow_nothing_goes(made: Settings) -> None:
    elsewhere = Settings(made.home, remote_mlflow=f"http://127.0.0.1:{made.mlflow_port}")
    with pytest.raises(RunError, match="MLflow cannot say which runs are champions, so nothing is removed"):
        cleaning.find(elsewhere, failed_days=0, checkpoint_days=0)
    shutil.rmtree(made.runs)
