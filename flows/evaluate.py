"""The evaluate flow: a finished run's model, looked at again on one split of its data."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.lab.settings import Settings


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False)
def evaluate(run: str, split: str) -> dict[str, Any]:
    """Metrics of the run's best weights on the split, recorded in MLflow and in the lab's own tables."""
    from flows.evaluation import evaluate_and_record

    return evaluate_and_record(run, split, Settings.load())


@flow(name="evaluate", flow_run_name="{run} on {split}", persist_result=False)
def evaluate_flow(run: str, split: Literal["test", "validation", "train"] = "test") -> dict[str, Any]:
    """Evaluate a finished run again on one split of its data.

    Args:
        run: The run's name, the beginning of it, its MLflow run id, or "last".
        split: Which examples.
    """
    found = evaluate(run, split)
    rows = [{"metric": name, "value": f"{value:.4f}"} for name, value in sorted(found["metrics"].items())]
    create_table_artifact(rows, key="evaluation", description=f"`{found['run']}` on {split}")
    if found["url"]:
        create_link_artifact(found["url"], link_text=f"{found['run']} in MLflow", key="mlflow-run")
    return found
