"""What several tests of the flows need: a tracking database whose tables are made once a session, and a run folder."""

import shutil
from pathlib import Path

import pytest


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
