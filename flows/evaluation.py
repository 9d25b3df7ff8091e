"""Evaluating a finished run again, and writing down what came out: plain functions for the flow and the command."""

from __future__ import annotations

import time
from typing import Any

from flows import runs
from flows.experiment import evaluate_run
from flows.lab.settings import Settings
from flows.records.catalogue import enter_evaluation
from flows.records.tracking import run_page, tracking_client, tracking_uri


def evaluate_and_record(run: str, split: str, settings: Settings) -> dict[str, Any]:
    """Evaluate `run` (see flows/runs.py) on `split`; returns `run`, `split`, `metrics`, `seconds`, `mlflow_run_id`, `url`.

    The metrics go to the run in MLflow as `evaluation/SPLIT/…` and, with every example's outcome, into the lab's own tables.
    """
    began = time.perf_counter()
    folder = runs.find(run, settings)
    metrics = evaluate_run(folder, settings, split=split)
    enter_evaluation(folder, split, metrics, settings)
    run_id, uri, url = runs.mlflow_run_id(folder), tracking_uri(settings), None
    if run_id:
        client = tracking_client(uri)
        for name, value in metrics.items():
            client.log_metric(run_id, f"evaluation/{split}/{name}", value)
        if uri.startswith("http"):
            url = run_page(uri, client.get_run(run_id).info.experiment_id, run_id)
    seconds = round(time.perf_counter() - began, 3)
    return {"run": folder.name, "split": split, "metrics": metrics, "seconds": seconds, "mlflow_run_id": run_id, "url": url}
