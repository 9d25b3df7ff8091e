"""infra/: each file against its own schema, and what it promises: no default password, no root, GPUs asked for. No engine is needed."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.lab import access, notifications
from flows.lab.published import keeps_the_servers
from flows.lab.settings import Settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found = yaml.safe_load((INFRA / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def kubernetes() -> list[dict[str, Any]]:
    found = yaml.safe_load((INFRA / "kubernetes" / "lab.yaml").read_text())
    assert found["kind"] == "List"
    items = found["items"]
    assert isinstance(items, list)
    return items


def test_compose_is_as_its_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_has_every_part_with_its_health_and_its_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() >= {"postgres", "init-db", "prefect", "mlflow", "setup", "worker", "gpu-worker", "prometheus", "secrets"}
    for name in ("postgres", "prefect", "mlflow", "worker", "gpu-worker", "prometheus"):
        assert services[name]["healthcheck"]["test"], name
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, name
    assert services["prefect"]["depends_on"]["init-db"]["condition"] == "service_completed_successfully"
    [gpu] = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (gpu["driver"], gpu["count"], gpu["capabilities"]) == ("nvidia", "all", ["gpu"])
    named = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {volume for volume in named if not volume.startswith(".")} == set(compose["volumes"])


def test_every_secret_is_a_file_that_is_made_and_no_password_is_written_anywhere(compose: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, INFRA / "make_secrets.py", tmp_path / "secrets"], capture_output=True, text=True, check=True)
    assert done.stdout == "made credentials.json, client.json, postgres_password, prefect_password, reader_password, s3_credentials\n"
    made = {file.name: file for file in (tmp_path / "secrets").iterdir()}
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} == made.keys()
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.values()} == {0o600}
    everybody, client = (json.loads(made[name].read_text()) for name in ("credentials.json", "client.json"))
    assert client == {"prefect": everybody["prefect"], "mlflow": everybody["mlflow"]}
    assert made["prefect_password"].read_text() == everybody["prefect"]["password"]
    assert made["reader_password"].read_text() == everybody["reader"]["password"]
    before = made["postgres_password"].read_text()
    again = subprocess.run([sys.executable, INFRA / "make_secrets.py", tmp_path / "secrets"], capture_output=True, text=True, check=True)
    assert again.stdout == "made nothing: all are there\n"
    assert made["postgres_password"].read_text() == before

    for service in compose["services"].values():
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in compose["secrets"]
        for name, value in (service.get("environment") or {}).items():
            if "PASSWORD" in name or "CREDENTIALS" in name:
                assert value.startswith("/run/secrets/"), name
    assert compose["services"]["worker"]["secrets"][0] == {"source": "client", "target": "credentials"}, "workers are no administrators"
    assert "secrets" in (ROOT / ".gitignore").read_text()


def test_the_image_is_locked_and_runs_as_nobody_special() -> None:
    text = (INFRA / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    assert "--require-hashes --requirement requirements.lock" in stages[1]
    assert re.search(r"^USER lab$", stages[-1], re.MULTILINE)
    assert re.search(r"^ARG DEVICE=cpu$", text, re.MULTILINE)
    for copied in re.findall(r"^COPY (?!--from)(\S.*) \S+$", text, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source


def test_the_cpu_image_leaves_out_cuda_and_nothing_else() -> None:
    sys.path.insert(0, str(INFRA))
    try:
        from without_cuda import split
    finally:
        sys.path.remove(str(INFRA))
    lock = (ROOT / "requirements.lock").read_text()
    kept, torch = split(lock)
    names = {line.partition("==")[0].partition("[")[0] for line in lock.splitlines() if re.match(r"[a-z0-9][\w.\[\],-]*==", line)}
    left = {line.partition("==")[0].partition("[")[0] for line in kept.splitlines() if re.match(r"[a-z0-9][\w.\[\],-]*==", line)}
    gone = names - left
    assert {name for name in gone if not name.startswith(("nvidia-", "cuda-"))} == {"torch", "torchvision", "triton"}
    assert len(gone) > 15
    assert [each.partition("==")[0] for each in torch] == ["torch", "torchvision"]
    assert all(f"\n{each} " in lock for each in torch)
    assert kept.count("--hash=sha256:") > 1000


def test_kubernetes_objects_are_as_its_schemas_say(kubernetes: list[dict[str, Any]]) -> None:
    for item in kubernetes:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    kinds = [item["kind"] for item in kubernetes]
    assert {"Namespace", "StatefulSet", "Deployment", "Service", "PersistentVolumeClaim", "Job", "Role", "RoleBinding"} <= set(kinds)
    assert "Secret" not in kinds, "secrets are made from files, and are in no repository"
    for item in kubernetes:
        if item["kind"] in ("Deployment", "Job"):
            pod = item["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True, item["metadata"]["name"]
            mounts = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}
    services = {item["metadata"]["name"]: item["spec"]["selector"] for item in kubernetes if item["kind"] == "Service"}
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in kubernetes if item["kind"] in ("Deployment", "StatefulSet")]
    assert all(selector in pods for selector in services.values())


def test_the_work_pools_jobs_ask_for_a_gpu(kubernetes: list[dict[str, Any]]) -> None:
    template = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    defaults = {name: value.get("default") for name, value in template["variables"]["properties"].items()}
    filled = {**defaults, "env": [{"name": "LAB_CREDENTIALS", "value": "/secrets/client.json"}], "command": None}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [fill(each) for each in value]
        if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
            return filled[whole[1]]
        return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(filled[found[1]]), value) if isinstance(value, str) else value

    job = fill(template["job_configuration"]["job_manifest"])
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["securityContext"]["runAsNonRoot"] is True
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    assert claims <= {item["metadata"]["name"] for item in kubernetes if item["kind"] == "PersistentVolumeClaim"}


def test_prometheus_asks_the_servers_that_compose_has_with_a_password_from_a_file(compose: dict[str, Any]) -> None:
    found = yaml.safe_load((INFRA / "prometheus.yml").read_text())
    assert {(job["metrics_path"], *job["static_configs"][0]["targets"]) for job in found["scrape_configs"]} == {
        ("/api/metrics", "prefect:4200"),
        ("/metrics", "mlflow:5000"),
    }
    assert compose["services"].keys() >= {"prefect", "mlflow"}
    read = {f"/run/secrets/{name}" for name in compose["services"]["prometheus"]["secrets"]}
    assert {job["basic_auth"]["password_file"] for job in found["scrape_configs"]} == read
    assert [job["basic_auth"]["username"] for job in found["scrape_configs"]] == ["lab", "reader"]


def test_scripts_can_be_run_and_read() -> None:
    for name in ("backup", "restore"):
        assert os.access(INFRA / name, os.X_OK), name
        subprocess.run(["bash", "-n", INFRA / name], check=True)


def test_the_example_of_notifications_is_right(tmp_path: Path) -> None:
    found = notifications.read(Settings(tmp_path, notifications_file=INFRA / "config" / "notifications.example.yaml"))
    assert {line["when"] for line in found["notify"]} == {"run failed", "sweep done", "sweep failed"}


def test_only_where_the_servers_are_kept_are_their_limits_and_notifications_set(tmp_path: Path) -> None:
    here, worker = Settings(tmp_path / "a"), Settings(tmp_path / "b", remote_prefect="http://prefect:4200/api")
    assert [keeps_the_servers(each) for each in (here, worker)] == [True, False]
    access.make(tmp_path / "all.json")
    access.export(access.required(tmp_path / "all.json"), "editor", tmp_path / "client.json")
    for file, keeps in (("all.json", True), ("client.json", False)):
        settings = Settings(tmp_path, remote_prefect="http://prefect:4200/api", credentials_file=tmp_path / file)
        assert keeps_the_servers(settings) is keeps
