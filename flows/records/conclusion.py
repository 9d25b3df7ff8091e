"""The end of a run in MLflow: its model is logged and registered, its status and end time are set."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from components.errors import LabError
from flows.records import journal, logged_model, registry, translate
from flows.records.delivery import Delivery


def conclude(delivery: Delivery) -> None:
    """Once everything has arrived: log and register the model of a finished run, then end the MLflow run.

    A model folder that cannot be logged is noted under `refused` in delivery.json; the run ends all the same. Calling again after a
    server went away does what is left to do.
    """
    progress = delivery.progress
    if progress.model and progress.status == "FINISHED" and (delivery.folder / "model" / logged_model.WEIGHTS).exists():
        try:
            _log_model(delivery)
            _register(delivery)
        except (LabError, ValueError, KeyError) as error:
            progress.refused.append(f"model: {type(error).__name__}: {error}")
    delivery.end()


def _log_model(delivery: Delivery) -> None:
    progress, folder = delivery.progress, delivery.folder
    sha256 = logged_model.sha256(folder / "model")
    if progress.model_sha256 == sha256:
        return
    assert progress.experiment_id is not None
    assert progress.mlflow_run_id is not None
    said = _last_events(delivery)
    progress.model_id = logged_model.log(
        delivery.client,
        folder / "model",
        experiment_id=progress.experiment_id,
        run_id=progress.mlflow_run_id,
        name=translate.architecture(said.get("started", {}).get("config", {})),
        step=int(said.get("result", {}).get("best_step") or 0),
        tags={"lab.run": folder.name, "lab.file_sha256": sha256},
    )
    progress.model_sha256, progress.version = sha256, None
    progress.save(folder)


def _register(delivery: Delivery) -> None:
    progress, folder = delivery.progress, delivery.folder
    said = _last_events(delivery)
    if progress.version is not None or not {"started", "data", "result"} <= said.keys():
        return
    assert progress.model_id is not None
    assert progress.mlflow_run_id is not None
    config = said["started"]["config"]
    metric, direction, value = said["result"]["monitor"]
    version = registry.register(
        delivery.client,
        home=folder.parent.parent,
        name=translate.problem(config, said["data"]["name"], said["data"]["fingerprint"]),
        model_id=progress.model_id,
        mlflow_run_id=progress.mlflow_run_id,
        score=registry.Score(metric=metric if "/" in metric else f"validation/{metric}", direction=direction, value=float(value)),
        run=folder.name,
        experiment=config.get("name") or "",
        model=translate.architecture(config),
    )
    progress.version = asdict(version) if version else None
    progress.save(folder)


def _last_events(delivery: Delivery) -> dict[str, dict[str, Any]]:
    """The facts of the last event of each name."""
    return {line["event"]: line["facts"] for line in journal.read(delivery.folder) if line["kind"] == "event"}
