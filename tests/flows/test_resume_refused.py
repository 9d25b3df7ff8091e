"""A run that is going on cannot be resumed a second time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import cli
from flows.records.journal import Journal


def test_a_run_that_is_going_on_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "mlp-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": "mlp"}))
    with Journal(folder):
        assert cli.run(["train", "--resume", "last"]) == 2
    assert capsys.readouterr().err == "lab: mlp-1 is running already, in another process; there is nothing to resume\n"
