"""What several tests of the flows need: a tracking database whose tables are made once a session, a run folder,
and a lab that is not running, with data prepared once a session."""

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flows.lab.settings import Settings


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing else; making them takes seconds."""
    from flows.records.tracking import tracking_client

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_uri(mlflow_tables: Path, tmp_path: Path) -> str:
    """The address of a tracking database of the test's own."""
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """An empty run folder inside a LAB_HOME."""
    path = tmp_path / "runs" / "mlp_digits-20261122-134512-3f9a"
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LAB_HOME/data with the digits prepared; importing scikit-learn takes seconds."""
    from flows.parts import data_section, prepare_data

    settings = Settings(tmp_path_factory.mktemp("digits"))
    prepare_data({"data": data_section(["data=digits"])}, settings)
    return settings.data


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1] for _ in range(count)]


def _new_lab(home: Path, digits: Path) -> Settings:
    home.mkdir()
    (home / "data").symlink_to(digits)
    prefect, mlflow = _free_ports(2)
    return Settings(home, prefect_port=prefect, mlflow_port=mlflow)


@pytest.fixture
def settings(tmp_path: Path, digits: Path) -> Settings:
    """A lab of the test's own that is not running: nothing listens on its ports; the digits are prepared."""
    return _new_lab(tmp_path / "lab", digits)


@pytest.fixture
def tracked_settings(settings: Settings, mlflow_tables: Path) -> Settings:
    """The same, with MLflow's tables made."""
    shutil.copy(mlflow_tables, settings.mlflow_database)
    return settings


@pytest.fixture(scope="module")
def module_settings(tmp_path_factory: pytest.TempPathFactory, digits: Path, mlflow_tables: Path) -> Settings:
    """A lab as `tracked_settings`, which the tests of a file share."""
    settings = _new_lab(tmp_path_factory.mktemp("module") / "lab", digits)
    shutil.copy(mlflow_tables, settings.mlflow_database)
    return settings


@pytest.fixture(scope="module")
def running_lab(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Settings]:
    """A lab with its servers, its worker and all deployments; nothing of it is left afterwards, whatever happens."""
    from flows.lab import processes, servers

    settings = _new_lab(tmp_path_factory.mktemp("running") / "lab", digits)
    try:
        servers.up(settings, lambda line: sys.stdout.write(f"{line}\n"))
        yield settings
    finally:
        servers.down(settings, lambda _line: None)
        assert processes.marked(settings.home) == []
