"""What happens before a server becomes itself: its database is whole or not there, and the worker's flow runs end properly."""

import configparser
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from lab_processes import stand_in, wait_for

from components.errors import RequestError, RunError
from flows.lab import access, launch, processes
from flows.lab.settings import Settings

TABLE = """
import os, signal, sqlite3, sys
c = sqlite3.connect(os.environ["MLFLOW_BACKEND_STORE_URI"].removeprefix("sqlite:///"))
c.execute("PRAGMA journal_mode=WAL")
c.execute("create table t(x)")
c.commit()
"""


def migration(then: str) -> launch.Migration:
    return lambda: [sys.executable, "-c", TABLE + then]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def test_a_database_appears_complete(settings: Settings) -> None:
    launch.make_mlflow_database(settings, migration("c.close()"))
    with closing(sqlite3.connect(settings.mlflow_database)) as made:
        assert made.execute("select count(*) from t").fetchall() == [(0,)]
    assert sorted(file.name for file in settings.home.iterdir()) == ["mlflow.db", "mlflow.lock"]


def test_what_was_only_in_the_write_ahead_log_is_kept(settings: Settings) -> None:
    launch.make_mlflow_database(settings, migration("os._exit(0)"))
    with closing(sqlite3.connect(settings.mlflow_database)) as made:
        assert made.execute("select count(*) from t").fetchall() == [(0,)]


def test_a_half_made_database_never_counts(settings: Settings) -> None:
    with pytest.raises(RunError, match=r"the database .*mlflow\.making could not be made: it said nothing"):
        launch.make_mlflow_database(settings, migration("os.kill(os.getpid(), signal.SIGKILL)"))
    assert not settings.mlflow_database.exists()
    launch.make_mlflow_database(settings, migration("c.close()"))  # `create table t` would fail on what was left
    assert settings.mlflow_database.exists()


def test_a_database_that_is_there_is_left_alone(settings: Settings) -> None:
    settings.mlflow_database.write_text("mine")
    launch.make_mlflow_database(settings, migration("c.close()"))
    assert settings.mlflow_database.read_text() == "mine"


