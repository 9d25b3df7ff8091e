"""The train flow: thin tasks over a `Session`, so that Prefect sees every stage of a training and can repeat the ones worth repeating.

    compose → prepare-data → fit → evaluate → draw → record

`fit` and its neighbours watch the trainer process (flows/trainer.py). When that process is killed, the task's retry starts it again and
it goes on, bit for bit, from its last checkpoint. Bad input is not repeated: it would be bad again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import CancelledRun
from prefect.states import Cancelled

from components.errors import DataError, Interrupted
from flows.config.parameters import NONE, flat
from flows.lab.servers import count_gpus
from flows.lab.settings import Settings
from flows.lab.timetable import LATEST, CatchUp
from flows.pretraining import Earlier, needed, train_first
from flows.session import Session, summary
from flows.supervise import TrainerDied

SECONDS_BETWEEN_UPDATES = 2.0

_prestarted: list[Session] = []


def adopt(session: Session) -> None:
    """Let the next train flow of this process use `session`, whose trainer is already warming up, instead of starting its own."""
    _prestarted[:] = [session]


def _worth_repeating(_: Any, __: TaskRun, state: State[Any]) -> bool:
    """A killed trainer goes on from its checkpoint, and a source of data may answer the next time; everything else fails again."""
    try:
        state.result()
    except (TrainerDied, DataError):
        return True
    except Exception:
        return False
    return False


_stage_options: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": 1,
    "retry_condition_fn": _worth_repeating,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="pretrain", task_run_name="pretrain {earlier.experiment}", cache_policy=NO_CACHE, persist_result=False)
def pretrain(earlier: Earlier) -> str:
    """Train the experiment whose weights this run begins with; it is a run of its own in MLflow."""
    run = train_first(earlier, Settings.load())
    get_run_logger().info("%s was trained first: %s", earlier.experiment, run)
    return run


@task(name="compose", cache_policy=NO_CACHE, persist_result=False)
def compose(session: Session) -> str:
    """Judge the request; the run exists from here on."""
    run = session.accept()
    get_run_logger().info("The run is %s; everything about it is in %s", run, session.training.folder)
    return run


@task(name="prepare-data", **_stage_options)
def prepare_data(session: Session, run: str) -> str:
    """Wait until the data set is prepared, or found prepared."""
    session.reach("prepare")
    return run


@task(name="fit", **_stage_options)
def fit(session: Session, run: str) -> str:
    """Wait while the trainer trains, with its progress on the page."""
    with _progress(session, run):
        session.reach("fit")
    return run


@task(name="evaluate", **_stage_options)
def evaluate(session: Session, run: str) -> str:
    """Wait for the metrics of the best weights on validation and test."""
    session.reach("evaluate")
    assert session.training.result is not None
    metrics: dict[str, float] = session.training.result["metrics"]
    rows = [{"metric": name, "value": f"{value:.4f}"} for name, value in sorted(metrics.items())]
    create_table_artifact(rows, key="metrics", description=f"Metrics of `{run}`, best weights by validation")
    return run


@task(name="draw", **_stage_options)
def draw(session: Session, run: str) -> str:
    """Wait for the figures."""
    session.reach("draw")
    return run


@materialize("lab://models", name="record", cache_policy=NO_CACHE, persist_result=False)
def record(session: Session, run: str) -> dict[str, Any]:
    """Deliver the rest to MLflow, log and register the model, link both ways."""
    receipt = session.record()
    if receipt.trouble:
        get_run_logger().warning("MLflow does not have everything yet (%s); `lab up` delivers the rest", receipt.trouble)
    found = summary(session)
    _link(session)
    create_markdown_artifact(_report(found, session), key="summary", description=f"What `{run}` came to")
    return found


def train(overrides: list[str], *, resume: str = "", catch_up: CatchUp = LATEST) -> Any:  # noqa: ARG001 — flows/lab/timetable.py reads it
    """Train an experiment: prepare its data, fit, evaluate, and record everything in MLflow.

    Args:
        resume: Name of an interrupted run to go on with; everything else is then as it was.
        catch_up: On a schedule, which of the runs missed while the lab was down are made up for.
    """
    session = _prestarted.pop() if _prestarted else None
    if session is None and not resume:
        for earlier in needed(overrides, Settings.load()):
            pretrain(earlier)
    request = {"resume": resume} if resume else {"overrides": overrides}
    with _gpu_slot(), session or Session(request, Settings.load(), watch=_note) as session:
        page = f"{session.settings.prefect_ui}/runs/flow-run/{runtime.flow_run.id}"
        session.tags |= {"prefect.flow_run_id": str(runtime.flow_run.id), "prefect.url": page}
        try:
            run = compose(session)
            for step in (prepare_data, fit, evaluate, draw):
                run = step(session, run)  # what one hands to the next is the arrow between them on the page
            data = session.training.config["data"]["_target_"].rpartition(".")[2]
            asset = Asset(
                key=f"lab://models/{run}", properties=AssetProperties(name=run, url=session.mlflow_url(), description=f"trained on {data}")
            )
            return record.with_options(assets=[asset])(session, run)
        except (Interrupted, CancelledRun) as error:
            return Cancelled(message=f"{error}; go on with: lab train --resume {session.run}" if session.training.run else str(error))


def _name() -> str:
    """A flow run's name: its experiment, or what stands in its place."""
    if _prestarted and _prestarted[0].training.run:
        return _prestarted[0].run
    given = runtime.flow_run.parameters
    parts = (given.get("resume"), given.get("experiment"), *(text for text in given.get("overrides", []) if text.startswith("name=")))
    chosen = [part for part in parts if part and part != NONE]
    return str(chosen[0]) if chosen else f"{given.get('model')} on {given.get('data')}"


