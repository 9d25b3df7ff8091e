"""Quota, GPU slots and runs a person: warned at 80 %, refused when full, asked of the server that everybody shares."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from lab_processes import server, stand_in
from trainings import environment

from components.errors import RequestError, RunError
from flows import queue, trainer
from flows.lab import health, limits
from flows.lab.settings import Settings
from flows.parts import data_section, prepare_data

VARIABLE = "/api/variables/name/lab_runs_per_user"


def lab(home: Path, taken: int, **values: int) -> Settings:
    home.mkdir(exist_ok=True)
    (home / "file").write_bytes(bytes(taken))
    return Settings(home, **values)


@pytest.mark.parametrize(("taken", "warned"), [(0, False), (799, False), (800, True), (999, True)])
def test_people_are_warned_from_80_percent_on(taken: int, warned: bool, tmp_path: Path) -> None:
    found = limits.warning(lab(tmp_path / "home", taken, quota=1000))
    assert (found is not None) is warned
    if warned:
        assert found == f"{tmp_path / 'home'} takes {taken / 1000:.0%} of its 1e-06 GB; lab gc shows what may go"


def test_a_full_lab_begins_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"takes 100% of its 1e-06 GB \(LAB_QUOTA_GB\), so nothing more is begun"):
        limits.warning(lab(tmp_path, 1000, quota=1000))
    assert limits.warning(lab(tmp_path, 1000)) is None, "without a quota nothing is counted"


def test_a_run_that_will_not_fit_is_refused_and_one_that_just_does_is_not(tmp_path: Path) -> None:
    settings = lab(tmp_path, 3_000_000, quota=5_000_000)
    limits.refuse_what_will_not_fit(settings, 2_000_000)
    with pytest.raises(RunError, match=r"its checkpoints need 2\.1 MB, and of .*'s 0\.005 GB \(LAB_QUOTA_GB\) 2\.0 MB are left"):
        limits.refuse_what_will_not_fit(settings, 2_100_000)
    with pytest.raises(RunError, match=r"its checkpoints need 1000000000\.0 GB, and the disk has .* left"):
        limits.refuse_what_will_not_fit(lab(tmp_path, 0), 10**18)


def test_a_full_lab_prepares_nothing_and_one_that_is_nearly_full_says_so(tmp_path: Path, digits: Path) -> None:
    section = {"data": data_section(["data=digits"])}
    full = lab(tmp_path / "full", 1000, quota=1000)
    with pytest.raises(RequestError, match=r"takes 100% of its 1e-06 GB \(LAB_QUOTA_GB\), so nothing more is begun"):
        prepare_data(section, full)
    assert not list(full.data.rglob("*.json"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "data").symlink_to(digits)
    assert prepare_data(section, lab(tmp_path / "used", 1000, quota=1000)).name == "digits", "what is prepared may be used"
    said: list[str] = []
    prepare_data(section, lab(tmp_path / "nearly", 1000, quota=1200), tell=lambda line: said.append(line["text"]))
    assert said[0] == f"{tmp_path / 'nearly'} takes 83% of its 1.2e-06 GB; lab gc shows what may go"


def test_a_full_lab_makes_no_data_for_a_run_before_it_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("text,label\n" + "good film,yes\nbad film,no\n" * 20)
    settings = lab(tmp_path / "home", 1000, quota=1000)
    request = ["model=mlp", "data=text_csv", f"data.path={tmp_path / 'own.csv'}"]
    done: list[dict[str, Any]] = []
    with patch.dict(os.environ, environment(settings), clear=True), pytest.raises(RequestError, match="so nothing more is begun"):
        trainer._run({"overrides": request}, done.append, threading.Event())
    assert done == []


def test_a_source_that_will_not_fit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "fashion-mnist").mkdir(parents=True)
    settings = replace(lab(tmp_path / "home", 0, quota=1_000_000), data_mirror=str(tmp_path / "mirror"))
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    for name in names:
        (tmp_path / "mirror" / "fashion-mnist" / name).write_bytes(bytes(1_100_000))
    left = r"of .*'s 0\.001 GB \(LAB_QUOTA_GB\) 1\.0 MB are left: lab gc"
    with pytest.raises(RunError, match=rf"^the data will not fit: fashion-\S+ needs 1\.1 MB, and {left}"):
        prepare_data({"data": data_section(["data=fashion_mnist"])}, settings)
    assert limits.used(settings) == 0


def test_limits_are_kept_where_all_machines_find_them(tmp_path: Path) -> None:
    variables, slots = "/api/variables/", "/api/v2/concurrency_limits/gpu"
    with server({VARIABLE: {"value": 3}, variables: {}, slots: {"limit": 1}}) as (port, asked):
        settings = Settings(tmp_path, prefect_port=port, mlflow_port=1, runs_per_user=4, gpu_slots=0)
        limits.publish(settings)
        assert (variables, {"name": "lab_runs_per_user", "value": 4}) in asked
        assert (slots, {"limit": 0}) in asked
        assert limits.runs_per_user(settings) == 3
    with server({}) as (port, asked):
        unlimited = Settings(tmp_path, prefect_port=port, mlflow_port=1)
        limits.publish(unlimited)
        assert limits.runs_per_user(unlimited) is None
        assert {path for path, _ in asked} == {VARIABLE}


@pytest.mark.parametrize("unfinished", [1, 2, 3])
def test_a_person_has_so_many_runs_and_no_more(unfinished: int, tmp_path: Path) -> None:
    answers = {
        "/api/health": True,
        VARIABLE: {"value": 2},
        "/api/flow_runs/count": unfinished,
        "/api/deployments/name/train/train": {"id": "d"},
        "/api/deployments/d/create_flow_run": {"id": "r", "name": "a run"},
    }
    with server(answers) as (port, asked):
        settings = Settings(tmp_path, prefect_port=port, mlflow_port=1)
        if unfinished < 2:
            assert queue.queue(settings, "train/train", {}).name == "a run"
            [tag] = asked[-1][1]["tags"]
            assert asked[2] == (
                "/api/flow_runs/count",
                {"flow_runs": {"tags": {"all_": [tag]}, "state": {"type": {"not_any_": list(queue.ENDED)}}}},
            )
        else:
            with pytest.raises(RequestError, match=rf"has {unfinished} queued or running already, and the lab lets one person have 2"):
                queue.queue(settings, "train/train", {})
            assert not [path for path, _ in asked if "create_flow_run" in path]
            queue.queue(settings, "train/train", {}, counted=False)
            assert asked[-1][1]["tags"] == [], "a sweep's workers are not the person's runs"


ANOTHER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")
    def log_message(self, *_): pass
import threading
http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
pathlib.Path("port").write_text(str(http_server.server_port))
threading.Thread(target=http_server.serve_forever, daemon=True).start()
"""


def test_another_labs_servers_on_our_ports_are_never_taken_for_ours(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with stand_in(other, ANOTHER, LAB_SERVER="prefect"):
        port = int((other / "port").read_text())
        ours = Settings(tmp_path / "ours", prefect_port=port, mlflow_port=1)
        assert health.healthy(f"{ours.prefect_api}/health")
        assert not health.answers(ours, "prefect")
        assert health.answers(Settings(other, prefect_port=port, mlflow_port=1), "prefect")
        with pytest.raises(RequestError) as caught:
            queue.queue(ours, "train/train", {})
        assert str(caught.value) == (
            f"this lab ({tmp_path / 'ours'}) is not running, and port {port} is used by the lab of {other}: "
            f"use that one by LAB_HOME={other}, or another port by LAB_PREFECT_PORT"
        )
    assert health.stranger(ours) is None
