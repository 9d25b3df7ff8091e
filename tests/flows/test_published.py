"""What a running lab is brought by `lab up`, what keeps a lab from starting, and what does not: limits and notifications."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lab_command import lab
from lab_processes import server, stand_in

from components.errors import RequestError, RunError
from flows import deployments
from flows.lab import health, processes, published, servers
from flows.lab.settings import Settings

VARIABLE, VARIABLES, SLOTS, AUTOMATIONS = (
    "/api/variables/name/lab_runs_per_user",
    "/api/variables/",
    "/api/v2/concurrency_limits/gpu",
    "/api/automations/filter",
)
WRONG = "webhooks: {chat: {url: 'http://x', headers: [1]}}"


def test_a_running_lab_is_brought_the_limits_and_notifications_that_are_set(tmp_path: Path) -> None:
    home = tmp_path / "lab"
    with server({VARIABLE: {}, VARIABLES: {}, SLOTS: {"limit": 1}, AUTOMATIONS: []}) as (port, asked), stand_in(home):
        plain = Settings(home, prefect_port=port, mlflow_port=1)
        done = lab(plain, "up", "--detach")
        assert done.out.splitlines()[0] == "the lab is already running; nothing was changed"
        assert asked == [], "what is not set here stays as it is"
        plain.notifications.write_text("notify:")
        done = lab(replace(plain, runs_per_user=1, gpu_slots=2), "up", "--detach", "--json")
        assert done.json["renewed"] == ["runs a person: 1", "GPU slots: 2", "notifications: 0"]
        assert done.err.splitlines()[0] == (
            "the lab is already running; brought up to date: runs a person: 1, GPU slots: 2, notifications: 0 "
            "(all other settings take lab down first)"
        )
        assert (VARIABLES, {"name": "lab_runs_per_user", "value": 1}) in asked
        assert (SLOTS, {"limit": 2}) in asked


def test_a_running_lab_goes_on_when_the_notifications_are_wrong_or_the_server_refuses(tmp_path: Path) -> None:
    home = tmp_path / "lab"
    with server({}, code=422) as (port, asked), stand_in(home) as supervisor:
        settings = Settings(home, prefect_port=port, mlflow_port=1, runs_per_user=1)
        settings.notifications.write_text(WRONG)
        done = lab(settings, "up", "--detach")
        assert done.code == 2
        assert "the headers of the webhook 'chat'" in done.err
        assert asked == [], "nothing was changed"
        settings.notifications.unlink()
        with pytest.raises(RunError, match=r"^the Prefect server refused a request: HTTP Error 422"):
            published.renew(settings)
        assert supervisor.poll() is None


def test_a_lab_with_wrong_notifications_is_not_started(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.notifications.write_text(WRONG)
    monkeypatch.setattr(servers, "_start_supervisor", lambda _settings: pytest.fail("it was started"))
    with pytest.raises(RequestError, match="the headers of the webhook 'chat'"):
        servers.up(settings, lambda _line: None)
    assert processes.marked(settings.home) == []
    published.check(replace(settings, remote_prefect="http://hub:4200/api"))  # a worker's file is nobody's concern


def test_what_the_server_does_not_take_is_said_and_the_flows_are_deployed_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed = []
    with server({AUTOMATIONS: []}, code=422) as (port, _):
        given = replace(settings, prefect_port=port, runs_per_user=1)
        monkeypatch.setattr(Settings, "load", lambda: given)
        monkeypatch.setattr(health, "make_mlflow_users", lambda _: None)
        monkeypatch.setattr(deployments, "make_pool", lambda: None)
        monkeypatch.setattr(deployments, "deploy", deployed.append)
        monkeypatch.setattr(deployments.os, "environ", {})
        deployments.main()
    assert deployed == [given]
    assert capsys.readouterr().out == "note: the limits are not what was asked for: HTTP Error 422: Unprocessable Entity\n"


def test_such_a_note_is_passed_on_to_whoever_starts_the_lab(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noting.py").write_text("print('other'); print('note: the limits are not what was asked for: no')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(health, "settle_lost_flow_runs", lambda *_: [])
    settings.logs.mkdir(parents=True)
    said: list[str] = []
    servers._register(replace(settings, gpu_slots=0), "noting", datetime.now(UTC), said.append)
    assert said == ["deploying the flows", "note: the limits are not what was asked for: no"]
