"""Carries one run folder to MLflow: what is there, in order, from where the last delivery ended.

delivery.json in the run folder says how far it got: the MLflow run and the bytes of the journal that have arrived. It is replaced
whole, after each batch has arrived, so a crash in between delivers that batch again: that changes nothing, because MLflow knows a
point by (name, time, step, value), all of which the journal keeps, and tags, parameters and files are simply set again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.records import journal, system, translate
from flows.records.tracking import tracking_client

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FILE = "delivery.json"
LOCK = "delivery.lock"
CHUNK = 1 << 20

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass
class Progress:
    """What of a run folder has reached MLflow.

    Attributes:
        experiment: name of the MLflow experiment.
        artifacts: address below which a new experiment keeps its files; None leaves it to the server, or means beside the database.
        experiment_id, mlflow_run_id: where the run is; None before it was made.
        offset, system_offset: bytes of journal.jsonl and system.jsonl that have arrived.
        tags: set on the MLflow run as soon as it is there.
        epoch_step: the last step whose `epoch` point has arrived.
        status, reason: how the run ended; None while it runs.
        model_id, model_sha256: the logged model and the hash of its model.safetensors.
        version: its place in the registry (name, version, aliases); None where it was the best of nothing.
        model: whether the model of the finished run is logged.
        brief: the run is one of a sweep's many trials: its files and its data are on the sweep's own run, and it is searched for in MLflow
            only when making it was begun before.
        begun: making the MLflow run was begun, and may have happened.
        refused: what MLflow would never take, in words.
        settled: everything has arrived and the MLflow run is ended.
    """

    experiment: str
    artifacts: str | None = None
    experiment_id: str | None = None
    mlflow_run_id: str | None = None
    offset: int = 0
    system_offset: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    epoch_step: int = -1
    status: Status | None = None
    reason: str | None = None
    model_id: str | None = None
    model_sha256: str | None = None
    version: dict[str, Any] | None = None
    model: bool = True
    brief: bool = False
    begun: bool = False
    refused: list[str] = field(default_factory=list)
    settled: bool = False

    @classmethod
    def load(cls, folder: Path, *, experiment: str, artifacts: str | None = None) -> Progress:
        """The progress kept in `folder`; a fresh one where there is none or it cannot be read (delivering twice does no harm)."""
        try:
            kept = json.loads((folder / FILE).read_text())
            return cls(**{key: value for key, value in kept.items() if key in {known.name for known in fields(cls)}})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(experiment=experiment, artifacts=artifacts)

    def save(self, folder: Path) -> None:
        """Replace delivery.json whole."""
        unfinished = folder / f".{FILE}.{os.getpid()}"
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.replace(folder / FILE)

    def behind(self, folder: Path) -> int:
        """Bytes of both journals that have not arrived."""
        total = sum((folder / file).stat().st_size for file in (journal.FILE, system.FILE) if (folder / file).exists())
        return max(0, total - self.offset - self.system_offset)


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Whether this is the only courier of `folder` now; the lock is let go at the end, or with the process."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)


_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tells MLflow's UI to open on training runs; without it, it opens on pages for language-model applications."""


