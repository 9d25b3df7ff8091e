"""lab status: rows, sizes, and no server needed."""

import time
from pathlib import Path

import pytest
from lab_command import lab
from lab_processes import server, stand_in

from flows.lab import disk, status
from flows.lab.health import worker_name
from flows.lab.settings import Settings

FULL = "takes 150% of its 1e-06 GB (LAB_QUOTA_GB), so nothing more is begun: lab gc shows what may go"


def test_nothing_runs(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = status.look(Settings(tmp_path / "never", prefect_port=1, mlflow_port=2))
    assert time.monotonic() - begin < 1
    assert [(server.name, server.state, server.pid) for server in found.servers] == [
        ("prefect", "stopped", None),
        ("mlflow", "stopped", None),
        ("worker", "stopped", None),
    ]
    assert (found.running, found.flow_runs, found.disk) == (False, None, {})
    assert found.free_bytes > 0


def test_everything_runs(tmp_path: Path) -> None:
    workers = [{"name": worker_name(), "status": "ONLINE", "last_heartbeat_time": "2026-11-22T13:45:00Z"}]
    answers = {"/api/health": True, "/health": "OK", "/api/work_pools/lab/workers/filter": workers, "/api/flow_runs/count": 1}
    with (
        server(answers) as (port, _),
        stand_in(tmp_path, LAB_SERVER="prefect") as prefect,
        stand_in(tmp_path, LAB_SERVER="mlflow"),
        stand_in(tmp_path, LAB_SERVER="worker"),
        stand_in(tmp_path, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b"),
    ):
        found = status.look(Settings(tmp_path, prefect_port=port, mlflow_port=port))
    assert found.running
    assert found.servers[0].pid == prefect.pid
    assert found.servers[0].address == f"http://127.0.0.1:{port}"
    assert 0 <= (found.servers[0].uptime_seconds or -1) < 60
    assert (found.servers[0].memory_bytes or 0) > 1_000_000
    assert found.flow_runs == {"running": 1, "queued": 1}
    assert found.flow_run_bytes > 1_000_000
    assert found.as_json()["running"] is True


def test_a_process_that_does_not_answer_is_starting_and_a_server_elsewhere_not_answering(tmp_path: Path) -> None:
    with stand_in(tmp_path, LAB_SERVER="prefect"):
        found = status.look(Settings(tmp_path, prefect_port=1, remote_mlflow="http://127.0.0.1:2"))
    assert [server.state for server in found.servers] == ["starting", "not answering", "stopped"]


def test_sizes_are_added_up_largest_first(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "one").write_bytes(b"x" * 300)
    (tmp_path / "runs" / "a" / "b" / "two").write_bytes(b"x" * 200)
    (tmp_path / "lab.db").write_bytes(b"x" * 400)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    sizes, complete = disk.sizes(tmp_path)
    assert complete
    assert list(sizes) == ["runs", "lab.db"]
    assert sizes["lab.db"] == 400
    assert sizes["runs"] == 500 + (tmp_path / "runs" / "loop").lstat().st_size


def test_sizes_without_time_are_lower_bounds(tmp_path: Path) -> None:
    (tmp_path / "lab.db").write_bytes(b"x" * 400)
    assert disk.sizes(tmp_path, seconds=-1) == ({"lab.db": pytest.approx(400)}, False)


@pytest.mark.parametrize(("taken", "line"), [(799, None), (800, "takes 80% of its 1e-06 GB; lab gc shows what may go"), (1500, FULL)])
def test_a_quota_that_is_nearly_used_up_is_said(taken: int, line: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(taken))
    settings = Settings(tmp_path, prefect_port=1, mlflow_port=2, quota=1000)
    done = lab(settings, "status", "--json")
    assert done.code == 0
    found = done.json["quota"]
    assert (found["limit"], found["taken"]) == (1000, taken)
    if line is None:
        assert found["warning"] is None
        assert "lab gc" not in done.err
    else:
        assert found["warning"] == f"{tmp_path} {line}"
        assert lab(settings, "status").out.splitlines()[-1] == found["warning"]
    assert lab(Settings(tmp_path, prefect_port=1, mlflow_port=2), "status", "--json").json["quota"] is None
