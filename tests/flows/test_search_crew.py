"""The workers of a sweep: their shares of the machine, and what is made of their ends."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from components.errors import RequestError, RunError
from flows.lab.settings import Settings
from flows.search import crew
from flows.search.crew import DEATHS, Crew


@pytest.mark.parametrize(
    ("cores", "workers", "shares", "threads"),
    [
        ({0, 1}, 1, [[0, 1]], 2),
        ({0, 1}, 2, [[0], [1]], 1),
        ({2, 3, 4, 5, 6}, 2, [[2, 3], [4, 5]], 2),
        ({0, 1}, 3, [[0], [1], [0]], 1),
    ],
)
def test_cores_are_dealt_out_evenly(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], workers: int, shares: list[list[int]], threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert crew.shares(workers) == shares
    assert crew.threads(workers) == threads


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, *, workers: int = 1) -> tuple[Crew, list[dict[str, Any]]]:
    """A crew whose workers are the shell script."""
    program = tmp_path / "worker"
    program.write_text(f'#!/bin/sh\nread request; echo "$request" >> {tmp_path}/asked\n{script}')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    heard: list[dict[str, Any]] = []
    return Crew("s", workers, Settings(tmp_path / "lab"), watch=heard.append), heard


def listen(found: Crew) -> None:
    while found.running:
        found.listen(0.2)


def test_workers_that_are_done_end_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, heard = start(tmp_path, monkeypatch, """echo '{"kind": "worker", "name": "w"}'""", workers=2)
    listen(found)
    assert sorted(line["worker"] for line in heard) == [0, 1]
    assert '"sweep": "s"' in (tmp_path / "asked").read_text()


def test_a_killed_worker_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, heard = start(tmp_path, monkeypatch, f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; kill -KILL $$; }}")
    listen(found)
    assert [line["message"] for line in heard] == [
        "worker 1 was killed by SIGKILL (is there enough memory?); it is started again and its trial goes on"
    ]
    assert (tmp_path / "asked").read_text().count("\n") == 2


def test_workers_that_only_die_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = start(tmp_path, monkeypatch, "echo 'no such library' >&2; exit 7")
    with pytest.raises(
        RunError, match=rf"^{DEATHS} workers ended one after the other without finishing a trial; the last one ended with exit"
    ):
        listen(found)
    found.end(grace=0)


@pytest.mark.parametrize(("code", "kind"), [(1, RunError), (2, RequestError)])
def test_what_a_worker_cannot_go_on_with_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    found, _ = start(tmp_path, monkeypatch, f"""echo '{{"kind": "error", "message": "so it is", "exit": {code}}}'; exit {code}""")
    with pytest.raises(kind, match=r"^so it is$"):
        listen(found)
    found.end(grace=0)


def test_stopping_lets_workers_end_and_starts_none_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, heard = start(tmp_path, monkeypatch, 'echo \'{"kind": "worker"}\'; read stop; exit 9', workers=2)
    while len(heard) < 2:
        found.listen(0.2)
    found.stop()
    listen(found)
    assert (tmp_path / "asked").read_text().count("\n") == 2
