"""Scratch folders: cleaned up after any death, left alone while their owner lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.data.durable import PREFIX, UNLOCKED_SECONDS, is_full, publish, scratch
from components.errors import DataError

OWNER = """
import sys, time
from pathlib import Path
from components.data.durable import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_killed_owner_is_cleaned_up_after_and_a_living_one_is_not(tmp_path: Path) -> None:
    owners = [subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = [Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout]
        owners[0].kill()
        owners[0].wait()
        assert (killed / "half").exists()
        with scratch(tmp_path) as mine:
            assert set(tmp_path.iterdir()) == {mine, living}
        assert set(tmp_path.iterdir()) == {living}
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            assert owner.stdout
            owner.stdout.close()


def test_a_folder_without_lock_is_litter_only_when_old(tmp_path: Path) -> None:
    new, old = tmp_path / f"{PREFIX}new", tmp_path / f"{PREFIX}old"
    new.mkdir()
    old.mkdir()
    before = old.stat().st_mtime - UNLOCKED_SECONDS - 1
    os.utime(old, (before, before))
    with scratch(tmp_path):
        assert new.exists() and not old.exists()


def test_an_error_leaves_nothing_and_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch(tmp_path) as folder:
        (folder / "half").write_text("half")
        raise KeyError("ours")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no space left"), scratch(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), scratch(tmp_path):
        (tmp_path / "absent").read_text()


def test_publish(tmp_path: Path) -> None:
    for name, content in (("a", "new"), ("b", "old")):
        (tmp_path / name).write_text(content)
    publish(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new" and not (tmp_path / "a").exists()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    publish(tmp_path / "first", tmp_path / "deep" / "final")
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "second", tmp_path / "deep" / "final")
    assert (tmp_path / "deep" / "final" / "file").read_text() == "first"


def test_full_is_told_from_other_errors() -> None:
    assert is_full(OSError(28, "x")) and is_full(ValueError("I/O error: No space left on device (os error 28)"))
    assert is_full(ValueError("(sqlite3.OperationalError) database or disk is full"))
    wrapped = RuntimeError("cannot be saved")
    wrapped.__cause__ = OSError(28, "x")
    assert is_full(wrapped)
    assert not is_full(OSError(13, "x")) and not is_full(ValueError("x"))
