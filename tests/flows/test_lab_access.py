"""Credentials: made once, readable by their owner only, shown by nothing, and smaller for other machines."""

import json
import os
import stat
from pathlib import Path

import pytest
from lab_processes import server

from components.errors import RequestError
from flows.lab import access, health, servers
from flows.lab.settings import Settings


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
        assert (
            str(caught.value)
            == f"the Prefect server at http://127.0.0.1:{port}/api asks for credentials, and those in {file} are not right"
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
