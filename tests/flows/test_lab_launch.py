"""What happens before a server becomes itself: its database is whole or not there, and the worker's flow runs end properly."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from lab_processes import stand_in, wait_for

from components.errors import RunError
from flows.lab import launch, processes
from flows.lab.settings import Settings

TABLE = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("PRAGMA journal_mode=WAL")
c.execute("create table t(x)")
c.commit()
"""


def migration(then: str) -> launch.Migration:
    return lambda _settings, database: [sys.executable, "-c", TABLE + then, str(database)]


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
    with pytest.raises(RunError, match=r"the database .*mlflow\.db could not be made"):
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
        "--backend-store-uri": f"sqlite:///{settings.home}/mlflow.db",
        "--default-artifact-root": f"{settings.home}/artifacts",
        "--host": "127.0.0.1",
        "--port": "5000",
        "--workers": "1",
    }


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
