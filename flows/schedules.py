"""Schedules of the lab's deployments, made, read and changed over the Prefect server's API.

They are Prefect's own, so its UI shows and edits the same ones. A schedule's name is what Prefect calls its slug, and its parameters are
the flat ones of flows/config/parameters.py. Standard library only, as in flows/queue.py.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.errors import RequestError, RunError, closest
from flows.config.parameters import from_overrides
from flows.lab import health
from flows.lab.settings import WORK_POOL, Settings

PATIENCE = 75.0
"""Seconds: a lock in Prefect's SQLite database can hold up every question for a minute, and then it goes on."""
SHORTEST = 60
"""Seconds that are at least between two runs of a schedule."""
DAYS_AHEAD = 100
"""How far ahead Prefect plans."""


@dataclass(frozen=True)
class Schedule:
    """A schedule as the server has it.

    Attributes:
        id: Prefect's id of it.
        name: its slug, unique within a deployment; the id where it has none.
        deployment: Prefect's record of the deployment that it starts.
        rule: when, in Prefect's words: `cron`, `interval` with `anchor_date`, or `rrule`, each with a `timezone`.
        parameters: what it starts the deployment's runs with.
        active: False while it is paused.
    """

    id: str
    name: str
    deployment: Mapping[str, Any]
    rule: Mapping[str, Any]
    parameters: Mapping[str, Any]
    active: bool


def deployment(settings: Settings, name: str) -> dict[str, Any]:
    """Prefect's record of the deployment `name` (`flow/deployment`).

    Raises:
        RequestError: no lab is running.
        RunError: the server does not have it, or does not answer as it should.
    """
    with _asking(settings):
        try:
            return dict(health.ask(settings, f"/deployments/name/{name}", timeout=PATIENCE))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            raise RunError(f"the Prefect server has no deployment {name}: lab down and lab up deploy the flows again") from None


def parameters(deployment: Mapping[str, Any], overrides: Sequence[str], catch_up: str) -> dict[str, Any]:
    """What a schedule of `deployment` starts runs with: the flat parameters that mean the same as `overrides`, and the policy.

    Raises:
        RequestError: the deployment is older than the policies.
    """
    known = deployment["parameter_openapi_schema"]["properties"]
    if "catch_up" not in known:
        raise RequestError(f"the deployment {deployment['name']} is older than --catch-up: lab down and lab up deploy it again")
    search = next((text for text in overrides if text.startswith("search=") and "search" in known), "")
    found = from_overrides([text for text in overrides if text != search])
    return found | ({"search": search.removeprefix("search=")} if search else {}) | {"catch_up": catch_up}


def every(settings: Settings) -> list[Schedule]:
    """All schedules of the lab's deployments, by name.

    Raises:
        RequestError: no lab is running.
        RunError: the server does not answer as it should.
    """
    with _asking(settings):
        query = {"work_pools": {"name": {"any_": [WORK_POOL]}}}
        deployments = health.ask(settings, "/deployments/filter", query, timeout=PATIENCE)
    return sorted((_schedule(each, one) for one in deployments for each in one["schedules"]), key=lambda schedule: schedule.name)


def find(settings: Settings, name: str) -> Schedule:
    """The schedule called `name`.

    Raises:
        RequestError: there is none or more than one, or no lab is running.
        RunError: the server does not answer as it should.
    """
    there = every(settings)
    found = [each for each in there if each.name == name]
    if not found:
        raise RequestError(f"there is no schedule {name!r}{closest(name, [each.name for each in there])}; lab schedule list shows all")
    if len(found) > 1:
        deployments = " and ".join(each.deployment["name"] for each in found)
        raise RequestError(f"{name!r} is the name of schedules of {deployments}; rename one in the Prefect UI")
    return found[0]


