"""Credentials: made once, readable by their owner only, shown by nothing, and smaller for other machines."""

import json
import os
import socket
import stat
from contextlib import ExitStack, closing
from pathlib import Path
from unittest.mock import patch

import pytest
from lab_command import lab
from lab_processes import server

from components.errors import RequestError
from flows.lab import access, health, processes, servers
from flows.lab.settings import Settings
from flows.records.tracking import tracking_uri


@pytest.fixture
def file(tmp_path: Path) -> Path:
    access.make(tmp_path / "credentials.json")
    return tmp_path / "credentials.json"


def test_credentials_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    file = tmp_path / "lab" / "credentials.json"
    before = os.umask(0)
    try:
        assert access.make(file) is True
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text()
    assert access.make(file) is False
    assert file.read_text() == first
    assert [each.name for each in file.parent.iterdir()] == ["credentials.json"]
    passwords = {login["password"] for name, login in json.loads(first).items() if name != "secret"}
    assert len(passwords) == 4
    assert all(len(password) == 32 for password in passwords)


def test_no_text_of_them_has_a_password(file: Path) -> None:
    found = access.required(file)
    assert found.admin is not None
    assert repr(found.prefect) == "Login(user='lab')"
    assert not [each for each in (found.prefect, found.mlflow, found.admin) if each.password in repr(found)]
    assert found.secret not in repr(found)


