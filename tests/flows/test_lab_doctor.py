"""Each check of the doctor: what it says when all is well, and when something is not."""

import importlib.metadata
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lab_processes import server, stand_in

from flows.lab import access, doctor
from flows.lab.doctor import Finding
from flows.lab.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, prefect_port=1, mlflow_port=2)


def test_this_environment_is_what_the_project_asks_for(settings: Settings) -> None:
    assert [finding.level for finding in doctor.python(settings)] == ["ok"]
    assert [finding.level for finding in doctor.libraries(settings)] == ["ok"]


def test_a_library_that_is_too_new_is_named_with_its_pin(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.156.0" if name == "fastapi" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = list(doctor.libraries(settings))
    assert found == [
        Finding("fail", "fastapi", "0.156.0, but <0.151,>=0.150 is needed", "pip install 'fastapi<0.151,>=0.150'"),
        Finding("fail", "optuna", "is not installed", "pip install 'optuna==5.0.0'"),
    ]


def test_a_misspelt_variable_is_noticed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAB_HOME", "/somewhere")
    assert list(doctor.variables(settings)) == []
    monkeypatch.setenv("LAB_MLFLOW_PROT", "5001")
    expected = "LAB_MLFLOW_PROT is set, but means nothing (did you mean 'LAB_MLFLOW_PORT'?)"
    assert list(doctor.variables(settings)) == [Finding("warn", "settings", expected, "unset LAB_MLFLOW_PROT")]


@pytest.mark.parametrize(
    ("answer", "gpus", "level", "found"),
    [
        ('{"cuda": ["H100", "H100"], "mps": false, "threads": 8}', 2, "ok", "cuda: H100, H100"),
        ('{"cuda": [], "mps": true, "threads": 8}', 0, "ok", "mps"),
        ('{"cuda": [], "mps": false, "threads": 8}', 0, "ok", "cpu, 8 threads"),
        ('{"cuda": [], "mps": false, "threads": 8}', 1, "warn", "cpu, although there are 1 NVIDIA devices that torch cannot use"),
    ],
)
def test_device(answer: str, gpus: int, level: str, found: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=f"noise\n{answer}\n"))
    monkeypatch.setattr(doctor.servers, "count_gpus", lambda: gpus)
    (finding,) = doctor.device(settings)
    assert (finding.level, finding.found) == (level, found)


def test_a_torch_that_cannot_be_imported_is_shown_with_its_last_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, [], stderr="Traceback\nImportError: libcudart.so.13")

    monkeypatch.setattr(subprocess, "run", run)
    (finding,) = doctor.device(settings)
    assert (finding.level, finding.found) == ("fail", "torch cannot be imported: ImportError: libcudart.so.13")


def test_servers_that_do_not_run_are_no_fault(tmp_path: Path) -> None:
    found = list(doctor.lab_servers(Settings(tmp_path, prefect_port=40001, mlflow_port=40002)))
    assert [(finding.level, finding.found) for finding in found] == [("ok", "not running (lab up starts it)")] * 3


def test_a_port_that_somebody_else_has_is_a_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        prefect, *_ = doctor.lab_servers(Settings(tmp_path, prefect_port=port, mlflow_port=2))
    assert prefect.level == "fail"
    assert prefect.found.startswith(f"its port {port} is used by ")
    assert prefect.mend.startswith("choose another: LAB_PREFECT_PORT=")


def test_a_server_that_hangs_is_told_from_one_that_does_not_run(settings: Settings) -> None:
    with stand_in(settings.home):
        found = list(doctor.lab_servers(settings))
    assert [(finding.level, finding.found) for finding in found] == [("fail", "runs but does not answer")] * 3
    assert found[1].mend == f"read {settings.logs}/mlflow.log; lab down and lab up start it anew"


def test_orphans_and_servers_elsewhere(tmp_path: Path) -> None:
    with stand_in(tmp_path, LAB_SERVER="mlflow"), server({"/health": "OK"}) as (port, _):
        remote = Settings(tmp_path, remote_mlflow=f"http://127.0.0.1:{port}", remote_prefect="http://127.0.0.1:1/api")
        found = {finding.check: finding for finding in doctor.lab_servers(remote)}
    assert found["MLflow server"] == Finding("ok", "MLflow server", "answers")
    assert (found["Prefect server"].level, found["Prefect server"].found) == ("fail", "http://127.0.0.1:1/api does not answer")
    assert found["processes"] == Finding("warn", "processes", "1 were left behind by an earlier lab", "lab down ends them")


