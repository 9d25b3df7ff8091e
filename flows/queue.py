"""Handing work to the lab's worker, over the Prefect server's API: queue a deployment's run, follow it, hear what it came to.

Standard library only: `lab train --queue` must not import Prefect to ask a question over HTTP.
"""

from __future__ import annotations

import getpass
import json
import os
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.errors import RequestError, RunError
from flows.lab import health, limits
from flows.lab.settings import Settings

REFUSED = (409, 422)
"""How the server answers parameters that are not as the deployment's schema says."""
SECONDS_BETWEEN_LOOKS = 0.5
PATIENCE = 75.0
"""Seconds: a lock in Prefect's SQLite database can hold up every question for a minute, and then it goes on."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Queued:
    """A flow run that waits for a worker.

    Attributes:
        id: Prefect's id of the flow run.
        name: Prefect's name of it.
        page: its page in the Prefect UI.
    """

    id: str
    name: str
    page: str


def queue(settings: Settings, deployment: str, parameters: dict[str, Any], *, counted: bool = True) -> Queued:
    """Queue one run of `deployment` (`flow/deployment`), which is `counted` among those that one person may have, or not.

    Raises:
        RequestError: no lab is running, or the server refuses the parameters.
        RunError: the server does not have the deployment, or does not answer as it should.
    """
    if not health.answers(settings, "prefect"):
        stranger = health.stranger(settings)
        raise RequestError(stranger or "no lab is running, so there is no worker to hand the run to: lab up --detach starts it")
    try:
        if counted:
            _refuse_too_many(settings)
        found = health.ask(settings, f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "tags": [_owner()] if counted else []}
        flow_run = health.ask(settings, f"/deployments/{found['id']}/create_flow_run", body)
    except urllib.error.HTTPError as error:
        kind = RequestError if error.code in REFUSED else RunError
        raise kind(f"the Prefect server did not take the run of {deployment}: {error}") from error
    except OSError as error:
        raise RunError(f"the Prefect server did not take the run of {deployment}: {error}") from error
    return Queued(flow_run["id"], flow_run["name"], f"{settings.prefect_ui}/runs/flow-run/{flow_run['id']}")


def _owner() -> str:
    """The tag by which a person's runs are counted."""
    try:
        return f"user:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's nameless user
        return f"user:{os.getuid()}"


def _refuse_too_many(settings: Settings) -> None:
    """RequestError: this person has as many unfinished runs as the lab lets anybody have."""
    limit = limits.runs_per_user(settings)
    if limit is None:
        return
    unfinished = {"tags": {"all_": [_owner()]}, "state": {"type": {"not_any_": list(ENDED)}}}
    count = health.ask(settings, "/flow_runs/count", {"flow_runs": unfinished})
    if count >= limit:
        name = _owner().removeprefix("user:")
        raise RequestError(f"{name} has {count} queued or running already, and the lab lets one person have {limit}: wait for one to end")


def follow(settings: Settings, queued: Queued, say: Callable[[str], None]) -> tuple[str, str]:
    """Say every line of the flow run's log until it ends; returns its last state (one of ENDED) and that state's message.

    Raises:
        RunError: the server is gone.
    """
    try:
        return _follow(settings, queued.id, say)
    except OSError as error:
        raise RunError(f"the Prefect server does not answer any more ({error}); the run may well go on: {queued.page}") from error


def _follow(settings: Settings, flow_run: str, say: Callable[[str], None]) -> tuple[str, str]:
    logs = _new_logs(settings, flow_run)
    while True:
        state = health.ask(settings, f"/flow_runs/{flow_run}", timeout=PATIENCE)["state"] or {"type": "PENDING"}
        for line in next(logs):
            say(line)
        if state["type"] in ENDED:
            time.sleep(SECONDS_BETWEEN_LOOKS)  # the last lines are on their way
            for line in next(logs):
                say(line)
            return state["type"], state.get("message") or ""
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _new_logs(settings: Settings, flow_run: str) -> Iterator[list[str]]:
    """Each time, the log lines that are there since the last time."""
    seen = 0
    while True:
        query = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "offset": seen, "limit": 200}
        lines = health.ask(settings, "/logs/filter", query, timeout=PATIENCE)
        seen += len(lines)
        yield [f"{line['timestamp'][11:19]}  {line['message']}" for line in lines if not _is_chatter(line["message"])]


def _is_chatter(message: str) -> bool:
    """Prefect's own words about how it starts things and that each task is done."""
    return message.startswith(("Finished in state", "Executing deployment step", "Deployment step", "All deployment steps", "Running "))


def outcome(settings: Settings, queued: Queued) -> dict[str, Any]:
    """What a train run came to: `run`, `metrics`, `seconds`, `url`; fewer of them where another machine did it."""
    query = {"artifacts": {"flow_run_id": {"any_": [queued.id]}, "key": {"any_": ["metrics", "mlflow-run"]}}}
    artifacts = {artifact["key"]: artifact for artifact in health.ask(settings, "/artifacts/filter", query)}
    found: dict[str, Any] = {}
    if "metrics" in artifacts:
        found["metrics"] = {row["metric"]: float(row["value"]) for row in json.loads(artifacts["metrics"]["data"])}
    if "mlflow-run" in artifacts:
        found["url"] = artifacts["mlflow-run"]["data"].partition("](")[2].rstrip(")")
    from flows.records.store import Store

    with Store(settings.lab_store) as store:
        links = store.links(queued.id)
    if links:
        from flows import runs

        found |= {"run": links.run, "mlflow_run_id": links.mlflow_run} | runs.result(settings.runs / links.run)
    return found
