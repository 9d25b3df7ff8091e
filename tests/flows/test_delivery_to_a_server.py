"""A real MLflow server that dies in the middle of a delivery and comes back: every point once, the model and its version there."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from run_folders import begin, model_folder, picture, result, train

from flows.records.courier import Courier, deliver_pending
from flows.records.journal import Journal
from flows.records.registry import resolve
from flows.records.tracking import tracking_client

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    # MLflow silences this warning of its own while it is imported, but not where warnings are errors.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

STEPS = 20_000


class Server:
    """An MLflow server over a database file, on one port, that can be killed and started again."""

    def __init__(self, home: Path, *, proxied: bool) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        place = ["--artifacts-destination", str(home / "artifacts")]
        if not proxied:
            place = ["--no-serve-artifacts", "--default-artifact-root", (home / "artifacts").as_uri()]
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", *place]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, env=self._environment, stdout=quiet, stderr=quiet, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("the MLflow server did not come up in 90 s")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(params=[False, True], ids=["files", "proxied"])
def server(request: pytest.FixtureRequest, mlflow_uri: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, proxied=request.param)
    server.start()
    yield server
    server.kill()


def history(client: MlflowClient, run: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run, name))


def test_a_server_that_dies_while_it_is_delivered_to(server: Server, run_folder: Path) -> None:
    heard: list[str | None] = []
    courier = Courier(run_folder, tracking_uri=server.uri, experiment="tests", on_trouble=heard.append)
    courier.start()
    with Journal(run_folder) as journal:
        begin(journal)
        train(journal, 1, STEPS)
        journal.figure("curves", picture(), step=STEPS)
        result(journal, step=STEPS)
    model_folder(run_folder)
    deadline = time.monotonic() + 60
    while courier.receipt().mlflow_run_id is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.5)  # some batches are there
    server.kill()
    receipt = courier.finish("FINISHED", timeout=4)
    assert not receipt.complete
    assert receipt.mlflow_run_id is not None
    assert receipt.trouble is not None
    assert heard[0] is not None
    courier._thread.join(40)
    assert not courier._thread.is_alive()

    server.start()
    client = tracking_client(server.uri)
    arrived = len(client.get_metric_history(receipt.mlflow_run_id, "train/loss"))
    assert 0 < arrived < STEPS
    later = deliver_pending(run_folder.parent, server.uri, experiment="tests")[run_folder.name]
    assert later.complete, later.trouble
    assert later.mlflow_run_id == receipt.mlflow_run_id
    assert later.url == f"{server.uri}/#/experiments/{later.experiment_id}/runs/{later.mlflow_run_id}?workflowType=machine_learning"
    run = client.get_run(receipt.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert history(client, run.info.run_id, "train/loss") == [(step, 1 / step) for step in range(1, STEPS + 1)]
    assert history(client, run.info.run_id, "epoch") == [(step, step / 10) for step in range(1, STEPS + 1)]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/curves.png"]
    assert later.version == {"name": "digits-classification", "version": "1", "aliases": ("champion", "best-mlp")}
    assert client.get_logged_model(str(later.model_id)).status == "READY"
    folder = resolve("registry:digits-classification@champion", server.uri, home=run_folder.parent.parent)
    assert (folder / "model.safetensors").read_bytes() == (run_folder / "model/model.safetensors").read_bytes()


def test_values_that_are_not_finite_and_replayed_points_over_http(server: Server, run_folder: Path) -> None:
    with Journal(run_folder) as journal:
        begin(journal)
        journal.metrics({"a": float("nan"), "b": float("inf"), "c": 1e-300}, step=1, epoch=0.1)
    first = deliver_pending(run_folder.parent, server.uri, experiment="tests")[run_folder.name]
    assert first.complete, first.trouble
    (run_folder / "delivery.json").unlink()
    again = deliver_pending(run_folder.parent, server.uri, experiment="tests")[run_folder.name]
    assert again == first
    client = tracking_client(server.uri)
    values = {name: [point.value for point in client.get_metric_history(str(first.mlflow_run_id), name)] for name in "abc"}
    assert len(values["a"]) == 1
    assert values["a"][0] != values["a"][0]
    assert values["b"][0] > 1e308
    assert values["c"] == [1e-300]
