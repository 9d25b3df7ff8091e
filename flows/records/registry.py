"""The registry: for each problem (data and objective) the best model so far, and the best of each architecture.

A run earns a version when its validation metric beats what the alias `champion` (best of all) or `best-MODEL` (best of its
architecture) points at; a tie keeps the incumbent. Test metrics are never looked at: a champion chosen by them would make them worthless.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.errors import RequestError
from flows.lab.locks import held
from flows.records.tracking import tracking_client

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
ORIGIN = "origin.json"
"""Where a fetched version came from, in its folder here."""
DATA = "data/model"
"""Where the model folder is inside a logged model; pyfunc puts it there."""

_ADDRESS = re.compile(r"registry:(?P<name>[^@/:\s]+)(?:@(?P<alias>[^@/:\s]+))?")


@dataclass(frozen=True)
class Score:
    """What a model is judged by.

    Attributes:
        metric: the monitored series, `validation/accuracy`; never a test metric.
        direction: whether more or less is better.
        value: its value for these weights.
    """

    metric: str
    direction: Literal["max", "min"]
    value: float

    def __post_init__(self) -> None:
        if not self.metric.startswith("validation/"):
            raise ValueError(f"models are chosen by a validation metric, not by {self.metric!r}")

    def beats(self, other: float) -> bool:
        """Whether this is better than `other`; equal is not better, and what is not a number never is."""
        if math.isnan(self.value):
            return False
        return math.isnan(other) or (self.value > other if self.direction == "max" else self.value < other)


@dataclass(frozen=True)
class Version:
    """A registered model version and the aliases it was given."""

    name: str
    version: str
    aliases: tuple[str, ...]


def register(
    client: MlflowClient,
    *,
    home: Path,
    name: str,
    model_id: str,
    mlflow_run_id: str,
    score: Score,
    run: str,
    experiment: str,
    model: str,
) -> Version | None:
    """Make a version of a logged model where it is the best so far, of all or of its architecture.

    Two runs that end at once on this machine take turns (a lock file); on different machines the later one to write wins the alias.

    Args:
        client: the registry.
        home: LAB_HOME, for the lock.
        name: the registered model, `{data}-{objective}`.
        model_id, mlflow_run_id: the LoggedModel and the run it came from.
        score: its validation metric.
        run, experiment, model: the lab's run, the experiment's and the architecture's name, for the version's tags.

    Returns:
        The version, or None where the model is the best of nothing.
    """
    from mlflow.exceptions import MlflowException

    with held(home / "registry.lock"):
        try:
            client.create_registered_model(name, description=f"The best models of the problem {name}, chosen by their validation metric.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        earned = [alias for alias in (CHAMPION, f"best-{model}") if _beaten(client, name, alias, score, model_id)]
        if not earned:
            return None
        version = _version_of(client, name, model_id) or client.create_model_version(
            name,
            source=client.get_logged_model(model_id).artifact_location,  # MLflow looks up `models:/…` in its global store, not in this one
            run_id=mlflow_run_id,
            model_id=model_id,
            tags={
                "run": run,
                "experiment": experiment,
                "model": model,
                "metric": score.metric,
                "direction": score.direction,
                "value": repr(score.value),
                "model_id": model_id,
            },
        )
        _link(client, model_id, name, str(version.version))
        for alias in earned:
            client.set_registered_model_alias(name, alias, version.version)
        return Version(name=name, version=str(version.version), aliases=tuple(earned))


def resolve(address: str, tracking_uri: str, *, home: Path) -> Path:
    """The local model folder (model.safetensors, config.json, data.json) of `registry:NAME@ALIAS`; the alias is `champion` if not given.

    A version never changes, so it is fetched once into LAB_HOME/registry/NAME/VERSION.

    Raises:
        RequestError: the address is malformed, or there is no such model or alias; says which there are.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise RequestError(
            f"a registered model is written registry:NAME@ALIAS (such as registry:mnist-classification@champion), not {address!r}"
        )
    name, alias = match["name"], match["alias"] or CHAMPION
    client = tracking_client(tracking_uri)
    version = _aliased(client, name, alias)
    if version is None:
        raise RequestError(f"there is no registered model {name}@{alias}; {_offer(client, name)}")
    return _folder(client, version, tracking_uri, home)


def from_experiment(experiment: str, tracking_uri: str, *, home: Path) -> Iterator[Path]:
    """The local model folders of the versions that runs of `experiment` earned, the newest first. Each is fetched once, as above."""
    client = tracking_client(tracking_uri)
    found = client.search_model_versions(f"tags.experiment = '{experiment}'")
    for version in sorted(found, key=lambda version: -int(version.creation_timestamp)):
        yield _folder(client, version, tracking_uri, home)


def _folder(client: MlflowClient, version: Any, tracking_uri: str, home: Path) -> Path:
    """A version's model folder here, fetched when it is not."""
    target = home / "registry" / str(version.name) / str(version.version)
    if not target.exists():
        tags = version.tags
        origin = {
            "registered": f"{version.name} version {version.version}",
            "run": tags.get("run"),
            "experiment": tags.get("experiment"),
            "mlflow_run_id": version.run_id,
            "model_id": tags.get("model_id"),
        }
        _fetch(client.get_model_version_download_uri(version.name, version.version), tracking_uri, target, origin)
    return target


def _fetch(source: str, tracking_uri: str, target: Path, origin: dict[str, Any]) -> None:
    """Fetch a version's model folder, whole or not at all, and say in it where it came from."""
    from mlflow.artifacts import download_artifacts

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as temporary:
        path = Path(download_artifacts(f"{source}/{DATA}", dst_path=temporary, tracking_uri=tracking_uri))
        (path / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        try:
            path.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process fetched the same version meanwhile
                raise


def _beaten(client: MlflowClient, name: str, alias: str, score: Score, model_id: str) -> bool:
    """Whether the alias goes to this score: nobody has it, or its holder is worse, or it is this very model's already."""
    holder = _aliased(client, name, alias)
    if holder is None:
        return not math.isnan(score.value)
    if holder.tags.get("model_id") == model_id:
        return True
    if holder.tags.get("metric") != score.metric:
        return False
    return score.beats(float(holder.tags["value"]))


def _aliased(client: MlflowClient, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # A server that asks who it is denies permission for a name that it does not know.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"):
            return None
        raise


def _version_of(client: MlflowClient, name: str, model_id: str) -> Any:
    found = client.search_model_versions(f"name = '{name}' and tags.model_id = '{model_id}'", max_results=1)
    return found[0] if found else None


def _link(client: MlflowClient, model_id: str, name: str, version: str) -> None:
    """Show the version on the logged model's page; an MLflow server does this itself, a database alone does not."""
    shown = json.loads(client.get_logged_model(model_id).tags.get("mlflow.modelVersions", "[]"))
    if not any(entry["name"] == name and str(entry["version"]) == version for entry in shown):
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([*shown, {"name": name, "version": version}])})


def _offer(client: MlflowClient, name: str) -> str:
    models = {model.name: sorted(model.aliases) for model in client.search_registered_models()}
    if not models:
        return "nothing is registered yet: train something first"
    if name in models:
        return f"{name} has {', '.join(models[name]) or 'no alias'}"
    return f"registered are {', '.join(sorted(models))}"
