"""What a worker on another machine does with a flow run before it starts: its own settings, the right code, or no."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lab_command import lab
from lab_processes import server
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from flows import code
from flows.lab import launch
from flows.lab.settings import Settings
from flows.worker import LabWorker


class Client:
    """Remembers the states that it was told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, Any, bool]] = []

    async def set_flow_run_state(self, flow_run_id: str, state: Any, force: bool) -> None:
        self.states.append((flow_run_id, state, force))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker that knows no server; `told` is what it has said to one."""
    made = object.__new__(LabWorker)
    made.told = Client()  # type: ignore[attr-defined]
    monkeypatch.setattr(LabWorker, "client", made.told, raising=False)  # type: ignore[attr-defined]
    monkeypatch.setattr(LabWorker, "get_flow_run_logger", lambda *_: logging.getLogger("test"))
    return made


def given(wanted: code.Code) -> Any:
    """What a deployment of another machine asks for, as Prefect hands it over: beside everything from this process's environment."""
    theirs = {"LAB_HOME": "/home/hub/.lab", "LAB_DATABASE_URL": "theirs", "LAB_HOST": "hub", "OTHER": "kept", code.FOLDER: "/home/hub/lab"}
    return SimpleNamespace(env={**theirs, code.VARIABLE: json.dumps(vars(wanted))})


def test_a_flow_run_gets_this_machines_settings_and_code(worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    async def start(_self: Any, _run: Any, configuration: Any, _status: Any = None) -> ProcessWorkerResult:
        started.append(configuration.env)
        return ProcessWorkerResult(status_code=0, identifier="1")

    monkeypatch.setattr(ProcessWorker, "run", start)
    for name in ("LAB_DATABASE_URL", "LAB_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setenv("LAB_PREFECT_API_URL", "http://hub:4200/api")
    asyncio.run(worker.run(SimpleNamespace(id="f"), given(code.of())))
    (environment,) = started
    assert environment["LAB_HOME"] == str(tmp_path)
    assert environment["LAB_PREFECT_API_URL"] == "http://hub:4200/api"
    assert "LAB_DATABASE_URL" not in environment
    assert environment["LAB_HOST"] == "127.0.0.1"
    assert environment["OTHER"] == "kept"
    assert environment[code.FOLDER] == environment["PYTHONPATH"] == str(code.ROOT)
    assert worker.told.states == []


def test_other_code_is_no_reason_to_start_anything(worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessWorker, "run", lambda *_: pytest.fail("it was started"))
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv(code.REPOSITORY, raising=False)
    begun: list[int] = []
    status = SimpleNamespace(started=begun.append)
    found = asyncio.run(worker.run(SimpleNamespace(id="f"), given(code.Code("0123456789abcdef", "c" * 40)), status))
    assert found.status_code == 0, "Prefect would call anything else a crash"
    ((run, state, force),) = worker.told.states
    assert (run, state.type.value, force) == ("f", "FAILED", True)
    assert f"has code version {code.version(code.ROOT)}, and the run is of 0123456789abcdef (commit cccccccccc)" in state.message
    assert len(begun) == 1, "Prefect waits for that"


def test_a_server_that_is_not_there_is_one_line(settings: Settings) -> None:
    done = lab(settings, "worker", "--url", "http://127.0.0.1:9")
    assert done.code == 2
    assert done.err == "lab: no Prefect server answers at http://127.0.0.1:9/api; on its machine: lab up (LAB_HOST says where it listens)\n"


def test_a_flow_run_works_in_the_folder_that_its_worker_names(tmp_path: Path) -> None:
    """What is deployed has no folder of any machine in it: Prefect fills it in when the flow run starts. No server is asked."""
    program = (
        "import asyncio, pathlib; from prefect.deployments.steps.core import run_steps; from flows.deployments import PULL; "
        "print(asyncio.run(run_steps(PULL))['directory'], pathlib.Path.cwd())"
    )
    own = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect"), code.FOLDER: str(tmp_path)}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd="/",
        env=os.environ | own | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == [f"{tmp_path} {tmp_path}"], done.stderr


def test_a_pool_that_the_server_does_not_have_is_refused_and_none_is_made(tmp_path: Path) -> None:
    with server({"/api/health": True, "/api/work_pools/filter": [{"name": "gpus"}]}) as (port, asked):
        for pool, meant in (("nosuch", ""), ("gpu", " (did you mean 'gpus'?)"), ("Lab", " (did you mean 'lab'?)")):
            done = lab(Settings(tmp_path), "worker", "--url", f"http://127.0.0.1:{port}", "--pool", pool)
            assert (done.code, done.err) == (2, f"lab: there is no work pool {pool!r}{meant}; the server has: gpus, lab\n")
        assert {path for path, _ in asked} == {"/api/health", "/api/work_pools/filter"}


@pytest.mark.parametrize("pool", ["lab", "gpus"])
def test_the_labs_own_pool_and_those_that_are_there_are_worked_for(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def look_after(command: list[str], *_: object, **__: object) -> int:
        started.append(command[2:])
        return 0

    monkeypatch.setattr(launch, "look_after", look_after)
    with server({"/api/health": True, "/api/work_pools/filter": [{"name": "gpus"}]}) as (port, _):
        done = lab(Settings(tmp_path), "worker", "--url", f"http://127.0.0.1:{port}", "--pool", pool, "--name", "me", "--limit", "3")
    assert done.code == 0
    assert started == [["flows.worker", pool, "me", "3"]]
