"""What the work pool serves: `python -m flows.deployments` registers every flow with the running Prefect server.

The same deployments serve a process, container or Kubernetes pool called `lab`: only the pool's type changes.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows import code
from flows.lab import health, published
from flows.lab.settings import SECRET, WORK_POOL, Settings

ROOT = Path(__file__).resolve().parent.parent
FLOWS = {
    "train": ("flows/train.py:train_flow", "Train an experiment: prepare its data, fit, evaluate, record in MLflow"),
    "sweep": ("flows/sweep.py:sweep_flow", "Search initializers, optimizers, activations … and report what is really better"),
    "sweep-worker": ("flows/sweep.py:sweep_worker_flow", "One more worker for a sweep (started by sweeps with backend=pool)"),
    "prepare-data": ("flows/prepare.py:prepare_data_flow", "Prepare a data set once"),
    "evaluate": ("flows/evaluate.py:evaluate_flow", "Evaluate a finished run again on one split of its data"),
}
"""Deployment name → entry point, description."""
PULL: list[dict[str, Any]] = [{"prefect.deployments.steps.set_working_directory": {"directory": f"{{{{ ${code.FOLDER} }}}}"}}]
"""A worker on another machine has the code elsewhere, and says so in the flow run's environment (flows/worker.py)."""


def deploy(settings: Settings) -> list[str]:
    """Register every deployment; returns their names (`flow/deployment`)."""
    from prefect import flow, get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    shown = {name: value for name, value in settings.lab_environment().items() if name not in SECRET}  # everybody sees a deployment's
    environment = {**shown, **code.deployed(ROOT), "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false"}
    deployed = []
    for name, (entrypoint, description) in FLOWS.items():
        remote = flow.from_source(source=str(ROOT), entrypoint=entrypoint)
        identity: Any = remote.deploy(  # type: ignore[union-attr]
            name=name,
            work_pool_name=WORK_POOL,
            description=description,
            tags=["lab"],
            job_variables={"env": environment},
            build=False,
            push=False,
            print_next_steps=False,
            ignore_warnings=True,
        )
        with get_client(sync_client=True) as client:
            schema = client.read_deployment(identity).parameter_openapi_schema
            strict = {**(schema or {}), "additionalProperties": False}  # Prefect lets unknown parameters in, and the run then crashes
            client.update_deployment(identity, DeploymentUpdate(parameter_openapi_schema=strict, pull_steps=PULL))
        deployed.append(f"{remote.name}/{name}")  # type: ignore[union-attr]
    return deployed


def main() -> None:
    """Register with the server that this environment's settings name; also what else is kept there: MLflow's users (where this machine
    knows them all), limits, notifications.
    """
    settings = Settings.load()
    os.environ.update(settings.prefect_environment())
    health.make_mlflow_users(settings)
    make_pool()
    deploy(settings)
    for trouble in published.publish(settings):
        sys.stdout.write(f"{published.TROUBLE}{trouble}\n")


def make_pool() -> None:
    """Make the work pool unless it is there; a worker makes it as well, and either may come first."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))


if __name__ == "__main__":
    main()
