"""`lab train --queue [--watch]`: the same run, done by the lab's worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from components.errors import RequestError, RunError
from flows.commands.output import Output
from flows.config.parameters import from_overrides
from flows.lab import health
from flows.lab.settings import Settings

SECONDS_BETWEEN_LOOKS = 1.0
ENDS = {"COMPLETED": 0, "FAILED": 1, "CRASHED": 1, "CANCELLED": 1}


def submit(output: Output, overrides: list[str], resume: str, *, watch: bool) -> None:
    """Queue a run of the deployment `train/train`; with `watch`, follow it to its end.

    Raises:
        RequestError: the request is wrong, or no lab is running.
        RunError: the run that was watched did not complete.
    """
    settings = Settings.load()
    if not health.answers(settings, "prefect"):
        raise RequestError("no lab is running, so there is no worker to hand the run to: lab up --detach starts it")
    if resume:
        from flows import runs

        resume = runs.find(resume, settings).name
    else:
        from flows.config.build import validate
        from flows.config.compose import compose

        validate(compose(overrides))  # a wrong request is refused here, not half a minute later by the worker
    api = settings.prefect_api
    try:
        deployment = health.call(f"{api}/deployments/name/train/train")["id"]
        parameters = {**from_overrides(overrides), "resume": resume}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        flow_run = health.call(f"{api}/deployments/{deployment}/create_flow_run", body)
    except OSError as error:
        raise RunError(f"the Prefect server did not take the run: {error}") from error
    page = f"{settings.prefect_ui}/runs/flow-run/{flow_run['id']}"
    output.say(f"queued as {flow_run['name']}: {page}")
    found: dict[str, Any] = {"flow_run_id": flow_run["id"], "name": flow_run["name"], "url": page}
    if watch:
        found |= _follow(output, api, flow_run["id"])
    output.finish(**found)
    if watch and ENDS[found["state"]]:
        raise RunError(f"the run ended as {found['state'].lower()}: {found['message']}")


def _follow(output: Output, api: str, flow_run: str) -> dict[str, Any]:
    """Print the flow run's log until it ends. Ctrl-C stops only the watching."""
    logs = _new_logs(api, flow_run)
    state: dict[str, Any] = {}
    try:
        while state.get("type") not in ENDS:
            state = health.call(f"{api}/flow_runs/{flow_run}")["state"] or {}
            for line in next(logs):
                output.say(line)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        output.say("no longer watching; the run goes on")
        return {"state": "COMPLETED", "message": "not watched to its end"}
    for line in next(logs):
        output.say(line)
    return {"state": state["type"], "message": state.get("message") or "", "metrics": _metrics(api, flow_run)}


def _new_logs(api: str, flow_run: str) -> Iterator[list[str]]:
    """Each time, the log lines that are there since the last time."""
    seen = 0
    while True:
        query = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "offset": seen, "limit": 200}
        lines = health.call(f"{api}/logs/filter", query)
        seen += len(lines)
        yield [f"{line['timestamp'][11:19]}  {line['message']}" for line in lines]


def _metrics(api: str, flow_run: str) -> dict[str, float]:
    """The metrics that the run put on its page."""
    import json

    query = {"artifacts": {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": ["metrics"]}}}
    found = health.call(f"{api}/artifacts/filter", query)
    return {row["metric"]: float(row["value"]) for row in json.loads(found[-1]["data"])} if found else {}
