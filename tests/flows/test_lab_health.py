"""Questions to the servers, against a server that answers from a dict."""

import threading
import urllib.error
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from lab_processes import server

from flows.lab import health
from flows.lab.settings import Settings

WORKERS = "/api/work_pools/lab/workers/filter"
NOW = datetime(2026, 11, 22, 13, 45, tzinfo=UTC)


def settings(port: int) -> Settings:
    return Settings(Path("/nowhere"), prefect_port=port, mlflow_port=port)


def worker(name: str, status: str, seen: datetime) -> dict[str, str]:
    return {"name": name, "status": status, "last_heartbeat_time": seen.isoformat().replace("+00:00", "Z")}


def test_a_busy_server_is_asked_again() -> None:
    codes = iter([503, 503, 200, 409])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(next(codes))
            self.end_headers()
            self.wfile.write(b"7")

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            assert health.call(f"http://127.0.0.1:{http.server_address[1]}/", {}) == 7
            with pytest.raises(urllib.error.HTTPError, match="409"):
                health.call(f"http://127.0.0.1:{http.server_address[1]}/", {})
        finally:
            http.shutdown()


def test_what_is_there_is_changed_and_removed() -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append((self.command, self.rfile.read(int(self.headers.get("Content-Length") or 0))))
            self.send_response(204)
            self.end_headers()

        do_PATCH = do_DELETE = answer  # noqa: N815 — the names are http.server's

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            address = f"http://127.0.0.1:{http.server_address[1]}/"
            assert health.call(address, {"active": False}, method="PATCH") == ""
            assert health.call(address, method="DELETE") == ""
        finally:
            http.shutdown()
    assert asked == [("PATCH", b'{"active": false}'), ("DELETE", b"")]


def test_servers_answer_or_do_not() -> None:
    with server({"/api/health": True, "/health": "OK"}) as (port, _):
        assert health.answers(settings(port), "prefect")
        assert health.answers(settings(port), "mlflow")
        assert not health.answers(settings(port), "worker"), "there is no pool yet"
    assert not health.answers(settings(port), "prefect")


@pytest.mark.parametrize(
    ("found", "since", "answers"),
    [
        ([worker(health.worker_name(), "ONLINE", NOW)], None, True),
        ([worker(health.worker_name(), "OFFLINE", NOW)], None, False),
        ([worker("lab@elsewhere", "ONLINE", NOW)], None, False),
        ([worker(health.worker_name(), "ONLINE", NOW - timedelta(seconds=1))], NOW, False),
        ([worker(health.worker_name(), "ONLINE", NOW + timedelta(seconds=1))], NOW, True),
    ],
)
def test_the_worker_counts_by_a_sign_of_life_of_this_start(found: list[dict[str, str]], since: datetime | None, answers: bool) -> None:
    with server({WORKERS: found}) as (port, _):
        assert health.answers(settings(port), "worker", since=since) is answers


def test_the_gpu_limit_is_made_only_when_it_is_missing() -> None:
    limits = "/api/v2/concurrency_limits/"
    with server({limits: {}}) as (port, asked):
        health.ensure_concurrency_limit(settings(port), "gpu", 2)
        assert asked == [(f"{limits}gpu", None), (limits, {"name": "gpu", "limit": 2})]
    with server({f"{limits}gpu": {"limit": 1}}) as (port, asked):
        health.ensure_concurrency_limit(settings(port), "gpu", 2)
        assert asked == [(f"{limits}gpu", None)]


def test_flow_runs_are_counted_by_state() -> None:
    with server({"/api/flow_runs/count": 3}) as (port, asked):
        assert health.flow_runs(settings(port), now=NOW.isoformat()) == {"running": 3, "queued": 3}
    assert asked[0][1]["flow_runs"]["state"]["type"]["any_"] == ["RUNNING", "CANCELLING"]
    assert asked[1][1]["flow_runs"]["next_scheduled_start_time"] == {"before_": "2026-11-22T13:45:00+00:00"}


def test_after_a_power_cut_runs_are_marked_crashed_and_pending_ones_queued_again() -> None:
    def run(name: str, state: str, seconds: float) -> dict[str, object]:
        return {"id": name, "name": f"the {name}", "state": {"type": state, "timestamp": (NOW + timedelta(seconds=seconds)).isoformat()}}

    found = [
        run("cut", "RUNNING", -60),
        run("alive", "RUNNING", -60),
        run("waiting", "PENDING", -5),
        run("new", "RUNNING", 5),
        run("ending", "CANCELLING", -9),
    ]
    answers = {"/api/flow_runs/filter": found} | {f"/api/flow_runs/{each['id']}/set_state": {} for each in found}
    with server(answers) as (port, asked):
        assert health.settle_lost_flow_runs(settings(port), {"alive"}, NOW) == ["the cut", "the waiting", "the ending"]
    told = {path: body["state"]["type"] for path, body in asked[1:]}
    assert told == {
        "/api/flow_runs/cut/set_state": "CRASHED",
        "/api/flow_runs/waiting/set_state": "SCHEDULED",
        "/api/flow_runs/ending/set_state": "CANCELLED",
    }
    assert asked[0][1]["work_pools"] == {"name": {"any_": ["lab"]}}


def test_task_runs_that_outlived_their_flow_run_are_marked_as_crashed() -> None:
    with server({"/api/task_runs/filter": [{"id": "t1", "name": "trials 1–10"}], "/api/task_runs/t1/set_state": {}}) as (port, asked):
        assert health.crash_orphaned_task_runs(settings(port)) == ["trials 1–10"]
    assert asked[0][1]["flow_runs"]["state"]["type"]["any_"] == ["CRASHED", "CANCELLED", "FAILED", "COMPLETED"]
    assert asked[1][1]["state"]["type"] == "CRASHED"
