"""`lab worker`: lend this machine to a lab that runs on another one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from components.errors import RequestError, RunError, closest
from flows.commands.output import Json, Output

if TYPE_CHECKING:
    from flows.lab.settings import Settings


def worker(
    *,
    url: Annotated[str, typer.Option(help="Where the lab's Prefect server is: http://HOST:4200/api.", show_default=False)],
    pool: Annotated[str, typer.Option(help="The work pool to work for.")] = "lab",
    mlflow: Annotated[
        str, typer.Option(help="Where its MLflow server is; without it port 5000 of the same host.", show_default=False)
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many flow runs at once; without it LAB_WORKERS.", show_default=False)
    ] = None,
    git: Annotated[
        str, typer.Option(help="Repository to take a run's commit from, where the code here is another.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option(help="The worker's name; without it this machine's.", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Work for a lab on another machine, until Ctrl-C: its queued runs, its schedules, its sweeps.

    Runs of this machine are kept in its own LAB_HOME. LAB_DATABASE_URL says where the lab's database is: sweeps need it.
    """
    from flows.code import REPOSITORY
    from flows.lab import health, launch, processes, servers
    from flows.lab.settings import Settings

    output = Output(json)
    address = url.rstrip("/")
    address = address if address.endswith("/api") else f"{address}/api"
    os.environ["LAB_PREFECT_API_URL"] = address
    os.environ.setdefault("LAB_MLFLOW_URI", f"http://{urlsplit(address).hostname}:5000")
    if mlflow:
        os.environ["LAB_MLFLOW_URI"] = mlflow
    if git:
        os.environ[REPOSITORY] = git
    settings = Settings.load()
    if servers.supervised(settings):
        raise RequestError(f"{settings.home} is the home of a lab that runs here, with its own worker; give this one another LAB_HOME")
    if not health.answers(settings, "prefect", timeout=10):
        raise RequestError(f"no Prefect server answers at {address}; on its machine: lab up (LAB_HOST says where it listens)")
    _refuse_unknown_pool(settings, pool)
    if health.answers(settings, "mlflow", timeout=5):
        health.check_mlflow_login(settings)
    else:
        output.say(f"note: no MLflow server answers at {settings.mlflow_uri}; what runs here is delivered when it does")
    if settings.database is None:
        output.say("note: without LAB_DATABASE_URL this worker can train, but take part in no sweep")
    called = name or health.worker_name()
    at_once = limit or settings.workers
    output.say(f"{called} works for {address}, pool {pool}, {at_once} flow runs at once; Ctrl-C ends it")
    output.finish(worker=called, pool=pool, url=address, mlflow=settings.mlflow_uri, limit=at_once, home=str(settings.home))
    environment = os.environ | settings.lab_environment() | settings.prefect_environment() | settings.mlflow_environment()
    environment |= processes.mark(settings.home) | {"LAB_SERVER": "worker"}
    command = [sys.executable, "-m", "flows.worker", pool, called, str(at_once)]
    raise typer.Exit(launch.look_after(command, settings, environment, apart=True))


def _refuse_unknown_pool(settings: Settings, pool: str) -> None:
    """RequestError: the server has no such work pool, which Prefect's worker would make, to wait there for nothing; or wants a login."""
    from flows.lab import health
    from flows.lab.settings import WORK_POOL

    try:
        found = health.ask(settings, "/work_pools/filter", {"limit": 200}, timeout=10)
    except OSError as error:
        raise RunError(f"the Prefect server at {settings.prefect_api} did not say which work pools it has: {error}") from None
    names = sorted({WORK_POOL, *(each["name"] for each in found)})
    if pool not in names:
        raise RequestError(f"there is no work pool {pool!r}{closest(pool, names)}; the server has: {', '.join(names)}")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(worker)
