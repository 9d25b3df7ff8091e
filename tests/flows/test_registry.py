"""The registry keeps the best by validation metric: of all, and of each architecture."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from run_folders import model_folder

from components.errors import RequestError
from flows.records import registry
from flows.records.registry import Score, Version
from flows.records.tracking import tracking_client

NAME = "digits-classification"


@pytest.fixture
def client(mlflow_uri: str, tmp_path: Path) -> MlflowClient:
    client = tracking_client(mlflow_uri)
    client.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri())
    return client


def logged(client: MlflowClient, folder: Path) -> tuple[str, str]:
    """An MLflow run with a logged model that holds the files of `folder`: (model id, run id)."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    model = client.create_logged_model(experiment.experiment_id, name="mlp", source_run_id=run.info.run_id)
    client.log_model_artifacts(model.model_id, str(folder), registry.DATA)
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id, run.info.run_id


def enter(
    client: MlflowClient, home: Path, value: float, *, model: str = "mlp", metric: str = "validation/accuracy", direction: str = "max"
) -> Version | None:
    home.mkdir(exist_ok=True)
    model_id, run_id = logged(client, model_folder(home, scale=value))
    score = Score(metric, direction, value)  # type: ignore[arg-type]
    return registry.register(
        client, home=home, name=NAME, model_id=model_id, mlflow_run_id=run_id, score=score, run=f"run-{value}", experiment="e", model=model
    )


def holders(client: MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def test_a_version_is_earned_by_being_the_best_of_all_or_of_its_architecture(client: MlflowClient, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert enter(client, home, 0.90) == Version(NAME, "1", ("champion", "best-mlp"))
    assert enter(client, home, 0.80) is None
    assert enter(client, home, 0.90) is None  # a tie keeps the incumbent
    assert enter(client, home, math.nan) is None
    assert enter(client, home, 0.85, model="vgg") == Version(NAME, "2", ("best-vgg",))
    assert enter(client, home, 0.95, model="vgg") == Version(NAME, "3", ("champion", "best-vgg"))
    assert enter(client, home, 0.92) == Version(NAME, "4", ("best-mlp",))
    assert holders(client) == {"champion": "3", "best-vgg": "3", "best-mlp": "4"}
    tags = client.get_model_version(NAME, "4").tags
    assert tags.pop("model_id").startswith("m-")
    assert tags == {
        "run": "run-0.92",
        "experiment": "e",
        "model": "mlp",
        "metric": "validation/accuracy",
        "direction": "max",
        "value": "0.92",
    }


def test_less_is_better_where_the_objective_says_so(client: MlflowClient, tmp_path: Path) -> None:
    versions = [enter(client, tmp_path / "home", value, metric="validation/loss", direction="min") for value in (2.0, 3.0, 1.0)]
    assert [version and version.version for version in versions] == ["1", None, "2"]
    assert holders(client)["champion"] == "2"
    assert enter(client, tmp_path / "home", 9.0) is None  # another metric does not compare


def test_a_test_metric_chooses_nothing() -> None:
    with pytest.raises(ValueError, match="chosen by a validation metric, not by 'test/accuracy'"):
        Score("test/accuracy", "max", 0.9)


def test_registering_the_same_model_again_makes_no_second_version(client: MlflowClient, tmp_path: Path) -> None:
    model_id, run_id = logged(client, model_folder(tmp_path))
    score = Score("validation/accuracy", "max", 0.5)
    made = [
        registry.register(
            client, home=tmp_path, name=NAME, model_id=model_id, mlflow_run_id=run_id, score=score, run="r", experiment="e", model="mlp"
        )
        for _ in range(2)
    ]
    assert made[0] == made[1] == Version(NAME, "1", ("champion", "best-mlp"))
    assert client.get_logged_model(model_id).tags["mlflow.modelVersions"] == f'[{{"name": "{NAME}", "version": "1"}}]'


def test_runs_that_end_at_once_leave_the_best_on_top(client: MlflowClient, tmp_path: Path) -> None:
    values = [0.1, 0.9, 0.3, 0.8]
    models = [logged(client, model_folder(tmp_path, scale=value)) for value in values]

    def work(number: int) -> None:
        model_id, run_id = models[number]
        score = Score("validation/accuracy", "max", values[number])
        registry.register(
            client, home=tmp_path, name=NAME, model_id=model_id, mlflow_run_id=run_id, score=score, run="r", experiment="e", model="mlp"
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert client.get_model_version_by_alias(NAME, "champion").tags["value"] == "0.9"


def test_an_address_becomes_a_local_model_folder(client: MlflowClient, mlflow_uri: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    enter(client, home, 0.5)
    weights = (home / "model/model.safetensors").read_bytes()
    for address in (f"registry:{NAME}@champion", f"registry:{NAME}", f"registry:{NAME}@best-mlp"):
        folder = registry.resolve(address, mlflow_uri, home=home)
        assert folder == home / "registry" / NAME / "1"
        assert (folder / "model.safetensors").read_bytes() == weights
        assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "data.json", "origin.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert next(registry.from_experiment("e", mlflow_uri, home=home)) == folder
    assert list(registry.from_experiment("f", mlflow_uri, home=home)) == []
    version = client.get_model_version(NAME, "1")
    origin = {"run": "run-0.5", "experiment": "e", "mlflow_run_id": version.run_id, "model_id": version.tags["model_id"]}
    assert json.loads((folder / "origin.json").read_text()) == {"registered": f"{NAME} version 1", **origin}


def test_a_wrong_address_says_what_there_is(client: MlflowClient, mlflow_uri: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing is registered yet"):
        registry.resolve(f"registry:{NAME}", mlflow_uri, home=tmp_path)
    enter(client, tmp_path / "home", 0.5)
    for address, message in (
        ("registry:", "is written registry:NAME@ALIAS"),
        ("registry:a@b@c", "is written registry:NAME@ALIAS"),
        (f"registry:{NAME}@best-vgg", f"there is no registered model {NAME}@best-vgg; {NAME} has best-mlp, champion"),
        ("registry:mnist@champion", f"there is no registered model mnist@champion; registered are {NAME}"),
    ):
        with pytest.raises(RequestError, match=message):
            registry.resolve(address, mlflow_uri, home=tmp_path)
