"""Small questions to the servers over HTTP, with the standard library: `lab status` must not wait for an HTTP library to load."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from components.errors import RequestError
from flows.lab import access, processes
from flows.lab.settings import WORK_POOL, Settings

BUSY, UNAUTHORIZED = 503, 401
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PROXIED = urllib.request.build_opener()


def ask(settings: Settings, path: str, body: Any = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
    """`call` for a `path` of the Prefect server's API, with the lab's credentials where there are any.

    Raises:
        OSError: as for `call`.
        RequestError: the server wants credentials, or other ones.
    """
    login = access.read(settings.credentials)
    headers = login.prefect.header() if login else {}
    with _wanting(f"the Prefect server at {settings.prefect_api}", settings, login):
        return call(f"{settings.prefect_api}{path}", body, method=method, timeout=timeout, headers=headers)


@contextmanager
def _wanting(server: str, settings: Settings, login: access.Credentials | None) -> Iterator[None]:
    """RequestError in place of an answer that credentials are wanted, or other ones."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code != UNAUTHORIZED:
            raise
        error.close()
        where = "(LAB_CREDENTIALS names the file)"
        have = f"those in {settings.credentials} are not right {where}" if login else f"this lab has none {where}"
        raise RequestError(f"{server} asks for credentials, and {have}") from None


def check_prefect_login(settings: Settings, *, timeout: float = 5.0) -> None:
    """RequestError: the Prefect server does not let us in; one that does not answer is passed by."""
    with suppress(OSError):
        ask(settings, "/work_pools/filter", {"limit": 1}, timeout=timeout)


def check_mlflow_login(settings: Settings, *, timeout: float = 5.0) -> None:
    """RequestError: the MLflow server does not let us in; one that does not answer is passed by."""
    login = access.read(settings.credentials)
    with suppress(OSError), _wanting(f"the MLflow server at {settings.mlflow_uri}", settings, login):
        address = f"{settings.mlflow_uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
        call(address, timeout=timeout, headers=login.mlflow.header() if login else {})


def call(
    address: str, body: Any = None, *, method: str | None = None, timeout: float = 5.0, headers: Mapping[str, str] | None = None
) -> Any:
    """The JSON (or text) that `address` answers: GET, or POST when there is a `body` (JSON values), unless `method` says another.

    A server that is too busy to take it is asked again for `timeout` seconds: Prefect's says so, and has done nothing, whenever two
    of its own transactions meet in SQLite.

    Raises:
        OSError: nobody answers within `timeout` seconds, or the answer is not a success (`urllib.error.HTTPError` has its `code`).
    """
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(address, data=data, headers=given, method=method)  # noqa: S310 — http(s) by Settings
    opener = _DIRECT if "://127.0.0.1:" in address else _PROXIED
    deadline = time.monotonic() + timeout
    while True:
        try:
            with opener.open(request, timeout=timeout) as answer:
                text = answer.read().decode()
            break
        except urllib.error.HTTPError as error:
            if error.code != BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    try:
        return json.loads(text)
    except ValueError:
        return text


def healthy(address: str, *, timeout: float = 1.0) -> bool:
    """Whether `address` answers with success within `timeout` seconds."""
    try:
        call(address, timeout=timeout)
    except (OSError, ValueError):
        return False
    return True


def answers(settings: Settings, server: str, *, since: datetime | None = None, timeout: float = 1.0) -> bool:
    """Whether `server` (`prefect`, `mlflow` or `worker`) of this lab does its work; another lab's on the same port does not count.

    The worker is asked for by way of the Prefect server, which believes in a dead one for 90 s: give `since` to count only a sign
    of life after that moment.
    """
    if server == "worker":
        try:
            found = [worker for worker in workers(settings, timeout=timeout) if worker["name"] == worker_name()]
        except OSError:
            return False
        return any(
            worker["status"] == "ONLINE" and (since is None or datetime.fromisoformat(worker["last_heartbeat_time"]) >= since)
            for worker in found
        )
    address, port, remote = {
        "prefect": (f"{settings.prefect_api}/health", settings.prefect_port, settings.remote_prefect),
        "mlflow": (f"{settings.mlflow_uri}/health", settings.mlflow_port, settings.remote_mlflow),
    }[server]
    if not healthy(address, timeout=timeout):
        return False
    return remote is not None or processes.home_of_port(port) in (None, os.path.realpath(settings.home))


def stranger(settings: Settings) -> str | None:
    """A line when the local Prefect or MLflow port is another lab's, which must not be used in place of this one; None otherwise."""
    ports = (
        ("LAB_PREFECT_PORT", settings.prefect_port, settings.remote_prefect),
        ("LAB_MLFLOW_PORT", settings.mlflow_port, settings.remote_mlflow),
    )
    for variable, port, remote in ports:
        other = None if remote else processes.home_of_port(port)
        if other is not None and other != os.path.realpath(settings.home):
            return (
                f"this lab ({settings.home}) is not running, and port {port} is used by the lab of {other}: "
                f"use that one by LAB_HOME={other}, or another port by {variable}"
            )
    return None


def worker_name() -> str:
    """The local worker's name in Prefect: one a machine, so that restarts do not pile up dead workers."""
    return f"lab@{os.uname().nodename}"


