"""A run's model becomes a LoggedModel that gives the same numbers, here and where the lab is not installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from run_folders import CONFIG, begin, model_folder, result
from safetensors.torch import save_file

from components.errors import RunError
from flows.parts import build_model
from flows.records import logged_model
from flows.records.courier import Receipt, deliver_pending
from flows.records.journal import Journal
from flows.records.serving import Served
from flows.records.tracking import tracking_client

# MLflow silences this warning of its own while it is imported, but not where warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")

FACTS = {"input_shape": [1, 8, 8], "classes": 10, "class_names": [str(digit) for digit in range(10)]}


def finished(run_folder: Path, mlflow_uri: str, **changes: Any) -> Receipt:
    """A finished run whose model is a real MLP, delivered."""
    config = {**CONFIG, **changes}
    folder = model_folder(run_folder)
    model, _ = build_model(config, FACTS)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps({"name": "digits", "fingerprint": "0" * 64, "facts": FACTS}))
    with Journal(run_folder) as journal:
        begin(journal, **changes)
        result(journal)
    artifacts = (run_folder.parent.parent / "artifacts").as_uri()
    return deliver_pending(run_folder.parent, mlflow_uri, experiment="tests", artifacts=artifacts)[run_folder.name]


@pytest.fixture
def served(run_folder: Path, mlflow_uri: str) -> tuple[Receipt, MlflowClient]:
    receipt = finished(run_folder, mlflow_uri)
    assert receipt.complete, receipt.trouble
    return receipt, tracking_client(mlflow_uri)


def test_the_logged_model_gives_the_same_numbers(
    served: tuple[Receipt, MlflowClient], mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt, client = served
    made = client.get_logged_model(receipt.model_id)
    assert (made.status, made.name, made.source_run_id) == ("READY", "mlp", receipt.mlflow_run_id)
    assert {metric.key: (metric.value, metric.dataset_name) for metric in made.metrics}["summary/test/accuracy"] == (0.85, "digits")
    model, _ = build_model(CONFIG, FACTS)
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    expected = model.eval()(torch.from_numpy(images)).detach().numpy()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{receipt.model_id}")
    np.testing.assert_array_equal(loaded.predict(images), expected)
    best = mlflow.pyfunc.load_model("models:/digits-classification@champion")
    np.testing.assert_array_equal(best.predict(images), expected)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 10)
    assert loaded.input_example.shape == (2, 1, 8, 8)
    with pytest.raises(mlflow.exceptions.MlflowException, match="float64"):
        loaded.predict(images.astype(np.float64))


def test_nothing_in_it_is_pickled_and_its_requirements_are_pinned(served: tuple[Receipt, MlflowClient]) -> None:
    receipt, client = served
    folder = Path(client.get_logged_model(receipt.model_id).artifact_location.removeprefix("file://"))
    names = {path.name for path in folder.rglob("*") if path.is_file() and "code" not in path.relative_to(folder).parts}
    expected = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json", "serving_input_example.json"}
    assert names == expected | {"model.safetensors", "config.json", "data.json"}
    assert f"torch=={torch.__version__.split('+')[0]}" in (folder / "requirements.txt").read_text().replace("+cpu", "")
    assert (folder / "code/components/models/mlp.py").exists()
    assert (folder / "code/flows/records/serving.py").exists()
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.e2e  # a new process that imports torch and MLflow
def test_it_loads_where_the_lab_is_not_installed(served: tuple[Receipt, MlflowClient], tmp_path: Path) -> None:
    receipt, client = served
    folder = client.get_logged_model(receipt.model_id).artifact_location.removeprefix("file://")
    program = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
        "sys.path = [p for p in sys.path if not (__import__('pathlib').Path(p) / 'flows').exists()]\n"
        "import importlib.util; assert importlib.util.find_spec('flows') is None\n"
        "import mlflow.pyfunc, numpy as np\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "out = model.predict(np.full((2, 1, 8, 8), 0.5, dtype=np.float32))\n"
        "import flows; assert flows.__file__.startswith(sys.argv[1]), flows.__file__\n"
        "print(out.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model, _ = build_model(CONFIG, FACTS)
    expected = model.eval()(torch.full((2, 1, 8, 8), 0.5)).tolist()
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_a_model_is_logged_once_however_often_it_is_delivered(
    served: tuple[Receipt, MlflowClient], run_folder: Path, mlflow_uri: str
) -> None:
    receipt, client = served
    (run_folder / "delivery.json").unlink()
    again = deliver_pending(run_folder.parent, mlflow_uri, experiment="tests")[run_folder.name]
    assert again == receipt
    assert len(client.search_logged_models([receipt.experiment_id])) == 1
    assert len(client.search_model_versions("name = 'digits-classification'")) == 1


def test_a_model_folder_that_cannot_be_logged_does_not_keep_the_run_open(run_folder: Path, mlflow_uri: str) -> None:
    (model_folder(run_folder) / "data.json").unlink()
    with Journal(run_folder) as journal:
        begin(journal)
        result(journal)
    receipt = deliver_pending(run_folder.parent, mlflow_uri, experiment="tests")[run_folder.name]
    assert (receipt.complete, receipt.model_id, receipt.version) == (True, None, None)
    (refused,) = json.loads((run_folder / "delivery.json").read_text())["refused"]
    assert "data.json with input_shape and classes is needed" in refused


def test_the_trainers_own_examples_are_used(run_folder: Path) -> None:
    folder = model_folder(run_folder)
    inputs, outputs = np.arange(12, dtype=np.int64).reshape(3, 4), np.zeros((3, 7), dtype=np.float32)
    np.savez(folder / "example.npz", inputs=inputs, outputs=outputs)
    example, shape, _ = logged_model.example(folder)
    np.testing.assert_array_equal(example, inputs[:2])
    assert (example.dtype, shape) == (np.int64, (7,))
    (folder / "example.npz").unlink()
    example, shape, kind = logged_model.example(folder)
    assert (example.shape, example.dtype, shape, kind) == ((2, 1, 8, 8), np.float32, (10,), "float32")
    (folder / "data.json").write_text("{}")
    with pytest.raises(RunError, match="cannot be logged"):
        logged_model.example(folder)


def test_a_data_frame_is_one_example_a_row() -> None:
    served = Served(lambda inputs: inputs.sum(dim=(1, 2, 3))[:, None], (1, 2, 2))
    frame = pd.DataFrame([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(served.predict(frame), [[10.0], [1.0]])
    many = np.ones((600, 1, 2, 2), dtype=np.float32)  # more than fit at once
    np.testing.assert_array_equal(served.predict(many), np.full((600, 1), 4.0))


def test_logging_needs_no_torch() -> None:
    program = "import sys, flows.records.courier, flows.records.conclusion; print([m for m in ('torch', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
