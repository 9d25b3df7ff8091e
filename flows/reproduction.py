"""Running a recorded run again: its configuration from MLflow, what is different here, and whether the numbers are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import RequestError
from flows import runs
from flows.lab.settings import Settings
from flows.records import reproducible, translate
from flows.records.tracking import tracking_client, tracking_uri


@dataclass(frozen=True)
class Recorded:
    """A run as MLflow recorded it.

    Attributes:
        run: its name.
        config: its resolved configuration.
        metrics: its final metrics (`validation/accuracy` …).
        weights_sha256: hash of its best weights.
        differences: what is different here from where it ran, in words.
    """

    run: str
    config: dict[str, Any]
    metrics: dict[str, float]
    weights_sha256: str
    differences: list[str]


def recorded(run: str, settings: Settings) -> Recorded:
    """The run called `run` (an MLflow run id, or anything flows/runs.py understands), as MLflow recorded it.

    Raises:
        RequestError: MLflow has no such finished run.
    """
    from mlflow.exceptions import MlflowException

    identity = run if len(run) == 32 else runs.mlflow_run_id(runs.find(run, settings))  # MLflow's ids have 32 hex digits
    if identity is None:
        raise RequestError(f"{run} has not been delivered to MLflow yet: lab up delivers it")
    uri = tracking_uri(settings)
    client = tracking_client(uri)
    try:
        found = client.get_run(identity)
        config = json.loads(found.data.tags.get(translate.CONFIG) or open_text(client, identity, "config.json"))
    except (MlflowException, OSError, ValueError) as error:
        raise RequestError(f"MLflow has no finished run {run!r} with a configuration ({uri})") from error
    tags = found.data.tags
    if "lab.weights_sha256" not in tags:
        raise RequestError(f"{run} did not finish: there is nothing to compare with")
    metrics = {name.removeprefix("summary/"): value for name, value in found.data.metrics.items() if name.startswith("summary/")}
    return Recorded(tags["lab.run"], config, metrics, tags["lab.weights_sha256"], list(_differences(tags)))


def open_text(client: Any, run_id: str, path: str) -> str:
    """A small text artifact of an MLflow run."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")


def _differences(tags: Mapping[str, str]) -> Iterator[str]:
    here = reproducible.environment()
    code = here["code"]
    then = tags.get("mlflow.source.git.commit")
    if then and code.get("commit") and then != code["commit"]:
        yield f"the code was at commit {then[:10]}, here it is at {code['commit'][:10]}"
    if tags.get("lab.code.dirty") == "true":
        yield "the code had changes that were not committed"
    if code.get("dirty"):
        yield "the code here has changes that are not committed"
    if tags.get("lab.together") == "true":
        yield (
            "it was trained in a stack with other trials, here it is alone: sums are rounded in another order, and where there is dropout "
            "other units are dropped"
        )
    for package, version in here["versions"].items():
        before = tags.get(f"lab.version.{package}")
        if before and before != version:
            yield f"{package} was {before}, here it is {version}"
    for key, value in here["machine"].items():
        before = tags.get(f"lab.{key}")
        if before and before != str(value):
            yield f"{key} was {before}, here it is {value}"


def compare(original: Recorded, again: Mapping[str, Any]) -> tuple[list[list[str]], bool]:
    """Rows (name, recorded, again, identical?) of all recorded final metrics and the weights' hash, and whether all are identical."""
    rows = []
    for name in sorted(original.metrics):
        before, after = original.metrics.get(name), again["metrics"].get(name)
        rows.append([name, _number(before), _number(after), "yes" if before == after else "no"])
    same_weights = original.weights_sha256 == again["weights_sha256"]
    rows.append(["weights", original.weights_sha256[:12], again["weights_sha256"][:12], "yes" if same_weights else "no"])
    return rows, all(row[-1] == "yes" for row in rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