def workers(settings: Settings, *, timeout: float = 5.0) -> list[dict[str, Any]]:
    """The workers of the work pool as Prefect knows them (`name`, `status`, `last_heartbeat_time` …); none when there is no pool yet."""
    try:
        found: list[dict[str, Any]] = ask(settings, f"/work_pools/{WORK_POOL}/workers/filter", {}, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise
    return found


def flow_runs(settings: Settings, *, now: str, timeout: float = 1.0) -> dict[str, int]:
    """How many flow runs are `running`, and `queued`: due by `now` (ISO 8601 with zone) but not started."""
    running = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
    queued = {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}, "next_scheduled_start_time": {"before_": now}}

    def count(which: Mapping[str, Any]) -> int:
        return int(ask(settings, "/flow_runs/count", {"flow_runs": which}, timeout=timeout))

    return {"running": count(running), "queued": count(queued)}


def ensure_concurrency_limit(settings: Settings, name: str, slots: int) -> None:
    """Make the global concurrency limit `name` with `slots`, unless it is there (then its slots are somebody's choice)."""
    limits = "/v2/concurrency_limits/"
    try:
        ask(settings, f"{limits}{name}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        ask(settings, limits, {"name": name, "limit": slots})


def set_concurrency_limit(settings: Settings, name: str, slots: int) -> None:
    """Make the global concurrency limit `name` with `slots`, or give the one that is there as many."""
    ensure_concurrency_limit(settings, name, slots)
    ask(settings, f"/v2/concurrency_limits/{name}", {"limit": slots}, method="PATCH")


def make_mlflow_users(settings: Settings) -> None:
    """Make MLflow's reader and editor with their rights, where the server has credentials and does not know them yet."""
    login = access.read(settings.credentials)
    if login is None or login.admin is None or login.reader is None:
        return
    # A password's hash takes long on a busy machine.
    header, api = login.admin.header(), f"{settings.mlflow_uri}/api"
    there = {user["username"] for user in call(f"{api}/2.0/mlflow/users/list", headers=header, timeout=60)["users"]}
    for user, (role, permission) in zip((login.reader, login.mlflow), access.ROLES.items(), strict=True):
        if user.user in there:
            continue
        made = call(f"{api}/3.0/mlflow/roles/create", {"workspace": "default", "name": role}, headers=header, timeout=60)["role"]
        for kind in access.KINDS:
            grant = {"role_id": made["id"], "resource_type": kind, "resource_pattern": "*", "permission": permission}
            call(f"{api}/3.0/mlflow/roles/permissions/add", grant, headers=header, timeout=60)
        call(f"{api}/2.0/mlflow/users/create", {"username": user.user, "password": user.password}, headers=header, timeout=60)
        call(f"{api}/3.0/mlflow/roles/assign", {"username": user.user, "role_id": made["id"]}, headers=header, timeout=60)


def settle_lost_flow_runs(settings: Settings, alive: Set[str], before: datetime) -> list[str]:
    """Put right the flow runs of the pool that lost their process, as after a power cut; returns their names.

    A run that is in its state since `before`, but is not among the `alive` ids, will never say anything again: one that claims to run
    is marked as crashed, one that was about to start is queued again, and one that was being cancelled is cancelled.
    """
    lost = _claiming(settings, {"work_pools": {"name": {"any_": [WORK_POOL]}}}, before)
    return [_settle(settings, each) for each in lost if each["id"] not in alive]


def crash_flow_runs(settings: Settings, ids: Sequence[str], before: datetime) -> list[str]:
    """The same for the flow runs `ids`, which belong to no pool and whose processes are known to be gone; returns their names."""
    return [_settle(settings, each) for each in _claiming(settings, {}, before, {"id": {"any_": list(ids)}})] if ids else []


def crash_orphaned_task_runs(settings: Settings) -> list[str]:
    """Mark as crashed the task runs that claim to run although their flow run has ended without them; returns their names."""
    query = {
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "flow_runs": {"state": {"type": {"any_": ["CRASHED", "CANCELLED", "FAILED", "COMPLETED"]}}},
    }
    found = ask(settings, "/task_runs/filter", query)
    state = {"type": "CRASHED", "name": "Crashed", "message": "The lab was cut off while this ran."}
    for each in found:
        ask(settings, f"/task_runs/{each['id']}/set_state", {"state": state, "force": True})
    return [str(each["name"]) for each in found]


def _claiming(
    settings: Settings, query: Mapping[str, Any], before: datetime, about: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The flow runs that claim since `before` to run or to be about to."""
    claim = {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}, **(about or {})}
    found: list[dict[str, Any]] = ask(settings, "/flow_runs/filter", {"flow_runs": claim, **query})
    return [each for each in found if datetime.fromisoformat(each["state"]["timestamp"]) < before]


def _settle(settings: Settings, lost: Mapping[str, Any]) -> str:
    kind, name = {"PENDING": ("SCHEDULED", "Scheduled"), "CANCELLING": ("CANCELLED", "Cancelled")}.get(
        lost["state"]["type"], ("CRASHED", "Crashed")
    )
    state = {
        "type": kind,
        "name": name,
        "message": f"The lab was cut off {'before this started' if kind == 'SCHEDULED' else 'while this ran'}.",
    }
    ask(settings, f"/flow_runs/{lost['id']}/set_state", {"state": state, "force": True})
    return str(lost["name"])