class Delivery:
    """One run folder on its way to one tracking store. Any method raises whatever MLflow raises; calling again goes on from there."""

    def __init__(self, folder: Path, progress: Progress, uri: str) -> None:
        self.folder, self.progress, self.uri = folder, progress, uri
        self.client: MlflowClient = tracking_client(uri)
        self._parameters: set[str] = set()
        self._fresh = progress.offset == 0 and progress.brief

    def open(self) -> bool:
        """Find the MLflow run by its name in the lab, or make it; a run that had ended and goes on is running again.

        Returns:
            False when there is nothing to deliver to: somebody deleted the ended run in MLflow. One that goes on leaves the bin.
        """
        from mlflow.exceptions import MlflowException

        run = None
        if self.progress.mlflow_run_id is not None:
            try:
                run = self.client.get_run(self.progress.mlflow_run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                kept = ("experiment", "artifacts", "tags", "status", "reason", "model", "brief")
                self.progress = Progress(**{name: getattr(self.progress, name) for name in kept})
        if run is None and (self.progress.begun or not self.progress.brief):
            run = self._find()
        self.progress.begun = True
        if run is None:
            self.progress.save(self.folder)
            own = {"lab.run": self.folder.name, "mlflow.source.name": "lab", "mlflow.source.type": "LOCAL", **_user()}
            tags = {**own, **self.progress.tags}
            run = self.client.create_run(self._experiment(), start_time=self._started(), run_name=self.folder.name, tags=tags)
        if run.info.lifecycle_stage == "deleted":
            if self.progress.status is not None:
                return False
            self.client.restore_run(run.info.run_id)
        if run.info.status != "RUNNING" and self.progress.status is None:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self._parameters = set(run.data.params)
        self.progress.experiment_id, self.progress.mlflow_run_id = run.info.experiment_id, run.info.run_id
        self._send([], {}, {key: value for key, value in self.progress.tags.items() if run.data.tags.get(key) != value})
        self.progress.save(self.folder)
        return True

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set those of `tags` that the run does not have yet."""
        fresh = {key: value for key, value in tags.items() if self.progress.tags.get(key) != value}
        if fresh:
            self._send([], {}, fresh)
            self.progress.tags |= fresh
            self.progress.save(self.folder)

    def carry(self) -> None:
        """Deliver everything that both journals hold now."""
        self._carry(journal.FILE, "offset")
        self._carry(system.FILE, "system_offset")

    def end(self) -> None:
        """Set the MLflow run's status and end time from `progress.status`; everything else must have arrived."""
        assert self.progress.status is not None
        run = self._run
        if self.progress.reason is not None:
            self.client.set_tag(run, "lab.reason", translate.clip(self.progress.reason, translate.TAG_LENGTH))
        self.client.set_terminated(run, status=self.progress.status, end_time=self._ended())
        self.progress.settled = True
        self.progress.save(self.folder)

    @property
    def _run(self) -> str:
        assert self.progress.mlflow_run_id is not None, "open() comes first"
        return self.progress.mlflow_run_id

    def _experiment(self) -> str:
        """The id of the experiment, which is made, or taken out of the bin, where needed."""
        from mlflow.exceptions import MlflowException

        wanted = self.progress.experiment
        found = self.client.get_experiment_by_name(wanted)
        if found is None:
            root = self.progress.artifacts or _beside(self.uri)
            location = root and f"{root.rstrip('/')}/{translate.name(wanted).replace(' ', '_')}"
            try:
                return str(self.client.create_experiment(wanted, artifact_location=location, tags=_KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment()  # another run was faster
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find(self) -> Any:
        """The MLflow run made for this folder earlier, whose id did not come back or was lost; None if there is none."""
        wanted = f"tags.`lab.run` = '{self.folder.name}'"
        found = self.client.search_runs([self._experiment()], wanted, max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else None

    def _started(self) -> int | None:
        return next((line["t"] for line in journal.read(self.folder)), None)

    def _ended(self) -> int | None:
        lines = journal.read(self.folder)
        return lines[-1]["t"] if lines else None

    def _carry(self, file: str, place: Literal["offset", "system_offset"]) -> None:
        path = self.folder / file
        size = CHUNK
        while path.exists() and path.stat().st_size > getattr(self.progress, place):
            start = getattr(self.progress, place)
            with path.open("rb") as stream:
                stream.seek(start)
                data = stream.read(size)
            whole = data.rfind(b"\n") + 1
            if whole == 0:
                if len(data) < size:
                    return  # an unfinished line: nothing more until the rest of it is written
                size *= 2
                continue
            self._deliver(data[:whole], start, place)

    def _deliver(self, data: bytes, start: int, place: Literal["offset", "system_offset"]) -> None:
        """Whole lines that begin at byte `start`; the progress is saved behind each batch."""
        waiting = _Batch()
        epoch_step, behind = self.progress.epoch_step, start

        def arrived() -> None:
            self._send(waiting.points, waiting.parameters, waiting.tags)
            waiting.clear()
            self.progress.epoch_step = epoch_step
            setattr(self.progress, place, behind)
            self.progress.save(self.folder)

        for end, line in journal.lines(data):
            if line["kind"] == "metrics":
                fresh = translate.points(line)
                if place == "offset" and line["step"] > epoch_step and line["epoch"] is not None:
                    fresh.append(("epoch", float(line["epoch"]), line["t"], line["step"]))
                if len(waiting.points) + len(fresh) > translate.POINTS_A_BATCH:
                    arrived()
                if place == "offset":
                    epoch_step = max(epoch_step, line["step"])
                waiting.points += fresh
            else:
                self._other(line, waiting)
            behind = start + end
        behind = start + len(data)
        arrived()

    def _other(self, line: dict[str, Any], waiting: _Batch) -> None:
        """One line that is no metrics; what MLflow would refuse every time is noted, not tried for ever."""
        from mlflow.exceptions import MlflowException

        try:
            if line["kind"] in ("figure", "file"):
                self._file(line)
            elif line["kind"] == "event":
                self._event(line, waiting)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or self.client.get_run(self._run).info.lifecycle_stage == "deleted":
                raise
            self.progress.refused.append(f"{line['kind']} {line.get('event') or line.get('name')}: {error.message}")

    def _file(self, line: dict[str, Any]) -> None:
        path = self.folder / line["file"]
        if path.exists():
            parent = str(Path(line["file"]).parent)
            self.client.log_artifact(self._run, str(path), artifact_path=None if parent == "." else parent)

    def _event(self, line: dict[str, Any], waiting: _Batch) -> None:
        event, facts = line["event"], line["facts"]
        match event:
            case "started":  # parameters can't change, so those that a resumed run began with stay
                waiting.parameters |= {k: v for k, v in translate.parameters(facts["config"]).items() if k not in self._parameters}
            case "data" if not self.progress.brief:
                self._dataset(facts)
            case "pretrained":
                self._lineage(facts.get("origin") or {})
            case "result":  # a run that is resumed at its end says its result again
                there = {} if self._fresh else self.client.get_run(self._run).data.metrics
                waiting.points += [point for point in translate.final(facts, line["t"]) if there.get(point[0]) != point[1]]
        waiting.tags |= translate.tags(self.folder.name, event, facts)
        if self.progress.brief:
            waiting.tags |= translate.configuration(event, facts)
        else:
            for file, text in translate.documents(event, facts).items():
                self.client.log_text(self._run, text, file)

    def _dataset(self, facts: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = DatasetInput(Dataset(**translate.dataset(facts)), [InputTag("mlflow.data.context", "training")])
        self.client.log_inputs(self._run, datasets=[entity])

    def _lineage(self, origin: Mapping[str, Any]) -> None:
        """Link the run and the one whose weights it began with, both ways: MLflow shows the model among this run's inputs."""
        from mlflow.entities import LoggedModelInput
        from mlflow.exceptions import MlflowException

        earlier = _kept(self.folder.parent / str(origin.get("run"))) | {key: value for key, value in origin.items() if value}
        try:
            if earlier.get("model_id"):
                self.client.log_inputs(self._run, models=[LoggedModelInput(earlier["model_id"])])
            if earlier.get("mlflow_run_id"):
                self.client.set_tag(self._run, "lab.pretrained.mlflow_run_id", earlier["mlflow_run_id"])
                self.client.set_tag(earlier["mlflow_run_id"], f"lab.pretrains.{self.folder.name}", self._run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # somebody deleted the earlier run, or it is in another store
                raise

    def _send(self, points: list[translate.Point], parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Points, parameters and tags in as few calls as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        pairs = translate.PAIRS_A_BATCH
        metrics = [Metric(key, value, time, step) for key, value, time, step in points]
        params = [Param(*pair) for pair in parameters.items()]
        labels = [RunTag(*pair) for pair in tags.items()]
        while metrics or params or labels:
            room = translate.POINTS_A_BATCH - min(len(params), pairs) - min(len(labels), pairs)
            self.client.log_batch(self._run, metrics=metrics[:room], params=params[:pairs], tags=labels[:pairs])
            del metrics[:room], params[:pairs], labels[:pairs]
        self._parameters |= parameters.keys()


def _kept(folder: Path) -> dict[str, Any]:
    """What delivery.json of another run says; empty where there is none."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


@dataclass
class _Batch:
    """What waits to be sent in one call."""

    points: list[translate.Point] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def clear(self) -> None:
        self.points.clear()
        self.parameters.clear()
        self.tags.clear()


def _beside(uri: str) -> str | None:
    """Where files go for a database file without a server: MLflow itself would take `mlruns` in the working directory."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts").as_uri()


def _user() -> dict[str, str]:
    import getpass

    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container's nameless user
        return {}
