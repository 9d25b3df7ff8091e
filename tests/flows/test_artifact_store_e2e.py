"""Artifacts in an S3-compatible store: people's machines go through the MLflow server, which alone has the store's keys and endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import _free_ports, _new_lab
from lab_command import LAB
from lab_processes import wait_for
from PIL import Image
from trainings import environment

from flows.lab import access, health
from flows.lab.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODEL = "registry:digits-classification@champion"
SEVEN = np.pad(np.array([[255] * 4, [0, 0, 0, 255], [0, 0, 255, 0], [0, 255, 0, 0]], dtype=np.uint8), 2)
KEYS = {"aws_access_key_id": "lab", "aws_secret_access_key": "s3cret-key"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file of credentials as `infra/make_secrets.py` leaves it to be filled in, and the address of the store that it leads to."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = tmp_path / "s3_credentials"
    lines = "\n".join(f"{name} = {value}" for name, value in {**KEYS, "endpoint_url": f"http://{host}:{port}"}.items())
    keys.write_text(f"[default]\n{lines}\n")
    yield keys, f"http://{host}:{port}"
    server.stop()


def test_a_model_goes_into_the_store_and_comes_out_on_another_machine(store: tuple[Path, str], digits: Path, tmp_path: Path) -> None:
    import boto3

    keys, endpoint = store
    bucket = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS).create_bucket(Bucket="lab")
    [port] = _free_ports(1)
    here = Settings(tmp_path / "server", mlflow_port=port, host="0.0.0.0", public_hosts=("127.0.0.1",), artifact_store="s3://lab/artifacts")
    access.make(here.credentials)
    client = tmp_path / "client.json"
    access.export(access.required(here.credentials), "editor", client)
    log = tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.lab.launch", "mlflow"],
            env=environment(here) | {"AWS_SHARED_CREDENTIALS_FILE": str(keys)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: health.healthy(f"http://127.0.0.1:{port}/health"), 120)
        health.make_mlflow_users(replace(here, host="127.0.0.1"))
        trained = _machine(tmp_path / "one", digits, port, client)
        run = _lab(trained, "train", "experiment=mlp_digits", "trainer.epochs=1")["run"]
        stored = {item.key.removeprefix("artifacts/") for item in bucket.objects.all()}
        assert any(name.endswith("model.safetensors") for name in stored), stored
        other = _machine(tmp_path / "two", digits, port, client)
        picture = tmp_path / "seven.png"
        Image.fromarray(SEVEN).save(picture)
        answers = [_lab(machine, "predict", model, str(picture)) for machine, model in ((trained, run), (other, MODEL))]
        assert answers[0]["predictions"] == answers[1]["predictions"]
        unknown = _lab(other, "predict", "registry:digits-clasification", str(picture), code=2)
        assert unknown["error"] == "there is no registered model digits-clasification@champion; registered are digits-classification"
        assert not [
            file for home in (trained.home, other.home) for file in home.rglob("*") if file.is_file() and b"s3cret-key" in file.read_bytes()
        ]
    finally:
        server.terminate()
        server.wait(60)
        sys.stdout.write(log.read_text())
    assert "s3cret-key" not in log.read_text()


def _machine(home: Path, digits: Path, port: int, client: Path) -> Settings:
    return replace(_new_lab(home, digits), remote_mlflow=f"http://127.0.0.1:{port}", credentials_file=client)


def _lab(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What `lab … --json` answers without the store's keys."""
    assert "AWS_SHARED_CREDENTIALS_FILE" not in os.environ
    done = subprocess.run([LAB, *arguments, "--json"], env=environment(settings), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]
