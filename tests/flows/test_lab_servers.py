"""up and down: who may, what stands in the way, and that a failed start leaves nothing behind. Real servers: test_lab_servers_e2e."""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from lab_processes import stand_in

from components.errors import RequestError, RunError
from flows.lab import processes, servers
from flows.lab.settings import Settings


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "lab", prefect_port=free_port(), mlflow_port=free_port())


def never(_line: str) -> None:
    raise AssertionError(_line)


def test_a_running_lab_is_left_alone(settings: Settings) -> None:
    with stand_in(settings.home) as supervisor:
        assert servers.up(settings, never) is False
        assert supervisor.poll() is None
    assert not settings.running_file.exists()


def test_a_busy_port_is_named_with_its_owner_and_another_one(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.mlflow_port)), pytest.raises(RequestError) as caught:
        servers.up(settings, never)
    message = str(caught.value)
    assert message.startswith(f"port {settings.mlflow_port} of the MLflow server is used by ")
    assert f"(process {os.getpid()})" in message
    offered = int(message.rpartition("LAB_MLFLOW_PORT=")[2])
    assert offered > settings.mlflow_port
    assert servers.port_is_free(offered)
    assert processes.marked(settings.home) == []


def test_of_two_at_once_one_wins_and_the_other_says_so(settings: Settings) -> None:
    with servers._lock(settings), pytest.raises(RunError, match=f"process {os.getpid()} is already starting or stopping this lab"):
        servers.up(settings, never)


def test_the_lock_of_a_dead_process_holds_nobody(settings: Settings) -> None:
    settings.run.mkdir(parents=True)
    settings.lock_file.write_text("4194303")
    with servers._lock(settings):
        assert settings.lock_file.read_text() == str(os.getpid())


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"LAB_HOME '.*/file/lab' cannot be written: Not a directory; set LAB_HOME to another folder"):
        servers.up(Settings(tmp_path / "file" / "lab"), never)


def test_down_without_a_lab_says_so(settings: Settings) -> None:
    assert servers.down(settings, never) is False
    settings.home.mkdir()
    assert servers.down(settings, never) is False


def test_down_ends_what_a_killed_supervisor_left_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    with (
        stand_in(settings.home, LAB_SERVER="mlflow") as mlflow,
        stand_in(settings.home, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b") as flow_run,
        stand_in(tmp_path / "other") as other,
    ):
        settings.run.mkdir()
        settings.running_file.write_text("{}")
        said: list[str] = []
        assert servers.down(settings, said.append) is True
        assert said == ["asking the running flow runs to save and stop; they have 30 s"]
        assert mlflow.poll() is not None
        assert flow_run.poll() is not None
        assert other.poll() is None
    assert not settings.running_file.exists()


def test_a_server_that_does_not_come_up_is_shown_with_its_log_and_nothing_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = servers.CONFIGURATION.read_text()
    broken = settings.home.parent / "broken.conf"
    broken.write_text(text.replace("-m flows.lab.launch", "-c \"print('no such table'); import time; time.sleep(60)\""))
    monkeypatch.setattr(servers, "CONFIGURATION", broken)
    said: list[str] = []
    with pytest.raises(RunError) as caught:
        servers.up(settings, said.append, timeout=2)
    message = str(caught.value)
    assert message.startswith("the Prefect server did not answer within ")
    assert message.endswith(f"the end of {settings.logs}/prefect.log:\n    no such table")
    assert said[:3] == ["starting the Prefect server", "starting the MLflow server", "starting the worker"]
    assert processes.marked(settings.home) == []
    assert not settings.running_file.exists()


def test_a_broken_configuration_is_one_error(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.conf"
    broken.write_text("[supervisord]\nloglevel=loud\n")
    monkeypatch.setattr(servers, "CONFIGURATION", broken)
    with pytest.raises(RunError, match=r"^supervisord does not start: Error: bad logging level name 'loud'$"):
        servers.up(settings, lambda _line: None)
    assert processes.marked(settings.home) == []


def test_servers_elsewhere_are_not_started_here(tmp_path: Path) -> None:
    assert servers.wanted(Settings(tmp_path)) == ["prefect", "mlflow", "worker"]
    assert servers.wanted(Settings(tmp_path, remote_mlflow="https://logs")) == ["prefect", "worker"]
    assert servers.wanted(Settings(tmp_path, remote_mlflow="https://logs", remote_prefect="https://there/api")) == ["worker"]


def test_gpus_are_counted_by_their_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia0-old", "null"):
        (tmp_path / name).touch()
    assert servers.count_gpus(tmp_path) == 3


def test_the_tail_of_a_log_that_is_not_there(settings: Settings) -> None:
    assert servers.log_tail(settings, "mlflow") == f"    ({settings.logs}/mlflow.log is empty)"
