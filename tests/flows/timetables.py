"""What the tests of schedules on real servers share: making one with the command, and asking Prefect for its runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from lab_command import start
from prefect_runs import deployment

from flows.lab import health
from flows.lab.settings import Settings


def schedule(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run `lab schedule` to its end; its JSON answer."""
    with start(settings, "schedule", *arguments, "--json") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return dict(json.loads(out))


def soon(seconds: float) -> datetime:
    """A full second from now, in UTC."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)


def records(settings: Settings, flow: str) -> dict[str, dict[str, Any]]:
    """The schedules of the deployment `flow/flow` as Prefect has them, by name."""
    return {each["slug"]: each for each in deployment(settings, f"{flow}/{flow}")["schedules"]}


def runs_of(settings: Settings, schedule: str) -> list[dict[str, Any]]:
    """All flow runs of the schedule with this id, in the order in which they are due."""
    query = {"flow_runs": {"created_by": {"id_": [schedule]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(health.call(f"{settings.prefect_api}/flow_runs/filter", query, timeout=20))


def due(run: dict[str, Any]) -> datetime:
    """When a flow run was meant to start."""
    return datetime.fromisoformat(run["expected_start_time"])


def plan(settings: Settings, flow: str, begin: datetime, end: datetime) -> None:
    """Let Prefect plan the runs that the deployment's schedules would have had from `begin` to `end`."""
    body = {"start_time": begin.isoformat(), "end_time": end.isoformat()}
    health.call(f"{settings.prefect_api}/deployments/{deployment(settings, f'{flow}/{flow}')['id']}/schedule", body, timeout=20)


def pause_pool(settings: Settings, paused: bool) -> None:
    """Keep the worker from taking flow runs, or let it."""
    health.call(f"{settings.prefect_api}/work_pools/lab", {"is_paused": paused}, method="PATCH", timeout=20)
