"""From one machine to a team, with real servers: a SQLite lab is copied to PostgreSQL, comes up with logins, and tells a webhook."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import postgresql
import psutil
import pytest
from lab_command import LAB
from lab_processes import wait_for
from trainings import environment

from flows import runs
from flows.lab import access, health, postgres, processes, servers
from flows.lab.settings import Settings
from flows.records.store import Store
from flows.reproduction import recorded
from flows.search import storage
from flows.search.plan import Plan
from flows.search.results import Objective, Range
from flows.search.space import Parameter, Space
from flows.search.study import Sweep

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), *postgresql.needs_postgresql]

TRAINING = ("experiment=mlp_digits", "trainer.epochs=1")


def lab(settings: Settings, *arguments: str, code: int = 0) -> Any:
    """What `lab … --json` answers, as a process of its own."""
    command = [LAB, *arguments, "--json"]
    done = subprocess.run(command, env=environment(settings), cwd="/", capture_output=True, text=True, check=False, timeout=900)
    sys.stdout.write(f"$ lab {' '.join(arguments)}\n{done.stderr}{done.stdout}")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Settings:
    """A SQLite lab that has been used, and is stopped: a trained run, a study, a schedule."""
    from conftest import _new_lab

    settings = _new_lab(tmp_path_factory.mktemp("team") / "lab", digits)
    try:
        servers.up(settings, lambda line: sys.stdout.write(f"{line}\n"), timeout=600)
        lab(settings, "train", *TRAINING)
        lab(settings, "schedule", "train", *TRAINING, "--cron", "0 2 * * *", "--timezone", "Asia/Seoul", "--name", "nightly")
    finally:
        servers.down(settings, lambda _line: None)
    rate = Parameter("optimizer.learning_rate", range=Range(0.001, 1.0, log=True), place=("space", "optimizer.learning_rate"))
    plan, objectives = Plan(name="mine", space={"x": 1}, sampler="random", trials=2), [Objective("validation/accuracy", "max")]
    sweep = Sweep.create(settings, "two", overrides=[], plan=plan, space=Space((rate,)), objectives=objectives, seed=0)
    while (taken := sweep.take("here:1:1.00")) is not None:
        sweep.complete((taken, {"seconds": 0.1, "samples": 1}, [taken.chosen["optimizer.learning_rate"]]))
    return settings


@pytest.fixture(scope="module")
def team(local: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, list[dict[str, Any]], dict[str, int]]]:
    """The same lab in PostgreSQL and running; what a webhook of it was told; what `lab migrate` has copied."""
    folder, told = tmp_path_factory.mktemp("server"), list[dict[str, Any]]()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"token": self.headers["X-Token"]})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    secret = folder / "secret"
    secret.write_text(postgresql.PASSWORD)
    with postgresql.server() as port, ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05}).start()
        url = f"postgresql+psycopg://lab@127.0.0.1:{port}/team"
        shared = replace(local, database=url, password_file=secret, artifact_store=str(folder / "artifacts"), runs_per_user=1)
        hook = {"url": f"http://127.0.0.1:{receiver.server_port}/hook", "headers": {"X-Token": "t0ken"}}
        notify = [{"when": when, "webhook": "chat"} for when in ("run done", "run failed", "sweep done")]
        shared.notifications.write_text(json.dumps({"webhooks": {"chat": hook}, "notify": notify}))
        try:
            copied = lab(shared, "migrate")["copied"]
            lab(shared, "up", "--detach", "--team", "--timeout", "600")
            yield shared, told, copied
        finally:
            servers.down(shared, lambda _line: None)
            receiver.shutdown()
            assert processes.marked(shared.home) == []


def ask(address: str, login: access.Login | None, body: Any = None, **headers: str) -> int:
    """The status code of an answer."""
    given = {"Content-Type": "application/json", **(login.header() if login else {}), **headers}
    request = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), given)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_everything_is_still_there(local: Settings, team: tuple[Settings, Any, dict[str, int]]) -> None:
    shared, _, copied = team
    assert copied["schedules"] == copied["studies"] == copied["registered model versions"] == copied["MLflow runs"] == 1
    assert copied["flow runs"] >= 1
    assert copied["trials"] == 2
    with closing(sqlite3.connect(local.mlflow_database)) as before:
        assert copied["metric values"] == before.execute("SELECT count(*) FROM metrics").fetchone()[0] > 0
    [schedule] = lab(shared, "schedule", "list")["schedules"]
    assert (schedule["name"], schedule["deployment"]) == ("nightly", "train")
    [trained] = [folder.name for folder in local.runs.iterdir()]
    for name in ("validation", "test"):
        with Store(local.lab_store) as before, Store(shared.lab_store) as after:
            for series, values in before.outcomes(trained, name).items():
                assert (after.outcomes(trained, name)[series] == values).all()
    results = [[(trial.params, trial.values) for trial in Sweep.load(each, "two").results().trials] for each in (local, shared)]
    assert results[0] == results[1]
    assert len(results[0]) == 2
    assert recorded(trained, shared).config == runs.config(local.runs / trained), "read from where the artifacts are now"
    assert "the lab is running" in lab(shared, "migrate", code=2)["error"]
    storage.storage(shared).engine.dispose()


def test_making_the_tables_again_changes_nothing(team: tuple[Settings, Any, Any]) -> None:
    shared, _, _ = team

    def tables() -> list[Any]:
        query = (
            "SELECT relname, relnatts, relhasindex FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        found: list[Any] = []
        for part in postgres.PARTS:
            with postgres.connect(postgres.address(str(shared.database), part, shared.password_file)) as connection:
                found.append((connection.execute(query).fetchall(), connection.execute("SELECT * FROM alembic_version").fetchall()))
        return found

    before = tables()
    assert all(len(each) > 15 and len(version) == 1 for each, version in before)
    assert lab(shared, "init-db") == {"ready": True}
    assert tables() == before


PREFECT_PATHS = (
    "version",
    "metrics",
    "flow_runs/filter",
    "deployments/filter",
    "block_documents/filter",
    "variables/filter",
    "admin/settings",
)
MLFLOW_PATHS = (
    "version",
    "",
    "ajax-api/2.0/mlflow/experiments/search?max_results=1",
    "get-artifact?path=x&run_uuid=y",
    "graphql",
    "metrics",
    "signup",
)


def test_on_every_port_nobody_comes_in_without_the_right_credentials(team: tuple[Settings, Any, Any]) -> None:
    shared, _, _ = team
    login = access.required(shared.credentials)
    assert login.reader is not None
    assert login.admin is not None
    wrong = access.Login(login.prefect.user, "wrong"), access.Login("somebody", login.prefect.password), login.mlflow
    for path in PREFECT_PATHS:
        address, body = f"{shared.prefect_api}/{path}", {} if path.endswith("filter") else None
        assert [ask(address, each, body) for each in (None, *wrong)] == [401] * 4, path
        assert ask(address, login.prefect, body) == 200, path
    experiments = "api/2.0/mlflow/experiments/search?max_results=1"
    bad = access.Login("editor", "wrong"), access.Login("admin", "password1234"), login.prefect
    for path in (*MLFLOW_PATHS, experiments):
        assert [ask(f"{shared.mlflow_uri}/{path}", each) for each in (None, *bad)] == [401] * 4, path
    for each in (login.mlflow, login.reader, login.admin):
        assert ask(f"{shared.mlflow_uri}/{experiments}", each) == 200
    counted = urllib.request.Request(f"{shared.mlflow_uri}/metrics", headers=login.reader.header())
    with urllib.request.urlopen(counted, timeout=30) as answer:
        assert b"mlflow_http_request_total{" in answer.read(), "what Prometheus reads with the reader's password"
    assert [ask(f"{shared.prefect_api}/health", None), ask(f"{shared.mlflow_uri}/health", None)] == [200, 200], (
        "whether they live is no secret"
    )

    listening = {
        connection.laddr
        for process in processes.marked(shared.home)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {place.ip for place in listening} == {"127.0.0.1"}
    others = {place.port for place in listening} - {shared.prefect_port, shared.mlflow_port}
    for port in others:  # Prefect's worker listens to its own flow runs, each of which has a word of its own to say
        with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
            stranger.sendall(b"not-the-word\n")
            assert stranger.recv(1) == b"", port


def test_sockets_ask_who_it_is(team: tuple[Settings, Any, Any]) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    shared, _, _ = team
    login = access.required(shared.credentials)
    for path in ("events/in", "events/out", "logs/out"):
        address = f"{shared.prefect_api.replace('http', 'ws', 1)}/{path}"
        for token, answered in ((login.prefect.string, True), ("lab:wrong", False), (None, False)):
            with connect(address, subprotocols=["prefect"], proxy=None) as connection:  # type: ignore[list-item]
                connection.send(json.dumps({"type": "auth", "token": token}))
                try:
                    assert json.loads(connection.recv(timeout=20))["type"] == "auth_success"
                    assert answered, (path, token)
                except ConnectionClosed:
                    assert not answered, (path, token)


def test_a_reader_looks_and_an_editor_writes(team: tuple[Settings, Any, Any]) -> None:
    shared, _, _ = team
    login = access.required(shared.credentials)
    assert login.reader is not None
    api = f"{shared.mlflow_uri}/api/2.0/mlflow"
    changes = {
        "runs/create": {"experiment_id": "0"},
        "experiments/set-experiment-tag": {"experiment_id": "0", "key": "a", "value": "b"},
        "experiments/create": {"name": "somebody's"},
        "registered-models/create": {"name": "somebody's"},
        "registered-models/set-tag": {"name": "digits-classification", "key": "a", "value": "b"},
    }
    for path, body in changes.items():
        assert ask(f"{api}/{path}", login.reader, body) == 403, path
        assert ask(f"{api}/{path}", login.mlflow, body) == 200, path
    for who in (login.reader, login.mlflow):
        assert ask(f"{api}/users/create", who, {"username": "x", "password": "a-long-password"}) == 403
    assert ask(f"{api}/experiments/create", login.mlflow, {"name": "x"}, Origin="http://evil.example.org") == 403
    assert ask(f"{api}/experiments/search?max_results=1", login.mlflow, Host="evil.example.org") == 403
    assert ask(f"{shared.prefect_api}/version", login.prefect, Host="evil.example.org") == 400
    request = urllib.request.Request(
        f"{shared.prefect_api}/version", headers={"Origin": "http://evil.example.org", **login.prefect.header()}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] is None


def test_a_run_signs_in_everywhere_is_told_of_and_shows_no_secret(team: tuple[Settings, list[dict[str, Any]], Any]) -> None:
    shared, told, _ = team
    there = len(told)
    found = lab(shared, "train", *TRAINING, "seed=5", "--queue", "--watch")
    assert found["mlflow_run_id"]
    assert found["url"].startswith(shared.mlflow_uri)
    wait_for(lambda: len(told) > there, seconds=60)
    sent = told[-1]
    assert (sent["when"], sent["state"], sent["token"]) == ("run done", "Completed", "t0ken")
    assert sent["url"] == found["page"]

    failed = lab(shared, "train", *TRAINING, "optimizer=gradient_descent", "optimizer.learning_rate=1e30", "--queue", "--watch", code=1)
    assert failed["error"]
    wait_for(lambda: [each for each in told if each["when"] == "run failed"], seconds=60)

    two = ("search=initializers", "search.space.initializer=[xavier,he_normal]", "search.seeds=1")
    swept = lab(shared, "sweep", *TRAINING, *two, "--queue", "--watch")
    wait_for(lambda: [each for each in told if each["when"] == "sweep done"], seconds=60)
    assert [each["url"] for each in told if each["when"] == "sweep done"] == [swept["page"]]

    login = access.required(shared.credentials)
    assert login.admin is not None
    passwords = [login.prefect.password, login.mlflow.password, login.admin.password, postgresql.PASSWORD, "p%40ss", "t0ken"]
    commands = [" ".join(process.cmdline()) for process in processes.marked(shared.home)]
    texts = {"a command line": "\n".join(commands), "the deployments": json.dumps(health.ask(shared, "/deployments/filter", {}))}
    texts["the flow runs"] = json.dumps(health.ask(shared, "/flow_runs/filter", {}))
    texts["the automations"] = json.dumps(health.ask(shared, "/automations/filter", {}))
    texts |= {str(file): file.read_text(errors="replace") for file in shared.logs.iterdir()}
    texts |= {str(file): file.read_text(errors="replace") for file in shared.runs.rglob("*.json*")}
    assert len(texts) > 8
    for where, text in texts.items():
        assert not [password for password in passwords if password in text], where
    for file in (shared.credentials, shared.run / "mlflow-access.ini"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_wrong_credentials_are_one_line(team: tuple[Settings, Any, Any], tmp_path: Path) -> None:
    shared, _, _ = team
    (tmp_path / "wrong.json").write_text(json.dumps({key: {"user": "lab", "password": "not-it"} for key in ("prefect", "mlflow")}))
    error = lab(replace(shared, credentials_file=tmp_path / "wrong.json"), "schedule", "list", code=2)["error"]
    assert re.fullmatch(
        r"the Prefect server at \S+ asks for credentials, and those in \S+/wrong\.json are not right \(LAB_CREDENTIALS names the file\)",
        error,
    )