def create(
    settings: Settings, deployment: Mapping[str, Any], name: str, rule: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Schedule:
    """Make a schedule of `deployment`, and its first runs.

    A rule that Prefect takes but cannot work out would keep all schedules of the deployment from being planned, and one that is due
    too often would bury the worker; neither stays.

    Raises:
        RequestError: the name is taken, the server refuses the rule, or no lab is running.
        RunError: the server does not answer as it should.
    """
    with _asking(settings):
        path = f"/deployments/{deployment['id']}/schedules"
        try:
            body = [{"slug": name, "schedule": rule, "parameters": parameters}]
            made = _schedule(health.ask(settings, path, body, timeout=PATIENCE)[0], deployment)
        except urllib.error.HTTPError as error:
            if error.code == 409:
                raise taken(name) from None
            if error.code == 422:
                raise RequestError(_refusal(error)) from None
            raise
        try:
            _plan(settings, deployment)
        except urllib.error.HTTPError as error:
            delete(settings, made)
            if error.code != 500:
                raise
            raise RequestError("Prefect cannot work out when that is due (a day that never comes, or UNTIL with a Z?)") from None
        first = upcoming(settings, made, 2)
        if len(first) == 2 and (first[1] - first[0]).total_seconds() < SHORTEST:
            delete(settings, made)
            raise RequestError(f"that is due more often than every {SHORTEST} seconds")
    return made


def set_active(settings: Settings, schedule: Schedule, active: bool) -> None:
    """Pause or resume; runs that are due already still run.

    Raises:
        RequestError: no lab is running.
        RunError: the server does not answer as it should.
    """
    with _asking(settings):
        change = {"active": active, "parameters": schedule.parameters}  # Prefect empties the parameters when a change leaves them out
        health.ask(settings, _path(schedule), change, method="PATCH", timeout=PATIENCE)
        _plan(settings, schedule.deployment)


def delete(settings: Settings, schedule: Schedule) -> None:
    """Remove the schedule and its runs that have not begun.

    Prefect removes the waiting runs of the deployment's other schedules as well, so these are queued again.

    Raises:
        RequestError: no lab is running.
        RunError: the server does not answer as it should.
    """
    with _asking(settings):
        others = [run for run in _waiting(settings, schedule.deployment) if run["created_by"]["id"] != schedule.id]
        health.ask(settings, _path(schedule), method="DELETE", timeout=PATIENCE)
        for run in others:
            body = {"name": run["name"], "parameters": run["parameters"], "state": {"type": "SCHEDULED"}}
            health.ask(settings, f"/deployments/{run['deployment_id']}/create_flow_run", body, timeout=PATIENCE)
        _plan(settings, schedule.deployment)


def upcoming(settings: Settings, schedule: Schedule, count: int = 1) -> list[datetime]:
    """When the next planned runs of the schedule are due, at most `count`; fewer when Prefect has planned fewer.

    Raises:
        RequestError: no lab is running.
        RunError: the server does not answer as it should.
    """
    wanted = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "created_by": {"id_": [schedule.id]},
        "next_scheduled_start_time": {"after_": datetime.now(UTC).isoformat()},
    }
    query = {"flow_runs": wanted, "sort": "NEXT_SCHEDULED_START_TIME_ASC", "limit": count}
    with _asking(settings):
        found = health.ask(settings, "/flow_runs/filter", query, timeout=PATIENCE)
    return [datetime.fromisoformat(run["next_scheduled_start_time"]) for run in found]


def taken(name: str) -> RequestError:
    """The error for a name that another schedule has."""
    return RequestError(f"there is a schedule {name!r} already; choose another --name, or: lab schedule delete {name}")


def _schedule(record: Mapping[str, Any], deployment: Mapping[str, Any]) -> Schedule:
    name = record["slug"] or record["id"]
    return Schedule(record["id"], name, deployment, record["schedule"], record["parameters"], record["active"])


def _path(schedule: Schedule) -> str:
    return f"/deployments/{schedule.deployment['id']}/schedules/{schedule.id}"


def _plan(settings: Settings, deployment: Mapping[str, Any]) -> None:
    """Let the server plan the deployment's runs now.

    By itself it does so within a minute. Until then a new schedule, and after every change the others as well (the server forgets
    their planned runs too), would miss what is due.
    """
    if not deployment["paused"]:
        health.ask(settings, f"/deployments/{deployment['id']}/schedule", {}, timeout=PATIENCE)


def _waiting(settings: Settings, deployment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs of the deployment's schedules that are due and have not begun."""
    wanted = {
        "deployment_id": {"any_": [deployment["id"]]},
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "created_by": {"type_": ["SCHEDULE"]},
        "next_scheduled_start_time": {"before_": datetime.now(UTC).isoformat()},
    }
    found = health.ask(settings, "/flow_runs/filter", {"flow_runs": wanted}, timeout=PATIENCE)
    return [run for run in found if not run["run_count"]]


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server found wrong with a schedule: of its complaints those that are about the value, not about other kinds of schedule."""
    try:
        complaints = json.loads(error.read())["exception_detail"]
        said = [each["msg"].removeprefix("Value error, ") for each in complaints if each["type"] not in ("missing", "extra_forbidden")]
    except (ValueError, KeyError, TypeError):
        said = []
    return f"Prefect refuses the schedule: {' '.join((said or [str(error)])[0].split())}"


@contextmanager
def _asking(settings: Settings) -> Iterator[None]:
    """Turn a server that is not there, or that does not answer as it should, into one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) or health.answers(settings, "prefect"):
            raise RunError(f"the Prefect server did not do what was asked: {error}") from error
        nobody = "no lab is running, so there is nobody to keep a schedule: lab up --detach starts it"
        raise RequestError(health.stranger(settings) or nobody) from error
