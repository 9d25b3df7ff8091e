"""A run's model folder as an MLflow LoggedModel: pyfunc flavour, our own loader, nothing pickled, no torch needed to log it.

Why not mlflow.pytorch: its import takes 6–13 s and its formats pickle or trace; see docs/adr/0007-models-logged-as-loaders.md.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RunError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

WEIGHTS = "model.safetensors"
EXAMPLE = "example.npz"
REQUIREMENTS = ("torch", "torchvision", "numpy", "safetensors", "hydra-core", "pydantic", "annotated-types", "tokenizers", "mlflow")
"""What loading a model needs; pinned to what is installed."""

_ROOT = Path(__file__).resolve().parents[2]


def sha256(folder: Path) -> str:
    """The hash of the file model.safetensors in a model folder, 64 hex digits."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def log(
    client: MlflowClient,
    folder: Path,
    *,
    experiment_id: str,
    run_id: str,
    name: str,
    step: int,
    tags: dict[str, str],
) -> str:
    """Log a model folder for an MLflow run; a ready model with the same tags that the run has already is taken instead.

    Args:
        client: where to.
        folder: model.safetensors, config.json, data.json, and example.npz where the trainer wrote one.
        experiment_id, run_id: the MLflow run it belongs to.
        name: the architecture's name.
        step: optimizer step of these weights.
        tags: what to find it by.

    Returns:
        The LoggedModel's id.

    Raises:
        RunError: the folder lacks data.json or its facts.
    """
    from mlflow.entities import LoggedModelOutput

    inputs, outputs, kind = example(folder)
    for earlier in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if earlier.status == "READY" and all(earlier.tags.get(key) == value for key, value in tags.items()):
            return str(earlier.model_id)
    config = json.loads((folder / "config.json").read_text())
    made = client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        tags=tags,
        params={key: str(value) for key, value in (config.get("model") or {}).items()},
        model_type=name,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="lab-model-") as temporary:
            path = Path(temporary) / "model"
            _save(path, folder, made, inputs, outputs, kind)
            client.log_model_artifacts(made.model_id, str(path))
        client.log_outputs(run_id, models=[LoggedModelOutput(made.model_id, step)])
        _show_metrics(client, run_id, made.model_id)
        client.finalize_logged_model(made.model_id, "READY")
    except BaseException:
        with suppress(Exception):  # it may be a full disk or a server that went: what went wrong first is what counts
            client.finalize_logged_model(made.model_id, "FAILED")
        raise
    return str(made.model_id)


def example(folder: Path) -> tuple[Any, tuple[int, ...], str]:
    """An input batch of two, the shape of one example's output (−1: any number), and the output's type.

    Real examples where the trainer left them (example.npz with `inputs` and `outputs`), otherwise zeros of the data's input shape; for text
    two unknown tokens (see `ServedTokens`), a translation's output being tokens again. A detector's is rows (see `ServedDetector`).

    Raises:
        RunError: the folder says nothing about its data.
    """
    import numpy as np

    if (folder / EXAMPLE).exists():
        with np.load(folder / EXAMPLE, allow_pickle=False) as kept:
            return kept["inputs"][:2], kept["outputs"].shape[1:], "float32"
    try:
        facts = json.loads((folder / "data.json").read_text())["facts"]
        if "vocabulary_size" in facts:
            classes = facts.get("classes")
            outputs = {"sequence": (classes,), "relation": (classes,), "text": (-1,)}.get(facts["predicts"], (-1, classes))
            return np.ones((2, 2), dtype=np.int64), outputs, "int64" if facts["predicts"] == "text" else "float32"
        outputs = (-1, 6) if facts.get("predicts") == "boxes" else (facts["classes"],)
        return np.zeros((2, *facts["input_shape"]), dtype=np.float32), outputs, "float32"
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"the model in {folder} cannot be logged: data.json with input_shape and classes is needed ({error})") from error


def _show_metrics(client: MlflowClient, run_id: str, model_id: str) -> None:
    """The run's final metrics as the model's own; the run's points are the same ones, so they are not doubled."""
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    given = run.inputs.dataset_inputs if run.inputs else []
    data = given[0].dataset if given else None
    finals = [
        Metric(
            point.key,
            point.value,
            point.timestamp,
            point.step,
            model_id=model_id,
            dataset_name=data.name if data else None,
            dataset_digest=data.digest if data else None,
            run_id=run_id,
        )
        for name in run.data.metrics
        if name.startswith("summary/")
        for point in client.get_metric_history(run_id, name)[-1:]
    ]
    if finals:
        client.log_batch(run_id, metrics=finals)


def _save(path: Path, folder: Path, made: Any, inputs: Any, outputs: tuple[int, ...], kind: str) -> None:  # noqa: PLR0917 — one caller
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(inputs.dtype, (-1, -1) if inputs.dtype == np.int64 else (-1, *inputs.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype(kind), (-1, *outputs))]),
    )
    mlflow.pyfunc.save_model(
        str(path),
        loader_module="flows.records.serving",
        data_path=str(folder),
        code_paths=[str(_ROOT / "components"), str(_ROOT / "flows")],
        mlflow_model=Model(
            artifact_path=made.artifact_location, model_uuid=made.model_id, run_id=made.source_run_id, model_id=made.model_id
        ),
        signature=signature,
        input_example=inputs,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
    )