train_flow = flow(name="train", flow_run_name=_name, persist_result=False, validate_parameters=True)(flat(train))
"""The flow that is deployed: `train` behind the flat, typed parameters of flows/config/parameters.py."""


# ---------------------------------------------------------------------- what the pages show


@contextmanager
def _progress(session: Session, run: str) -> Iterator[None]:
    """A progress bar and a line in the log now and then while the trainer speaks; the link to MLflow as soon as there is one."""
    logger = get_run_logger()
    artifact = cast(UUID, create_progress_artifact(0.0, key="training", description=f"Training of `{run}`"))
    outer, updated = session.training.watch, 0.0

    def watch(line: dict[str, Any]) -> None:
        nonlocal updated
        outer(line)
        now = time.monotonic()
        if line["kind"] == "warning":
            logger.warning(line["message"])
        if line["kind"] == "progress" and line["total"] and now - updated > SECONDS_BETWEEN_UPDATES:
            updated = now
            update_progress_artifact(artifact, progress=100 * line["step"] / line["total"])
            values = "  ".join(f"{name} {value:.4g}" for name, value in line["values"].items())
            logger.info("epoch %d of %d, step %d of %d: %s", line["epoch"] + 1, line["epochs"], line["step"], line["total"], values)
        _link(session)

    session.training.watch = watch
    try:
        yield
        update_progress_artifact(artifact, progress=100.0)
    finally:
        session.training.watch = outer


def _note(line: dict[str, Any]) -> None:
    """What the trainer has to say beside its progress, in the log: that data are prepared, that more machines are waited for."""
    if line["kind"] == "note":
        get_run_logger().info(line["text"])


def _link(session: Session) -> None:
    """Link to the run in MLflow, once, as soon as it has a page."""
    url = session.mlflow_url()
    if url and url != session.linked:
        session.linked = url
        description = f"Curves, figures and model of `{session.run}`"
        create_link_artifact(url, link_text=f"{session.run} in MLflow", key="mlflow-run", description=description)


def _report(found: dict[str, Any], session: Session) -> str:
    metrics = found["metrics"]
    splits = [split for split in ("validation", "test") if any(name.startswith(split) for name in metrics)]
    names = sorted({name.partition("/")[2] for name in metrics})
    head = f"| metric | {' | '.join(splits)} |\n|---|{'---|' * len(splits)}"
    cells = (" | ".join(f"{metrics[f'{split}/{name}']:.4f}" if f"{split}/{name}" in metrics else "" for split in splits) for name in names)
    rows = "\n".join(f"| {name} | {cell} |" for name, cell in zip(names, cells, strict=True))
    link = f"[Open it in MLflow]({found['url']})" if found["url"] else "MLflow was away; the run is delivered when it is back."
    registered = found["registered"]
    crown = ""
    if registered:
        crown = f"\n\nRegistered as **{registered['name']}** version {registered['version']} ({', '.join(registered['aliases'])})."
    again = f"{found['seconds']:.1f} s of training and evaluation. Again: `lab reproduce {session.run}`"
    return f"## {session.run}\n\n{link}{crown}\n\n{head}\n{rows}\n\n{again}\n"


@contextmanager
def _gpu_slot() -> Iterator[None]:
    """On a machine with GPUs, wait for a free one: the limit `gpu` has as many slots."""
    with concurrency("gpu", occupy=1) if count_gpus() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") else contextlib.nullcontext():
        yield
