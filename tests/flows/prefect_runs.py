"""What the tests with real servers ask Prefect."""

import json
import time
from collections.abc import Callable
from typing import Any

import psutil

from flows.lab import health
from flows.lab.settings import Settings

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """The first true value of `condition`, asked twice a second."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)
    return value


def deployment(settings: Settings, name: str) -> dict[str, Any]:
    """The deployment `flow/deployment`."""
    return dict(health.call(f"{settings.prefect_api}/deployments/name/{name}"))


def queue(settings: Settings, name: str, **parameters: Any) -> str:
    """Queue a run of the deployment `name`; returns the flow run's id."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    address = f"{settings.prefect_api}/deployments/{deployment(settings, name)['id']}/create_flow_run"
    return str(health.call(address, body, timeout=20)["id"])


def flow_run(settings: Settings, identity: str) -> dict[str, Any]:
    """The flow run."""
    return dict(health.call(f"{settings.prefect_api}/flow_runs/{identity}", timeout=20))


def ended(settings: Settings, identity: str, *, within: float = 180.0) -> dict[str, Any]:
    """The flow run's last state."""
    return dict(until(lambda: (run := flow_run(settings, identity))["state_type"] in ENDED and run["state"], within))


def task_runs(settings: Settings, identity: str) -> dict[str, dict[str, Any]]:
    """The flow run's task runs by the names of their tasks, in the order in which they began."""
    query = {"flow_runs": {"id": {"any_": [identity]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return {run["name"].rpartition("-")[0]: run for run in health.call(f"{settings.prefect_api}/task_runs/filter", query, timeout=20)}


def artifacts(settings: Settings, identity: str) -> dict[str, str]:
    """The data of the flow run's artifacts by their keys, the newest of each key."""
    query = {"artifacts": {"flow_run_id": {"any_": [identity]}}, "sort": "CREATED_DESC"}
    found = health.call(f"{settings.prefect_api}/artifacts/filter", query, timeout=20)
    data = {each["key"]: each["data"] for each in reversed(found) if each["key"]}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in data.items()}


def logs(settings: Settings, identity: str) -> str:
    """The flow run's log."""
    query = {"logs": {"flow_run_id": {"any_": [identity]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    return "\n".join(line["message"] for line in health.call(f"{settings.prefect_api}/logs/filter", query, timeout=20))


def trainers(settings: Settings) -> list[psutil.Process]:
    """The trainer processes of this lab."""
    return running(settings, "flows.trainer")


def running(settings: Settings, module: str) -> list[psutil.Process]:
    """The processes of this lab that run `python -m module`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if module in (process.info["cmdline"] or []) and process.environ().get("LAB_HOME") == str(settings.home):
                found.append(process)
        except psutil.Error:
            continue
    return found
