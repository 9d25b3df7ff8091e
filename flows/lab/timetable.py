"""What has to be right with the schedules before the worker takes its first flow run.

Prefect plans runs ahead (the next three of a schedule, and an hour's worth) and starts whatever is due, however late. So the first thing
after a week off would be a flood of runs whose time has passed. Each schedule says what is to happen to them by the parameter
`catch_up` that its runs carry: docs/adr/0013-schedules-and-missed-runs.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from components.errors import RunError
from flows.lab import health
from flows.lab.settings import WORK_POOL, Settings

CatchUp = Literal["skip", "latest", "all"]
"""Which of a schedule's missed runs are made up for: none, the newest, or every one that was planned."""

LATEST: CatchUp = "latest"
"""What holds where a run does not say."""

PAGE = 200
"""As many flow runs as Prefect gives at once."""
BATCH = 50
"""As many flow runs as Prefect changes at once."""
PATIENCE = 75.0
"""Seconds: a lock in Prefect's SQLite database can hold up every question for a minute, and then it goes on."""


def prepare(settings: Settings) -> Iterator[str]:
    """Do what the worker's start needs; yields a line for its log about each change.

    On a server elsewhere nothing is missed by this machine's being off, so its runs are left alone.

    Raises:
        OSError: the server does not answer as it should.
        RunError: it does not cancel a run. Then the worker must not start: it would run what nobody wants.
    """
    for name in name_schedules(settings):
        yield f"a schedule without a name is now called {name}"
    came_up = None if settings.remote_prefect else servers_started(settings)
    if came_up:
        for schedule, (policy, count) in settle_missed_runs(settings, came_up).items():
            yield f"{schedule}: {count} runs missed while the lab was down do not run (catch_up {policy})"


def servers_started(settings: Settings) -> datetime | None:
    """When the running servers were started; None when they are being stopped. A restart of the worker alone leaves it as it was."""
    try:
        return datetime.fromtimestamp(settings.running_file.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def settle_missed_runs(settings: Settings, came_up: datetime) -> dict[str, tuple[CatchUp, int]]:
    """Cancel the scheduled runs that were due before `came_up` and that their schedule's policy does not want.

    Returns:
        Schedule → the policy and how many of its runs were cancelled, where there were any.
    """
    settled: dict[str, tuple[CatchUp, int]] = {}
    missed = sorted(_missed_runs(settings, came_up), key=lambda run: run["created_by"]["id"])  # each group stays in the order of its times
    for _, group in itertools.groupby(missed, key=lambda run: run["created_by"]["id"]):
        runs = list(group)
        policy = catch_up(runs[-1])
        unwanted = {"skip": runs, "latest": runs[:-1], "all": []}[policy]
        if unwanted:
            name = runs[-1]["created_by"]["display_value"]
            why = "only the newest missed run of a schedule is made up for" if policy == "latest" else "missed runs are not made up for"
            _cancel(
                settings, [run["id"] for run in unwanted], f"Missed: the lab was down when this was due, and {why} (catch_up: {policy})."
            )
            settled[name] = (policy, len(unwanted))
    return settled


def catch_up(run: dict[str, Any]) -> CatchUp:
    """The policy that a flow run carries."""
    given = run["parameters"].get("catch_up")
    return given if given in get_args(CatchUp) else LATEST


def _missed_runs(settings: Settings, came_up: datetime) -> Iterator[dict[str, Any]]:
    """What a schedule planned for before `came_up` and what never began. Runs that wait for another try have begun."""
    wanted = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "created_by": {"type_": ["SCHEDULE"]},
        "expected_start_time": {"before_": came_up.isoformat()},
    }
    query = {"flow_runs": wanted, "work_pools": {"name": {"any_": [WORK_POOL]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": PAGE}
    for offset in itertools.count(step=PAGE):
        page = health.ask(settings, "/flow_runs/filter", query | {"offset": offset}, timeout=PATIENCE)
        yield from (run for run in page if run["auto_scheduled"] and not run["run_count"])
        if len(page) < PAGE:
            return


def _cancel(settings: Settings, runs: list[str], message: str) -> None:
    state = {"type": "CANCELLED", "name": "Cancelled", "message": message}
    for begin in range(0, len(runs), BATCH):
        body = {"flow_runs": {"id": {"any_": runs[begin : begin + BATCH]}}, "state": state, "force": True, "limit": BATCH}
        done = health.ask(settings, "/flow_runs/bulk_set_state", body, timeout=PATIENCE)
        if refused := [each for each in done["results"] if each["status"] != "ACCEPT"]:
            raise RunError(f"Prefect did not cancel {len(refused)} missed flow runs: {refused[0]}")


def name_schedules(settings: Settings) -> list[str]:
    """Give every schedule without a name one, after its deployment; returns the new names.

    The Prefect UI makes schedules without one, and while a deployment has such a schedule, deploying it again (which `lab up` does)
    deletes all of its schedules.
    """
    named = []
    query = {"work_pools": {"name": {"any_": [WORK_POOL]}}}
    deployments = health.ask(settings, "/deployments/filter", query, timeout=PATIENCE)
    taken = {schedule["slug"] for deployment in deployments for schedule in deployment["schedules"]}
    for deployment in deployments:
        for schedule in deployment["schedules"]:
            if not schedule["slug"]:
                name = free_name(deployment["name"], taken)
                change = {"slug": name, "parameters": schedule["parameters"]}  # what a change leaves out of the parameters is lost
                path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
                health.ask(settings, path, change, method="PATCH", timeout=PATIENCE)
                taken.add(name)
                named.append(name)
    return named


def free_name(base: str, taken: Iterable[str]) -> str:
    """The first of `base`, `base-2`, `base-3` … that is not taken."""
    there = set(taken)
    numbered = (f"{base}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in there)
