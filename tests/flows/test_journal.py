"""The journal keeps every whole line through kills, replays and a full disk."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from components.errors import RunError
from flows.records.journal import Journal, history, is_open, read


def test_a_metrics_call_is_one_line_with_time_step_epoch_and_values(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.metrics({"train/loss": 0.5, "train/learning_rate": 0.1}, step=3, epoch=0.25)
    (line,) = [json.loads(text) for text in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert line.pop("t") > 1_700_000_000_000
    assert line == {"kind": "metrics", "step": 3, "epoch": 0.25, "values": {"train/loss": 0.5, "train/learning_rate": 0.1}}


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.metrics({"a": math.nan, "b": math.inf, "c": -math.inf}, step=1, epoch=0.0)
    series = history(tmp_path)
    assert math.isnan(series["a"][0][1])
    assert series["b"] == [(1, math.inf)]
    assert series["c"] == [(1, -math.inf)]


def test_a_replayed_step_keeps_the_first_point_and_its_time(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in (1, 2, 3):
            journal.metrics({"loss": float(step)}, step=step, epoch=step / 4)
    before = read(tmp_path)
    with Journal(tmp_path) as journal:
        journal.metrics({"loss": 99.0}, step=2, epoch=0.5)
        journal.metrics({"loss": 99.0, "accuracy": 0.75}, step=3, epoch=0.75)
        journal.metrics({"loss": 4.0}, step=4, epoch=1.0)
    assert read(tmp_path)[:3] == before
    assert history(tmp_path) == {
        "loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)],
        "accuracy": [(3, 0.75)],
        "epoch": [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)],
    }


def test_steps_may_come_out_of_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in (10, 5, 7, 5, 10, 1):
            journal.metrics({"loss": float(step)}, step=step, epoch=1.0)
    assert [line["step"] for line in read(tmp_path)] == [10, 5, 7, 1]


def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.metrics({"loss": 1.0}, step=1, epoch=0.0)
        journal.metrics({"loss": 2.0}, step=2, epoch=0.0)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for torn in (b"{", whole[: len(whole) // 2 - 5], b"\x00" * 30):
        path.write_bytes(whole + torn)
        assert len(read(tmp_path)) == 2
        Journal(tmp_path).close()
        assert path.read_bytes() == whole


def test_a_line_that_is_not_json_is_passed_over(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.metrics({"loss": 1.0}, step=1, epoch=0.0)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b"\x00\x00garbage\n[1]\n")
    with Journal(tmp_path) as journal:
        journal.metrics({"loss": 2.0}, step=2, epoch=0.0)
    assert history(tmp_path)["loss"] == [(1, 1.0), (2, 2.0)]


def test_a_killed_process_loses_nothing_it_said(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from flows.records.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(1, 501): journal.metrics({'loss': step / 2}, step=step, epoch=0.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert history(tmp_path)["loss"] == [(step, step / 2) for step in range(1, 501)]


def test_importing_it_brings_in_nothing_heavy() -> None:
    program = "import sys, flows.records.journal; print([m for m in ('torch', 'mlflow', 'matplotlib', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_figure_is_saved_once_a_step(tmp_path: Path) -> None:
    figure = Figure()
    figure.add_subplot().plot([0, 1])
    with Journal(tmp_path) as journal:
        journal.figure("gradients/step-10", figure, step=10)
        written = (tmp_path / "figures/gradients/step-10.png").stat().st_mtime_ns
    with Journal(tmp_path) as journal:
        journal.figure("gradients/step-10", figure, step=10)
        journal.figure("curves", figure, step=20)
    assert (tmp_path / "figures/gradients/step-10.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figures/gradients/step-10.png").stat().st_mtime_ns == written
    assert [(line["name"], line["step"], line["file"]) for line in read(tmp_path)] == [
        ("gradients/step-10", 10, "figures/gradients/step-10.png"),
        ("curves", 20, "figures/curves.png"),
    ]
    assert sorted(path.name for path in (tmp_path / "figures").rglob("*") if path.is_file()) == ["curves.png", "step-10.png"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../../b"])
def test_a_figure_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="relative path"):
        journal.figure(name, Figure(), step=1)


def test_events_keep_their_facts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.event("stage", name="fit", state="finished", seconds=1.5)
    (line,) = read(tmp_path)
    assert (line["kind"], line["event"], line["facts"]) == ("event", "stage", {"name": "fit", "state": "finished", "seconds": 1.5})


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    assert not is_open(tmp_path)
    with Journal(tmp_path), pytest.raises(RunError, match="already running"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_it_can_be_seen_whether_somebody_writes(tmp_path: Path) -> None:
    with Journal(tmp_path):
        assert is_open(tmp_path)
    assert not is_open(tmp_path)


def test_a_full_disk_is_one_clear_error_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": 1.0}, step=1, epoch=0.0)
    real = os.write
    calls: list[int] = []

    def nearly_full(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(RunError, match="the disk is full"):
            journal.metrics({"loss": 2.0}, step=2, epoch=0.0)
    journal.metrics({"loss": 3.0}, step=3, epoch=0.0)
    journal.close()
    assert history(tmp_path)["loss"] == [(1, 1.0), (3, 3.0)]
