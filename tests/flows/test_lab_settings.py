"""Settings: defaults, what each variable accepts, and that another process gets the same ones."""

import json
from pathlib import Path

import pytest

from components.errors import RequestError
from flows.lab.settings import Settings


def test_the_defaults_live_in_the_checkout(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    inside = tmp_path / "docs" / "adr"
    inside.mkdir(parents=True)
    settings = Settings.load({}, inside)
    assert settings.home == tmp_path / ".lab"
    assert (settings.prefect_port, settings.mlflow_port) == (4200, 5000)
    assert settings.prefect_api == "http://127.0.0.1:4200/api"
    assert settings.prefect_ui == "http://127.0.0.1:4200"
    assert settings.mlflow_uri == "http://127.0.0.1:5000"
    assert settings.workers >= 2
    assert settings.data_mirror is None


def test_outside_of_any_checkout_the_current_folder_is_home(tmp_path: Path) -> None:
    assert Settings.load({}, tmp_path).home == tmp_path / ".lab"


def test_a_lab_folder_above_is_found(tmp_path: Path) -> None:
    (tmp_path / ".lab").mkdir()
    (tmp_path / "below").mkdir()
    assert Settings.load({}, tmp_path / "below").home == tmp_path / ".lab"


def test_a_relative_home_becomes_absolute(tmp_path: Path) -> None:
    settings = Settings.load({"LAB_HOME": "../there"}, tmp_path)
    assert settings.home == tmp_path.parent / "there"
    assert settings.mlflow_store == f"sqlite:///{tmp_path.parent}/there/mlflow.db"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"LAB_PREFECT_PORT": "http"}, "LAB_PREFECT_PORT is 'http'; it has to be a whole number from 1 to 65535"),
        ({"LAB_MLFLOW_PORT": "70000"}, "LAB_MLFLOW_PORT is '70000'; it has to be a whole number from 1 to 65535"),
        ({"LAB_MLFLOW_PORT": "-1"}, "LAB_MLFLOW_PORT is '-1'; it has to be a whole number from 1 to 65535"),
        ({"LAB_WORKERS": "0"}, "LAB_WORKERS is '0'; it has to be a whole number from 1 to 1000"),
        ({"LAB_MLFLOW_PORT": "4200"}, "LAB_PREFECT_PORT and LAB_MLFLOW_PORT are both 4200; each server needs its own port"),
        ({"LAB_PREFECT_API_URL": "host:4200"}, "LAB_PREFECT_API_URL is 'host:4200'; it has to be an address like https://host:port/api"),
        ({"LAB_MLFLOW_URI": "sqlite:///x"}, "LAB_MLFLOW_URI is 'sqlite:///x'; it has to be an address like https://host:port"),
        ({"LAB_DATA_MIRROR": "s3://x"}, "LAB_DATA_MIRROR is 's3://x'; it has to be a folder or an http(s) address"),
        ({"LAB_HOME": "/a?b"}, "LAB_HOME '/a?b' has '?' in it, which database addresses cannot hold; choose another folder"),
    ],
)
def test_a_bad_value_is_one_line_that_says_what_is_allowed(values: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        Settings.load(values, tmp_path)
    assert str(caught.value) == message


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is a file; it has to be a folder"):
        Settings.load({"LAB_HOME": str(tmp_path / "file")})


def test_other_terminals_find_the_ports_of_the_running_servers(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "servers.json").write_text(json.dumps({"LAB_PREFECT_PORT": 4300, "LAB_MLFLOW_PORT": 5300}))
    home = {"LAB_HOME": str(tmp_path)}
    assert Settings.load(home).prefect_port == 4300
    assert Settings.load(home | {"LAB_PREFECT_PORT": "4400"}).prefect_port == 4400


@pytest.mark.parametrize("text", ["", "{", "[]", '{"LAB_PREFECT_PORT": null}', '{"LAB_PREFECT_PORT": 1}'])
def test_a_file_of_ports_torn_by_a_power_cut_counts_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "servers.json").write_text(text)
    assert Settings.load({"LAB_HOME": str(tmp_path)}).prefect_port == 4200


@pytest.mark.parametrize(
    "more", [{}, {"LAB_PREFECT_API_URL": "https://there/api/", "LAB_MLFLOW_URI": "http://there:5000", "LAB_WORKERS": "7"}]
)
def test_another_process_in_another_folder_gets_the_same_settings(more: dict[str, str], tmp_path: Path) -> None:
    settings = Settings.load({"LAB_HOME": "here", "LAB_PREFECT_PORT": "4201", "LAB_DATA_MIRROR": "mirror"} | more, tmp_path)
    assert settings.data_mirror == str(tmp_path / "mirror")
    assert Settings.load(settings.lab_environment(), Path("/")) == settings


def test_prefect_gets_an_absolute_home_that_exists_and_the_right_server(tmp_path: Path) -> None:
    environment = Settings.load({"LAB_HOME": str(tmp_path / "lab"), "LAB_PREFECT_PORT": "4321"}).prefect_environment()
    assert Path(environment["PREFECT_HOME"]) == tmp_path / "lab" / "prefect"
    assert Path(environment["PREFECT_HOME"]).is_dir()
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert environment["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{tmp_path}/lab/prefect/prefect.db"
    assert environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4321,http://localhost:4321"
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "1"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"


def test_the_local_servers_are_never_asked_for_by_way_of_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet,localhost")
    settings = Settings.load({"LAB_HOME": str(tmp_path)})
    assert settings.mlflow_environment()["NO_PROXY"] == settings.prefect_environment()["no_proxy"] == "intranet,localhost,127.0.0.1"


def test_a_server_elsewhere_replaces_the_local_one(tmp_path: Path) -> None:
    settings = Settings.load({"LAB_HOME": str(tmp_path), "LAB_PREFECT_API_URL": "https://there/api", "LAB_MLFLOW_URI": "https://logs/"})
    assert settings.prefect_environment()["PREFECT_API_URL"] == "https://there/api"
    assert settings.prefect_ui == "https://there"
    assert settings.mlflow_environment()["MLFLOW_TRACKING_URI"] == "https://logs"