def test_another_machine_gets_prefect_and_one_role_and_no_more(file: Path, tmp_path: Path) -> None:
    whole = access.required(file)
    for role, login in (("reader", whole.reader), ("editor", whole.mlflow)):
        access.export(whole, role, tmp_path / role)
        assert stat.S_IMODE((tmp_path / role).stat().st_mode) == 0o600
        part = access.required(tmp_path / role)
        assert (part.prefect, part.mlflow) == (whole.prefect, login)
        assert (part.admin, part.reader, part.secret) == (None, None, None)
        with pytest.raises(RequestError, match="only the machine with the servers has everybody's credentials"):
            access.export(part, role, tmp_path / "another")
    with pytest.raises(RequestError, match="reader exists already; choose another file"):
        access.export(whole, "reader", tmp_path / "reader")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"prefect": {"user": "x", "password": "hunter2", "more": 1}}', '{"prefect": {"user": "hunter2"}}']
)
def test_a_spoilt_file_is_named_and_not_shown(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(RequestError) as caught:
        access.read(tmp_path / "file")
    assert str(caught.value).startswith(f"{tmp_path / 'file'} is not a file of credentials")
    assert "hunter2" not in str(caught.value)
    assert access.read(tmp_path / "nothing") is None


def test_our_questions_carry_the_credentials_and_a_refusal_is_one_line(file: Path, tmp_path: Path) -> None:
    with server({"/api/flow_runs/count": 3}) as (port, asked):
        settings = Settings(tmp_path, prefect_port=port, mlflow_port=1)
        assert health.ask(settings, "/flow_runs/count", {}) == 3
        assert asked.headers[-1]["Authorization"] == access.required(file).prefect.header()["Authorization"]
    with server({}, code=401) as (port, _):
        with pytest.raises(RequestError) as caught:
            health.ask(Settings(tmp_path, prefect_port=port, mlflow_port=1), "/flow_runs/count", {})
        assert str(caught.value) == (
            f"the Prefect server at http://127.0.0.1:{port}/api asks for credentials, "
            f"and those in {file} are not right (LAB_CREDENTIALS names the file)"
        )
        with pytest.raises(RequestError, match=r"and this lab has none \(LAB_CREDENTIALS names the file\)"):
            health.ask(Settings(tmp_path / "other", prefect_port=port, mlflow_port=1), "/flow_runs/count", {})


def test_clients_sign_in_by_their_environment(file: Path, tmp_path: Path) -> None:
    found, settings = access.required(file), Settings(tmp_path)
    assert settings.prefect_environment()["PREFECT_API_AUTH_STRING"] == f"lab:{found.prefect.password}"
    assert settings.mlflow_environment()["MLFLOW_TRACKING_USERNAME"] == "editor"
    assert settings.mlflow_environment()["MLFLOW_TRACKING_PASSWORD"] == found.mlflow.password
    assert not [name for name in Settings(tmp_path / "none").mlflow_environment() if "PASSWORD" in name]
    assert not [value for value in settings.lab_environment().values() if found.prefect.password in value]


def test_nobody_beyond_this_machine_comes_in_without_credentials(tmp_path: Path) -> None:
    settings = Settings(tmp_path, host="0.0.0.0")
    with pytest.raises(RequestError, match=r"LAB_HOST is 0\.0\.0\.0.*lab up --team makes credentials first"):
        servers.up(settings, lambda _: None)
    assert not settings.running_file.exists()


def test_credentials_that_cannot_be_written_are_one_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    for place in (Path("/proc/x.json"), tmp_path / "no folder" / "x.json"):
        done = lab(Settings(tmp_path), "access", "--into", str(place))
        assert done.code == 2
        assert done.err.startswith(f"lab: {place} cannot be written: ")
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("host", ["not a host", "10.99.99.99", "a..b", "2001:db8::1"])
@pytest.mark.parametrize("options", [(), ("--team",)])
def test_an_address_that_this_machine_does_not_have_is_no_busy_port_and_leaves_no_credentials(
    host: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    settings = Settings(tmp_path / "lab", prefect_port=1, mlflow_port=2, host=host)
    done = lab(settings, "up", "--detach", *options)
    assert (done.code, done.err) == (
        2,
        f"lab: LAB_HOST is {host!r}, and this machine has no such address (127.0.0.1 is for itself only, 0.0.0.0 for all)\n",
    )
    assert not settings.credentials.exists()


@pytest.mark.parametrize("what", ["port", "notifications"])
def test_a_refused_start_of_a_team_leaves_no_credentials(what: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        taken, *free = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in (taken, *free)]
        for each in free:
            each.close()
        settings = Settings(tmp_path / "lab", prefect_port=ports[1], mlflow_port=ports[0 if what == "port" else 2])
        settings.home.mkdir()
        if what == "notifications":
            settings.notifications.write_text("webhooks: {chat: {url: 'http://x', headers: [1]}}")
        done = lab(settings, "up", "--team", "--detach")
    assert done.code == 2
    assert ("is used by" if what == "port" else "notifications.yaml: the headers of the webhook 'chat'") in done.err
    assert done.err.count("\n") == 1
    assert not settings.credentials.exists()
    assert processes.marked(settings.home) == []


def test_credentials_are_made_when_nothing_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_check_ports", lambda _settings: None)
    monkeypatch.setattr(servers, "_wait_until_ready", lambda *_: None)
    monkeypatch.setattr(servers, "_register", lambda *_: None)
    started = []
    settings, said = Settings(tmp_path / "lab", host="0.0.0.0"), list[str]()
    monkeypatch.setattr(servers, "_start_supervisor", lambda each: started.append(access.required(each.credentials).prefect.user))
    assert servers.up(settings, said.append, team=True) is True
    assert started == ["lab"]
    assert said == [f"made credentials for everybody: they are in {settings.credentials}, which only you may read"]


TRAINING = ("train", "experiment=mlp_digits", "trainer.epochs=1")


@pytest.mark.parametrize("command", [TRAINING, ("sweep", "experiment=mlp_digits", "search=initializers"), ("worker", "--url", "")])
@pytest.mark.parametrize("refuses", ["Prefect", "MLflow"])
@pytest.mark.parametrize("known", [True, False])
def test_credentials_that_a_server_does_not_take_are_one_line_and_nothing_is_made(
    command: tuple[str, ...], refuses: str, known: bool, file: Path, tmp_path: Path
) -> None:
    """The servers answer every question but those for which one has to be let in."""
    pools = {"/api/work_pools/filter": []} if refuses == "MLflow" else {}
    with server({"/api/health": True, "/health": "OK"} | pools, code=401) as (port, _):
        address = f"http://127.0.0.1:{port}"
        settings = Settings(
            tmp_path / "home",
            remote_prefect=f"{address}/api",
            remote_mlflow=address,
            credentials_file=file if known else tmp_path / "nothing",
        )
        done = lab(settings, *(address if each == "" else each for each in command))
        where = f"{address}/api" if refuses == "Prefect" else address
    have = f"those in {file} are not right" if known else "this lab has none"
    assert (done.code, done.err) == (
        2,
        f"lab: the {refuses} server at {where} asks for credentials, and {have} (LAB_CREDENTIALS names the file)\n",
    )
    assert not settings.runs.exists()
    assert not settings.sweeps.exists()


def test_mlflow_is_not_asked_by_a_client_that_it_does_not_let_in(file: Path, tmp_path: Path) -> None:
    with server({"/health": "OK"}, code=401) as (port, _):
        settings = Settings(tmp_path, remote_mlflow=f"http://127.0.0.1:{port}")
        with patch.dict(os.environ), pytest.raises(RequestError, match=r"^the MLflow server at .* \(LAB_CREDENTIALS names the file\)$"):
            tracking_uri(settings)
    with patch.dict(os.environ):
        assert tracking_uri(settings) == settings.mlflow_uri, "one that is away is no matter of credentials"
