"""A Prefect server of plain values in place of `health.call`: deployments with schedules, and the flow runs that they plan.

It has those habits of the real one (3.8.8) that flows/schedules.py and flows/lab/timetable.py are written around:
test_schedule_e2e.py looks at the real one.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any

NOW = datetime(2026, 11, 25, 13, 30, tzinfo=UTC)
STEPS = {"0 2 * * *": 86_400, "* * * * * *": 1, "0 0 31 2 *": 0}
"""Cron rules → seconds between runs; 0 is a day that never comes."""


class Clock(datetime):
    """What stands in place of `datetime` where the lab's clock has to agree with the fake server's."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


class FakePrefect:
    """Deployments by id; `now` is the server's clock, and `asked` are the (method, path, body) of all requests."""

    def __init__(self) -> None:
        self.now = NOW
        self.deployments: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.fails: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def add_deployment(self, name: str, **properties: Any) -> str:
        """A deployment `name/name` whose form has these properties."""
        schema = {"properties": properties}
        record = {"id": f"deployment-{name}", "name": name, "paused": False, "schedules": [], "parameter_openapi_schema": schema}
        self.deployments[record["id"]] = record
        return str(record["id"])

    def add_schedule(self, deployment: str, slug: str | None, parameters: dict[str, Any], **rule: Any) -> str:
        """A schedule as the Prefect UI makes one."""
        return str(self._create(deployment, [{"slug": slug, "parameters": parameters, "schedule": rule}])[0]["id"])

    def add_run(self, schedule: str, due: datetime, **given: Any) -> str:
        """A run that the schedule planned for `due`."""
        deployment, record = self._schedule(schedule)
        run = {
            "id": f"run-{next(self._numbers)}",
            "name": f"at-{due:%d-%H%M%S}",
            "deployment_id": deployment["id"],
            "parameters": record["parameters"],
            "created_by": {"id": schedule, "type": "SCHEDULE", "display_value": record["slug"] or "CronSchedule"},
            "auto_scheduled": True,
            "run_count": 0,
            "state": {"type": "SCHEDULED", "name": "Scheduled"},
            "expected_start_time": due.isoformat(),
            "next_scheduled_start_time": due.isoformat(),
            **given,
        }
        self.runs.append(run)
        return str(run["id"])

    def states(self) -> dict[str, str]:
        """Flow run → type of its state."""
        return {run["id"]: run["state"]["type"] for run in self.runs}

    def call(self, address: str, body: Any = None, *, method: str | None = None, timeout: float = 5.0, headers: Any = None) -> Any:
        """What `health.call` would answer."""
        method = method or ("GET" if body is None else "POST")
        path = address.partition("/api")[2]
        body = json.loads(json.dumps(body))
        self.asked.append((method, path, body))
        for pattern, code in self.fails.items():
            if re.fullmatch(pattern, path):
                raise refusal(code)
        match method, *path.strip("/").split("/"):
            case "GET", "deployments", "name", flow, _:
                if f"deployment-{flow}" not in self.deployments:
                    raise refusal(404)
                return self.deployments[f"deployment-{flow}"]
            case "POST", "deployments", "filter":
                assert body == {"work_pools": {"name": {"any_": ["lab"]}}}
                return list(self.deployments.values())
            case "POST", "deployments", deployment, "schedules":
                return self._create(deployment, body)
            case "POST", "deployments", deployment, "schedule":
                return self._plan(deployment)
            case "POST", "deployments", deployment, "create_flow_run":
                run = self.add_run(self._first_schedule(deployment), self.now)
                self.runs[-1] |= {"created_by": None, "auto_scheduled": False, **body}
                return {"id": run}
            case "PATCH", "deployments", deployment, "schedules", schedule:
                self._schedule(schedule)[1].update({"parameters": {}} | body)  # what is left out of the parameters is lost
                self._forget(deployment, future_only=True)
            case "DELETE", "deployments", deployment, "schedules", schedule:
                self.deployments[deployment]["schedules"].remove(self._schedule(schedule)[1])
                self._forget(deployment, future_only=False)
            case "POST", "flow_runs", "filter":
                return self._filter(body)
            case "POST", "flow_runs", "bulk_set_state":
                return self._set_states(body)
            case _:
                raise AssertionError(f"{method} {path}")
        return ""

    def _schedule(self, identity: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return next((one, each) for one in self.deployments.values() for each in one["schedules"] if each["id"] == identity)

    def _first_schedule(self, deployment: str) -> str:
        return str(self.deployments[deployment]["schedules"][0]["id"])

    def _create(self, deployment: str, body: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (given,) = body
        if "cron" in given["schedule"] and given["schedule"]["cron"] not in STEPS:
            invalid = {"type": "value_error", "msg": f'Value error, Invalid cron string: "{given["schedule"]["cron"]}"'}
            raise refusal(422, exception_detail=[{"type": "missing", "msg": "Field required"}, invalid])
        if given["slug"] in {each["slug"] for each in self.deployments[deployment]["schedules"]} - {None}:
            raise refusal(409)
        record = {"id": f"schedule-{next(self._numbers)}", "active": True, **given}
        self.deployments[deployment]["schedules"].append(record)
        return [record]

    def _plan(self, deployment: str) -> None:
        """The next three runs of each active schedule (of an rrule none), unless they are planned; an impossible rule spoils it for all."""
        planned = {(run["created_by"] or {}).get("id", ""): [] for run in self.runs}
        for run in self.runs:
            planned[(run["created_by"] or {}).get("id", "")].append(run["expected_start_time"])
        for each in self.deployments[deployment]["schedules"]:
            rule = each["schedule"]
            if "rrule" in rule:
                continue
            step = rule["interval"] if "interval" in rule else STEPS[rule["cron"]]
            if not step:
                raise refusal(500)
            anchor = datetime.fromisoformat(rule.get("anchor_date", "2026-11-25T02:00:00+00:00"))
            first = anchor + step * -((anchor - self.now) // timedelta(seconds=step)) * timedelta(seconds=1)
            for due in (first + timedelta(seconds=step * number) for number in range(3)):
                if each["active"] and due.isoformat() not in planned.get(each["id"], []):
                    self.add_run(each["id"], due)

    def _forget(self, deployment: str, *, future_only: bool) -> None:
        """After a change the server deletes the runs that it planned: of all schedules of the deployment."""
        for run in list(self.runs):
            future = datetime.fromisoformat(run["next_scheduled_start_time"]) > self.now
            fresh = run["state"]["type"] == "SCHEDULED" and run["auto_scheduled"] and not run["run_count"]
            if run["deployment_id"] == deployment and fresh and (future or not future_only):
                self.runs.remove(run)

    def _filter(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        found = [run for run in self.runs if all(_holds(run, key, wanted) for key, wanted in body["flow_runs"].items())]
        key = body.get("sort", "ID_DESC").removesuffix("_ASC").lower()
        if key != "id_desc":
            found.sort(key=lambda run: datetime.fromisoformat(run[key]))
        assert body.get("limit", 200) <= 200
        return found[body.get("offset", 0) :][: body.get("limit", 200)]

    def _set_states(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body["flow_runs"]["id"]["any_"]
        assert body["limit"] <= 50
        for run in [run for run in self.runs if run["id"] in wanted][: body["limit"]]:
            run["state"] = body["state"]
        return {"results": [{"flow_run_id": each, "status": "ACCEPT"} for each in wanted]}


def _holds(run: dict[str, Any], key: str, wanted: dict[str, Any]) -> bool:
    match key, wanted:
        case "state", {"type": {"any_": types}}:
            return run["state"]["type"] in types
        case "created_by", {"type_": types}:
            return run["created_by"] is not None and run["created_by"]["type"] in types
        case "created_by", {"id_": identities}:
            return run["created_by"] is not None and run["created_by"]["id"] in identities
        case "deployment_id", {"any_": identities}:
            return run["deployment_id"] in identities
        case _, {"before_": moment}:
            return datetime.fromisoformat(run[key]) <= datetime.fromisoformat(moment)
        case _, {"after_": moment}:
            return datetime.fromisoformat(run[key]) >= datetime.fromisoformat(moment)
    raise AssertionError((key, wanted))


def refusal(code: int, **detail: Any) -> urllib.error.HTTPError:
    """The server's answer with this code."""
    return urllib.error.HTTPError("http://prefect", code, "no", Message(), io.BytesIO(json.dumps(detail).encode()))
