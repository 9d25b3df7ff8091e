"""Settings: defaults, what each variable accepts, and that another process gets the same ones."""

import json
from pathlib import Path

import pytest

from components.errors import RequestError
from flows.lab import postgres
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
        (
            {"LAB_MLFLOW_URI": "http://me:secret@x"},
            "LAB_MLFLOW_URI has a user or password in it, which everybody would see; keep those in the file LAB_CREDENTIALS",
        ),
        (
            {"LAB_DATABASE_URL": "mysql://me:secret@x/lab"},
            "LAB_DATABASE_URL begins with 'mysql:'; it has to be postgresql+psycopg://user@host/database",
        ),
        (
            {"LAB_DATABASE_URL": "postgresql+psycopg://me:secret@x"},
            "LAB_DATABASE_URL names no database; it has to be postgresql+psycopg://user@host/database",
        ),
        ({"LAB_QUOTA_GB": "lots"}, "LAB_QUOTA_GB is 'lots'; it has to be a number of gigabytes, such as 50 or 0.5"),
        (
            {"LAB_PUBLIC_HOSTS": "a.org, http://b"},
            "LAB_PUBLIC_HOSTS has 'http://b' in it; it has to be host names with commas between them, without http:// and port",
        ),
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
    "more",
    [
        {},
        {"LAB_PREFECT_API_URL": "https://there/api/", "LAB_MLFLOW_URI": "http://there:5000", "LAB_WORKERS": "7"},
        {"LAB_DATABASE_URL": "postgresql+psycopg://lab@db/lab", "LAB_DATABASE_PASSWORD_FILE": "secret", "LAB_ARTIFACTS": "shared"},
        {"LAB_HOST": "0.0.0.0", "LAB_PUBLIC_HOSTS": "lab.example.org,lab", "LAB_CREDENTIALS": "keys.json", "LAB_ARTIFACTS": "s3://b/lab"},
        {"LAB_QUOTA_GB": "0.5", "LAB_GPU_SLOTS": "0", "LAB_RUNS_PER_USER": "3", "LAB_NOTIFICATIONS": "tell.yaml"},
    ],
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
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "1"
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


def test_one_database_address_makes_a_database_for_each_store(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss:w/rd%41\n")
    given = {"LAB_DATABASE_URL": "postgresql+psycopg://lab@db:5433/my?sslmode=require", "LAB_DATABASE_PASSWORD_FILE": "secret"}
    settings = Settings.load(given, tmp_path)
    place = "lab:p%40ss%3Aw%2Frd%2541@db:5433"
    assert settings.lab_store == settings.optuna_store == f"postgresql+psycopg://{place}/my?sslmode=require"
    assert settings.mlflow_store == f"postgresql+psycopg://{place}/my_mlflow?sslmode=require"
    assert settings.prefect_store == f"postgresql+asyncpg://{place}/my_prefect?ssl=require"


def test_a_password_is_shown_by_nothing(tmp_path: Path) -> None:
    settings = Settings.load({"LAB_DATABASE_URL": "postgresql+psycopg://lab:secret@db/lab"}, tmp_path)
    assert "secret" not in repr(settings)
    assert postgres.redacted(f"cannot reach {settings.lab_store}!") == "cannot reach postgresql+psycopg://lab:…@db/lab!"
    (tmp_path / "file").mkdir()
    with pytest.raises(RequestError, match=r"LAB_DATABASE_PASSWORD_FILE /.*/file cannot be read: Is a directory"):
        _ = Settings.load({"LAB_DATABASE_URL": "postgresql+psycopg://lab@db/lab", "LAB_DATABASE_PASSWORD_FILE": "file"}, tmp_path).lab_store


def test_artifacts_go_where_they_are_sent_unless_clients_come_from_elsewhere(tmp_path: Path) -> None:
    def root(**values: str) -> str | None:
        return Settings.load({f"LAB_{name}": value for name, value in values.items()} | {"LAB_HOME": "here"}, tmp_path).artifact_root

    assert root() == f"file://{tmp_path}/here/artifacts"
    assert root(ARTIFACTS="shared") == f"file://{tmp_path}/shared"
    assert root(ARTIFACTS="s3://bucket/lab/") == "s3://bucket/lab"
    assert root(HOST="0.0.0.0", ARTIFACTS="shared") is None, "they go through the server"
    assert root(MLFLOW_URI="https://logs") is None


def test_links_lead_to_what_people_can_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.records.tracking import run_page

    inside = {"LAB_PREFECT_API_URL": "http://prefect:4200/api", "LAB_MLFLOW_URI": "http://mlflow:5000", "LAB_HOME": str(tmp_path)}
    public = {"LAB_PUBLIC_PREFECT_URL": "https://lab.example.org/", "LAB_PUBLIC_MLFLOW_URL": "https://logs.example.org"}
    settings = Settings.load(inside | public, tmp_path)
    assert (settings.prefect_ui, settings.prefect_api) == ("https://lab.example.org", "http://prefect:4200/api")
    assert (settings.mlflow_ui, settings.mlflow_uri) == ("https://logs.example.org", "http://mlflow:5000")
    assert settings.lab_environment() | inside == settings.lab_environment()
    for name, value in {**inside, **public}.items():
        monkeypatch.setenv(name, value)
    assert run_page("http://mlflow:5000", "1", "r").startswith("https://logs.example.org/#/experiments/1/runs/r")
    assert run_page("http://other:5000/", "1", "r").startswith("http://other:5000/#/")


def test_servers_on_every_address_are_reached_by_loopback_here_and_by_name_elsewhere(tmp_path: Path) -> None:
    settings = Settings.load({"LAB_HOST": "0.0.0.0", "LAB_PUBLIC_HOSTS": "lab.example.org"}, tmp_path)
    assert settings.prefect_api == "http://127.0.0.1:4200/api"
    assert settings.prefect_ui == "http://lab.example.org:4200"
    assert settings.mlflow_ui == "http://lab.example.org:5000"
    assert Settings.load({"LAB_HOST": "10.0.0.5"}, tmp_path).mlflow_uri == "http://10.0.0.5:5000"
    assert [Settings.load({"LAB_HOST": host}, tmp_path).beyond_loopback for host in ("", "localhost", "0.0.0.0", "10.0.0.5")] == [
        False,
        False,
        True,
        True,
    ]
