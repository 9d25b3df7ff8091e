"""The sweep flow: thin tasks over a `SweepSession`. A task is a window on a **batch** of trials, since a task for each would cost too much.

    compose → prepare-data → trials 1–20 → trials 21–40 → … → report

The workers are processes (flows/search/worker.py) that Prefect does not see; with `search.backend=pool` all but one of them are flow runs
of `sweep-worker`, which the work pool starts wherever it has a worker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import CancelledRun
from prefect.states import Cancelled

from components.errors import Interrupted, LabError
from flows import queue
from flows.config.names import SEARCH, names
from flows.config.parameters import NONE, flat
from flows.lab import health
from flows.lab.settings import Settings
from flows.lab.timetable import LATEST, CatchUp
from flows.search.session import SweepSession, ended

SECONDS_BETWEEN_UPDATES = 2.0
BATCHES = 20
"""A sweep has about so many tasks for its trials."""
SMALLEST_BATCH, LARGEST_BATCH = 10, 50

if TYPE_CHECKING:
    from typing import TypeAlias

    SearchName: TypeAlias = str
else:
    SearchName = Literal[tuple(names(SEARCH))]
FIRST = names(SEARCH)[0]
KEEP = "as the search says"

_options: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
_prestarted: list[SweepSession] = []


def adopt(session: SweepSession) -> None:
    """Let the next sweep flow of this process use `session` instead of making its own."""
    _prestarted[:] = [session]


@task(name="compose", **_options)
def compose(session: SweepSession) -> str:
    """Judge the request; the sweep exists from here on."""
    name = session.accept()
    get_run_logger().info("The sweep is %s, with %d trials; everything about it is in %s", name, session.total, session.folder)
    return name


@task(name="prepare-data", **_options)
def prepare_data(session: SweepSession, sweep: str) -> str:
    """Prepare the data once, before the workers ask for it."""
    session.prepare()
    return sweep


@task(name="trials", task_run_name="trials {first}–{last}", **_options)
def trials(session: SweepSession, sweep: str, first: int, last: int) -> str:  # noqa: ARG001 — in the task run's name
    """Wait until `last` trials have ended."""
    counts = session.reach(last)
    get_run_logger().info("%d complete, %d pruned, %d failed", counts["complete"], counts["pruned"], counts["failed"])
    return sweep


@task(name="report", **_options)
def report(session: SweepSession, sweep: str) -> dict[str, Any]:
    """The chosen configuration on the test split, the verdict, everything in MLflow."""
    session.reach()
    found = session.conclude()
    create_markdown_artifact(found["markdown"], key="verdict", description=f"What `{sweep}` came to")
    _link(session)
    return found


def sweep(
    overrides: list[str],
    *,
    search: SearchName = FIRST,
    trials: Annotated[int, Ge(0), Le(100_000)] = 0,
    seeds: Annotated[int, Ge(0), Le(1000)] = 0,
    workers: Annotated[int, Ge(0), Le(1000)] = 0,
    backend: Literal["as the search says", "processes", "pool", "vectorised", "auto"] = "as the search says",
    resume: str = "",
    catch_up: CatchUp = LATEST,  # noqa: ARG001 — read by the lab when it starts (flows/lab)
) -> Any:
    """Search initializers, optimizers, activations or any other setting of an experiment, and report what is really better.

    Args:
        search: What to search; conf/search has them.
        trials: How many trials in all; 0 is as the search says.
        seeds: With how many seeds each configuration is run; 0 is as the search says.
        workers: How many processes run trials; 0 is as the search says.
        backend: How they run: as processes on the machine that runs this flow, as flow runs of the work pool, many trials together as
            one program (vectorised), or whatever is quickest there (auto).
        resume: Name of a sweep to go on with; of the rest only trials, seeds, workers and backend then count.
        catch_up: For schedules: which of the runs that were missed while the lab was down are made up for.
    """
    numbers = {"trials": trials, "seeds": seeds, "workers": workers}
    budget = [f"search.{key}={value}" for key, value in numbers.items() if value] + (
        [f"search.backend={backend}"] if backend != KEEP else []
    )
    chosen = [] if any(text.startswith("search=") for text in overrides) else [f"search={search}"]
    request = {"resume": resume, "overrides": budget} if resume else {"overrides": [*overrides, *chosen, *budget]}
    session = _prestarted.pop() if _prestarted else SweepSession(request, Settings.load())
    with session:
        session.tags |= {"prefect.flow_run_id": str(runtime.flow_run.id), "prefect.url": _page(session.settings)}
        try:
            return _steps(session)
        except (Interrupted, CancelledRun) as error:
            again = f"; go on with: lab sweep --resume {session.name}" if session.sweep else ""
            return Cancelled(message=f"{error}{again}")


def _steps(session: SweepSession) -> dict[str, Any]:
    name = prepare_data(session, compose(session))
    with _progress(session), _pool_workers(session) as local:
        session.begin(local)
        size = LARGEST_BATCH if session.open_ended else max(SMALLEST_BATCH, -(-session.total // BATCHES))
        first = ended(session.counted) - ended(session.counted) % size
        while first < session.total and not session.over:
            name = trials(session, name, first + 1, min(first + size, session.total))
            first += size
        return report(session, name)


@contextmanager
def _pool_workers(session: SweepSession) -> Iterator[int | None]:
    """With `search.backend=pool`: all workers but one as flow runs of the pool. Gives the number of workers that this process starts.

    One always works here: should the pool have no room beside this flow, the sweep goes on all the same.
    """
    assert session.sweep is not None
    plan = session.sweep.plan
    if plan.backend != "pool":
        yield None
        return
    queued = [
        queue.queue(session.settings, "sweep-worker/sweep-worker", {"sweep": session.name}, counted=False) for _ in range(plan.workers - 1)
    ]
    try:
        yield 1
    finally:
        for each in queued:
            with contextlib.suppress(OSError):
                state = health.ask(session.settings, f"/flow_runs/{each.id}")["state"]["type"]
                if state not in queue.ENDED:
                    body = {"state": {"type": "CANCELLING", "message": "The sweep has ended."}, "force": state == "SCHEDULED"}
                    health.ask(session.settings, f"/flow_runs/{each.id}/set_state", body)


@contextmanager
def _progress(session: SweepSession) -> Iterator[None]:
    """Pass what the workers say on to the page: a progress bar, warnings, the link to MLflow."""
    logger = get_run_logger()
    artifact: Any = create_progress_artifact(progress=0.0, key="trials", description=f"Trials of `{session.name}`")
    outer, updated = session.watch, 0.0

    def watch(line: dict[str, Any]) -> None:
        nonlocal updated
        outer(line)
        now = time.monotonic()
        if line["kind"] == "warning":
            logger.warning(line["message"])
        if line["kind"] == "counts" and now - updated > SECONDS_BETWEEN_UPDATES:
            updated = now
            update_progress_artifact(artifact, progress=min(100.0, 100 * ended(line) / max(1, line["total"])))
        _link(session)

    session.watch = watch
    try:
        yield
        update_progress_artifact(artifact, progress=100.0)
    finally:
        session.watch = outer


def _link(session: SweepSession) -> None:
    """Link to the sweep in MLflow, once, as soon as it has a page."""
    url = session.mlflow_url()
    if url and url != session.linked:
        session.linked = url
        description = f"All trials, curves and the report of `{session.name}`"
        create_link_artifact(url, link_text=f"{session.name} in MLflow", key="mlflow-run", description=description)


def _page(settings: Settings) -> str:
    return f"{settings.prefect_ui}/runs/flow-run/{runtime.flow_run.id}"


def _name() -> str:
    """A flow run's name: the sweep that goes on, or what is searched on what."""
    parameters: dict[str, Any] = runtime.flow_run.parameters
    experiment = parameters.get("experiment")
    what = experiment if experiment != NONE else parameters.get("model")
    given = [text.removeprefix("search=") for text in parameters.get("overrides", []) if text.startswith("search=")]
    return parameters.get("resume") or f"{what} {given[0] if given else parameters.get('search')}"


sweep_flow = flow(name="sweep", flow_run_name=_name, persist_result=False)(flat(sweep))


@flow(name="sweep-worker", flow_run_name="{sweep}", persist_result=False)
def sweep_worker_flow(sweep: str) -> Any:
    """Run trials of a sweep that another flow run looks after, until none is left.

    Args:
        sweep: The sweep's name.
    """
    with SweepSession({"join": sweep, "workers": 1}, Settings.load()) as session:
        try:
            session.accept()
            session.begin()
            session.reach()
            return session.leave()
        except (Interrupted, CancelledRun) as error:
            return Cancelled(message=str(error))
        except LabError as error:
            get_run_logger().error("%s", error)
            raise
