"""The commands of `infra/README.md` that lead to a team's server, played without an engine: see `containers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgresql
import pytest
import yaml
from containers import ROOT, Engine, engine
from lab_command import LAB
from machines import refused
from trainings import environment

from flows.lab.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), *postgresql.needs_postgresql]

UID = "1000"
PUBLIC = {"LAB_PUBLIC_PREFECT_URL": "https://lab.example.org", "LAB_PUBLIC_MLFLOW_URL": "https://logs.example.org"}


def cannot() -> str:
    """Why it can not be played here; empty where it can."""
    if os.geteuid() != 0:
        return "only root can give a process files and a network of its own"
    if reason := refused():
        return reason
    overlay = "overlay" in Path("/proc/filesystems").read_text()
    return "" if overlay else "this kernel has no overlay file system"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if reason := cannot():
        pytest.skip(reason)
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    lines = [line for line in (ROOT / "infra/example.env").read_text().splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines)
    del variables["LAB_PUBLIC_HOSTS"]  # the names of these machines
    folder = tmp_path_factory.mktemp("infra")
    (folder / "config").mkdir()
    with engine(compose, folder, variables | PUBLIC | {"LAB_UID": UID}) as playing:
        said = playing.run("secrets")
        assert said.startswith("made credentials.json, client.json, postgres_password"), said
        playing.up("worker")
        yield playing


def test_everything_comes_up_and_a_person_elsewhere_trains(team: Engine, digits: Path, tmp_path: Path) -> None:
    client = json.loads((team.folder / "secrets/client.json").read_text())
    (tmp_path / "client.json").write_text(json.dumps(client))
    own = Settings(
        tmp_path / "home",
        remote_prefect=f"http://{team.machines['prefect'].address}:4200/api",
        remote_mlflow=f"http://{team.machines['mlflow'].address}:5000",
        credentials_file=tmp_path / "client.json",
    )

    def lab(*words: str, code: int = 0) -> dict[str, Any]:
        command = team.machines["person"].command(str(LAB), *words, "--json")
        done = subprocess.run(command, env=environment(own), cwd="/", capture_output=True, text=True, check=False, timeout=600)
        sys.stdout.write(f"$ lab {' '.join(words)}\n{done.stderr}{done.stdout}")
        assert done.returncode == code, done.stderr
        return dict(json.loads(done.stdout))

    run = lab("train", "experiment=mlp_digits", "trainer.epochs=1", "--queue", "--watch")
    assert run["url"].startswith(f"{PUBLIC['LAB_PUBLIC_MLFLOW_URL']}/#/experiments/"), "and not to a container's name"
    kept = [file for file in (team.folder / "volumes/artifacts").rglob("model.safetensors") if file.stat().st_size]
    assert kept, "the model is in the server's volume"

    own_run = lab("train", "experiment=mlp_digits", "trainer.epochs=1", "seed=1")["run"]
    elsewhere = set((team.folder / "volumes/artifacts").rglob("model.safetensors")) - set(kept)
    assert elsewhere, f"what a person's own machine trained ({own_run}) is there as well"


def test_a_backup_is_one_command_and_comes_back(team: Engine) -> None:
    said = team.run("backup").splitlines()[-1]
    [saved] = (team.folder / "backups").iterdir()
    assert said == f"/backups/{saved.name}"
    assert sorted(file.name for file in saved.iterdir()) == [".dump", "SHA256SUMS", "_mlflow.dump", "_prefect.dump"]
    team.services["backup"] = again = team.make("backup", f"infra/restore /backups/{saved.name}".split())
    again.start()
    assert again.process is not None
    assert again.process.wait(120) == 1
    assert "the database lab exists already; nothing was changed" in again.log.read_text()


def test_what_prometheus_is_told_to_ask_answers(team: Engine) -> None:
    found = yaml.safe_load((ROOT / "infra/prometheus.yml").read_text())
    for job in found["scrape_configs"]:
        [target] = job["static_configs"][0]["targets"]
        login = job["basic_auth"]
        password = (team.folder / "secrets" / Path(login["password_file"]).name).read_text()
        asked = (
            "import sys, base64, urllib.request as u;"
            "r = u.Request(sys.argv[1], headers={'Authorization': 'Basic ' + base64.b64encode(sys.argv[2].encode()).decode()});"
            "print(u.urlopen(r, timeout=30).read().decode())"
        )
        address = f"http://{target}{job['metrics_path']}"
        done = team.services["worker"].enter(["python", "-c", asked, address, f"{login['username']}:{password}"])
        assert done.returncode == 0, done.stderr
        assert "# TYPE" in done.stdout


def test_no_service_is_root_and_none_can_write_to_its_image(team: Engine) -> None:
    for name in ("prefect", "mlflow", "worker"):
        done = team.services[name].enter(
            ["sh", "-c", "id -u; grep CapEff /proc/self/status; touch /opt/lecture-lab/x 2>/dev/null; ls -ld /lab"]
        )
        assert done.stdout.split()[:3] == [UID, "CapEff:", "0000000000000000"], done.stdout
    assert not (ROOT / "x").exists()