@pytest.mark.parametrize(("free", "level"), [(10 * 10**9, "ok"), (2 * 10**9, "warn"), (10**8, "fail")])
def test_disk(free: int, level: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    (finding,) = doctor.disk(settings)
    assert finding.level == level
    assert finding.found == f"{free / 1e9:.1f} GB free for {settings.home}"


def test_a_damaged_database_is_found(settings: Settings) -> None:
    with closing(sqlite3.connect(settings.mlflow_database)) as connection:
        connection.execute("create table t(x)")
        connection.executemany("insert into t values (?)", [("x" * 500,)] * 500)
        connection.commit()
    assert list(doctor.databases(settings)) == [Finding("ok", "mlflow.db", "intact")]
    content = bytearray(settings.mlflow_database.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    settings.mlflow_database.write_bytes(content)
    settings.lab_database.write_text("this was never a database" * 100)
    mlflow, lab = doctor.databases(settings)
    assert (mlflow.level, lab.level) == ("fail", "fail")
    assert lab.found == "is damaged: file is not a database"


def test_a_postgresql_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    [finding] = doctor.databases(Settings(tmp_path, database=f"postgresql+psycopg://lab:s3cret@127.0.0.1:{port}/lab"))
    assert finding.level == "fail"
    assert f"postgresql+psycopg://lab:…@127.0.0.1:{port}/lab cannot be opened" in finding.found
    assert "s3cret" not in finding.found


def test_credentials_that_others_can_read_are_a_fault(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    assert list(doctor.credentials(settings)) == []
    access.make(settings.credentials)
    assert [finding.level for finding in doctor.credentials(settings)] == ["ok"]
    settings.credentials.chmod(0o640)
    assert [finding.mend for finding in doctor.credentials(settings)] == [f"chmod 600 {settings.credentials}"]
    settings.credentials.write_text("{}")
    assert [finding.level for finding in doctor.credentials(settings)] == ["fail"]


@pytest.mark.parametrize(("taken", "level"), [(700, []), (800, ["warn"]), (1000, ["fail"])])
def test_quota(taken: int, level: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(taken))
    assert [finding.level for finding in doctor.quota(Settings(tmp_path, quota=1000))] == level


def test_mirror(tmp_path: Path) -> None:
    (there,) = doctor.mirror(Settings(tmp_path, data_mirror=str(tmp_path)))
    assert there == Finding("ok", "data mirror", str(tmp_path))
    (missing,) = doctor.mirror(Settings(tmp_path, data_mirror=str(tmp_path / "no")))
    assert (missing.level, missing.found) == ("fail", f"{tmp_path}/no is not a folder")
    with server({"/": {}}) as (port, _):
        for address in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/below"):
            (answers,) = doctor.mirror(Settings(tmp_path, data_mirror=address))
            assert answers == Finding("ok", "data mirror", f"{address} answers")
    (away,) = doctor.mirror(Settings(tmp_path, data_mirror="http://127.0.0.1:1"))
    assert away.level == "fail"


def test_a_clock_behind_the_files_is_noticed(settings: Settings) -> None:
    (finding,) = doctor.clock(settings)
    assert finding.level == "ok"
    ahead = time.time() + 7200
    os.utime(settings.home, (ahead, ahead))
    (finding,) = doctor.clock(settings)
    assert finding.level == "warn"
    assert finding.found in {f"is {seconds} s behind the newest files in LAB_HOME" for seconds in (7199, 7200)}


def test_everything_is_examined_in_order(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(_settings: Settings) -> Any:
        time.sleep(0.05)
        yield Finding("ok", "one", "")

    def two(_settings: Settings) -> Any:
        yield Finding("warn", "two", "")
        yield Finding("fail", "three", "")

    monkeypatch.setattr(doctor, "CHECKS", (one, two))
    assert [finding.check for finding in doctor.examine(settings)] == ["one", "two", "three"]
