"""The real servers, from `lab up` to `lab down`, and a schedule that fires."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.lab import health, processes, servers
from flows.lab.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LAB = Path(sys.executable).with_name("lab")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1] for _ in range(count)]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A lab of the test's own, in a folder with a blank in its name; nothing of it is left afterwards, whatever happens."""
    prefect, mlflow = free_ports(2)
    settings = Settings(tmp_path / "my lab", prefect_port=prefect, mlflow_port=mlflow)
    try:
        yield settings
    finally:
        servers.down(settings, lambda _line: None)
        assert processes.marked(settings.home) == []


def environment(settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "PREFECT_", "MLFLOW_"))}
    return kept | settings.lab_environment()


def lab(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([LAB, *arguments], env=environment(settings), cwd="/", capture_output=True, text=True, check=False, timeout=300)
    sys.stdout.write(f"$ lab {' '.join(arguments)}\n{done.stderr}{done.stdout}")  # shown when a test fails
    return done


def answer(settings: Settings, *arguments: str) -> Any:
    done = lab(settings, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return value


def pids(settings: Settings, part: str) -> set[int]:
    return {each.pid for each in processes.marked(settings.home) if processes.part(each) == part}


def test_the_life_of_a_lab(settings: Settings, tmp_path: Path) -> None:
    up = answer(settings, "up", "--detach")
    assert up["started"] is True
    assert (up["prefect"], up["mlflow"]) == (f"http://127.0.0.1:{settings.prefect_port}", f"http://127.0.0.1:{settings.mlflow_port}")
    for server in ("prefect", "mlflow", "worker"):
        assert health.answers(settings, server), server
    pool = health.call(f"{settings.prefect_api}/work_pools/lab")
    assert (pool["type"], pool["is_paused"]) == ("process", False)
    listening = {
        connection.laddr.ip
        for process in processes.marked(settings.home)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    before = {each.pid for each in processes.marked(settings.home)}
    again = answer(settings, "up", "--detach")
    assert again["started"] is False
    assert {each.pid for each in processes.marked(settings.home)} == before

    status = answer(settings, "status")
    assert status["running"] is True
    assert [server["state"] for server in status["servers"]] == ["running"] * 3
    assert status["flow_runs"] == {"running": 0, "queued": 0}
    other_terminal = {name: value for name, value in environment(settings).items() if not name.endswith("_PORT")}
    seen = subprocess.run([LAB, "status", "--json"], env=other_terminal, capture_output=True, text=True, check=True)
    assert json.loads(seen.stdout)["running"] is True, "the ports are found without being told"

    # The command's process is killed, its web process stays and keeps the port: it has to make way.
    first = status["servers"][1]["pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in pids(settings, "mlflow") and pids(settings, "mlflow").isdisjoint(before), 30)
    until(lambda: health.answers(settings, "mlflow"), 90)

    elsewhere = Settings(tmp_path / "another", prefect_port=settings.prefect_port, mlflow_port=free_ports(1)[0])
    busy = lab(elsewhere, "up", "--detach")
    assert busy.returncode == 2
    assert f"port {settings.prefect_port} of the Prefect server is used by the lab of {settings.home}" in busy.stderr
    assert "choose another with LAB_PREFECT_PORT=" in busy.stderr
    assert processes.marked(elsewhere.home) == []
    assert len(pids(settings, "supervisor")) == 1

    down = answer(settings, "down")
    assert down["stopped"] is True
    assert processes.marked(settings.home) == []
    assert servers.port_is_free(settings.prefect_port)
    assert servers.port_is_free(settings.mlflow_port)
    assert answer(settings, "down")["stopped"] is False


FLOW = """
import pathlib, time
from prefect import flow

@flow
def tick() -> str:
    return "tock"

@flow
def slow() -> None:
    here = pathlib.Path(__file__).parent
    (here / "began").touch()
    try:
        time.sleep(120)
    except BaseException:
        (here / "saved").touch()
        raise
"""

DEPLOY = """
import sys
from datetime import timedelta
from prefect import flow
from prefect.deployments import run_deployment
how = dict(work_pool_name="lab", build=False, push=False, print_next_steps=False, ignore_warnings=True)
flow.from_source(sys.argv[1], "flow_file.py:tick").deploy("every", interval=timedelta(seconds=2), **how)
flow.from_source(sys.argv[1], "flow_file.py:slow").deploy("once", **how)
"""


def test_a_schedule_fires_and_stops_cut_nothing_off(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "flow_file.py").write_text(FLOW)
    answer(settings, "up", "--detach")

    def prefect(code: str) -> None:
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment(settings) | settings.prefect_environment(), check=True)

    def runs(name: str) -> list[str]:
        wanted = {"deployments": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [run["state"]["type"] for run in health.call(f"{settings.prefect_api}/flow_runs/filter", wanted)]

    prefect(DEPLOY)
    until(lambda: runs("every").count("COMPLETED") >= 2, 120)

    # A flow run that is stopped with the lab saves first, and says how it ended.
    (schedule,) = health.call(f"{settings.prefect_api}/deployments/filter", {"deployments": {"name": {"any_": ["every"]}}})
    health.call(f"{settings.prefect_api}/deployments/{schedule['id']}/pause_deployment", {})
    prefect("from prefect.deployments import run_deployment; run_deployment('slow/once', timeout=0)")
    until((tmp_path / "began").exists, 60)
    down = lab(settings, "down")
    assert down.returncode == 0
    assert "asking the running flow runs to save and stop; they have 30 s" in down.stderr
    assert (tmp_path / "saved").exists()
    assert processes.marked(settings.home) == []
    with closing(sqlite3.connect(settings.prefect_database)) as database:
        states = database.execute("select r.state_type from flow_run r join deployment d on d.id = r.deployment_id where d.name = 'once'")
        assert states.fetchall() == [("CRASHED",)]


def test_up_after_a_power_cut(settings: Settings) -> None:
    cut = subprocess.Popen([LAB, "up", "--detach"], env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with cut:
        until(settings.mlflow_database.with_suffix(".making").exists, 60)
        time.sleep(1)  # in the midst of the migrations, which MLflow could not take up again
        cut.kill()
    until(lambda: processes.marked(settings.home), 5)
    while found := processes.marked(settings.home):
        processes.kill(found)
    assert settings.running_file.exists()
    assert (settings.run / "supervisord.pid").exists()
    assert not settings.mlflow_database.exists()
    assert answer(settings, "up", "--detach")["started"] is True

    # The supervisor alone is killed: its children go on, and the next `up` takes over.
    for pid in pids(settings, "supervisor"):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not pids(settings, "supervisor"), 5)
    assert pids(settings, "mlflow")
    assert answer(settings, "up", "--detach")["started"] is True
    assert answer(settings, "status")["running"] is True


def test_in_the_foreground_ctrl_c_stops_everything(settings: Settings) -> None:
    with subprocess.Popen(
        [LAB, "up"], env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as foreground:
        assert foreground.stdout is not None
        said = []
        for line in foreground.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        assert any(f"Prefect  {settings.prefect_ui}" in line for line in said), said
        foreground.send_signal(signal.SIGINT)
        rest = foreground.stdout.read()
        assert foreground.wait(60) == 0
    assert rest.splitlines()[-1] == "the lab is stopped"
    assert processes.marked(settings.home) == []