def test_mlflow_listens_on_loopback_with_one_process_and_plain_folders(settings: Settings) -> None:
    command = launch.mlflow_command(settings)
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert options == {
        "--default-artifact-root": f"{settings.home}/artifacts",
        "--host": "127.0.0.1",
        "--port": "5000",
        "--workers": "1",
    }
    assert launch.mlflow_server_environment(settings)["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{settings.home}/mlflow.db"


def test_the_prefect_server_listens_on_loopback_and_lets_in_its_own_pages_only(settings: Settings) -> None:
    environment = launch.prefect_server_environment(settings)
    assert environment["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{settings.home}/prefect/prefect.db"
    assert environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in environment


def test_a_team_has_its_hosts_let_in_its_secrets_out_of_commands_and_artifacts_through_the_server(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret%")
    settings = Settings(
        tmp_path,
        host="0.0.0.0",
        public_hosts=("lab.example.org",),
        database="postgresql+psycopg://lab@db/lab",
        password_file=tmp_path / "secret",
        artifact_store="s3://bucket/lab",
    )
    access.make(settings.credentials)
    login = access.required(settings.credentials)
    command, mlflow = launch.mlflow_command(settings), launch.mlflow_server_environment(settings)
    prefect = launch.prefect_server_environment(settings)
    assert command[4:6] == ["--artifacts-destination", "s3://bucket/lab"]
    assert command[6:8] == ["--host", "0.0.0.0"]
    assert command[-2:] == ["--app-name", "basic-auth"]
    assert "lab.example.org:5000" in mlflow["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert not {"*", "0.0.0.0"} & set(mlflow["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    assert prefect["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"].endswith(",http://lab.example.org:4200")
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] == login.prefect.string
    proxied = replace(settings, public_prefect="https://prefect.example.org", public_mlflow="https://logs.example.org/")
    through = launch.mlflow_server_environment(proxied)
    assert through["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].endswith(",https://logs.example.org")
    assert {"logs.example.org", "prefect.example.org"} <= set(through["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    shown = launch.prefect_server_environment(proxied)
    assert shown["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"].endswith(",https://prefect.example.org")
    assert shown["PREFECT_UI_API_URL"] == "https://prefect.example.org/api"
    secrets = [login.prefect.password, login.mlflow.password, login.admin.password, "s3cret"]
    assert not [part for part in command for secret in secrets if secret in part]

    file = Path(mlflow["MLFLOW_AUTH_CONFIG_PATH"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = configparser.ConfigParser()  # as MLflow reads it
    read.read(file)
    assert read["mlflow"]["database_uri"] == "postgresql+psycopg://lab:s3cret%25@db/lab_mlflow"
    assert read["mlflow"]["default_permission"] == "READ"


def test_a_client_with_its_own_credentials_cannot_become_the_server(tmp_path: Path) -> None:
    access.make(tmp_path / "all.json")
    access.export(access.required(tmp_path / "all.json"), "editor", tmp_path / "credentials.json")
    with pytest.raises(RequestError, match=r"credentials\.json is a client's file of credentials"):
        launch.mlflow_server_environment(Settings(tmp_path))


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("127.0.0.1:4200", "/api/version", 200),
        ("localhost", "/api/version", 200),
        ("evil.example.org", "/api/version", 400),
        ("127.0.0.1.evil.example.org:4200", "/", 400),
        ("10.0.0.7:4200", "/api/health", 200),
        ("10.0.0.7:4200", "/api/health/x", 400),
    ],
)
def test_prefect_answers_under_its_own_names_only(host: str, path: str, status: int, settings: Settings) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    from flows.lab.prefect_server import for_own_hosts

    app = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("there"))])
    client = TestClient(for_own_hosts(app, launch.names(settings)))
    assert client.get(path, headers={"host": host}).status_code == status


LOOK_AFTER = """
import os, sys
from pathlib import Path
from flows.lab import launch
from flows.lab.settings import Settings
sys.exit(launch.look_after([sys.executable, "-c", sys.argv[2]], Settings(Path(sys.argv[1])), os.environ))
"""


def look_after(home: Path, worker: str) -> subprocess.Popen[bytes]:
    environment = os.environ | processes.mark(home) | {"LAB_SERVER": "worker"}
    return subprocess.Popen([sys.executable, "-c", LOOK_AFTER, str(home), worker], env=environment)


def test_asked_to_stop_the_worker_gets_no_signal_and_its_flow_runs_do(tmp_path: Path) -> None:
    wrong, there = tmp_path / "wrong", tmp_path / "there"
    worker = f"""
import signal, time
signal.signal(signal.SIGTERM, lambda *_: open({str(wrong)!r}, "w"))
open({str(there)!r}, "w")
time.sleep(60)
"""
    saves = "signal.signal(signal.SIGTERM, lambda *_: ((here / 'saved').touch(), sys.exit()))"
    with stand_in(tmp_path, saves, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b"), look_after(tmp_path, worker) as keeper:
        wait_for(there.exists)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(10) == 0
    assert (tmp_path / "saved").exists()
    assert not wrong.exists()
    assert processes.marked(tmp_path) == []


def test_a_worker_that_ends_by_itself_is_reported_with_its_code(tmp_path: Path) -> None:
    with look_after(tmp_path, "raise SystemExit(7)") as keeper:
        assert keeper.wait(10) == 7


def test_people_on_one_machine_have_temporary_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = Path(launch.own_temporary_folder())
    assert own == tmp_path / f"lab-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert launch.own_temporary_folder() == str(own), "again"
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    assert launch.own_temporary_folder() == str(own), "a worker started by a worker's run"
    own.rmdir()
    own.symlink_to("/")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert launch.own_temporary_folder() == str(tmp_path), "somebody else's trap"
