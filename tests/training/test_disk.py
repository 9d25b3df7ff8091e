"""Files that are waited for one by one or together."""

import os
from pathlib import Path

import pytest

from components.training import disk
from components.training.disk import on_disk, together


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were waited for."""
    found: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: found.append(os.fstat(descriptor).st_ino))
    return found


def write(path: Path) -> int:
    with path.open("wb") as file:
        on_disk(file.fileno())
    return path.stat().st_ino


def test_outside_a_context_every_file_is_waited_for_at_once(tmp_path: Path, waited: list[int]) -> None:
    assert [write(tmp_path / "a"), write(tmp_path / "b")] == waited


def test_within_it_they_are_waited_for_at_its_end_wherever_they_are_then(tmp_path: Path, waited: list[int]) -> None:
    with together():
        inodes = [write(tmp_path / name) for name in "abc"]
        (tmp_path / "a").rename(tmp_path / "d")
        assert waited == []
    assert sorted(waited) == sorted(inodes)


def test_only_so_many_are_kept_open_and_none_afterwards(tmp_path: Path, waited: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_OPEN", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyError), together():
        for name in "abc":
            write(tmp_path / name)
        assert len(waited) == 2
        raise KeyError
    assert len(waited) == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_disk_that_refuses_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"), together():
        write(tmp_path / "a")
