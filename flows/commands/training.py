"""`lab train` and `lab reproduce`: run an experiment here, or hand it to the worker."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import Interrupted, LabError, RequestError, RunError, UntrainedError
from flows.commands import complete
from flows.commands.output import Json, Output

if TYPE_CHECKING:
    from flows.lab.settings import Settings
    from flows.session import Session

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to run and what to change, in Hydra's syntax: experiment=mlp_mnist model.hidden=[256,128] optimizer=adam",
        autocompletion=complete.overrides,
        show_default=False,
    ),
]


def train(
    overrides: Overrides = None,
    *,
    queue: Annotated[bool, typer.Option("--queue", help="Hand the run to the lab's worker and return.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="With --queue: follow the run until it ends.")] = False,
    resume: Annotated[
        str, typer.Option(help="Go on with an interrupted run from its last checkpoint.", autocompletion=complete.runs, show_default=False)
    ] = "",
    join: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Take part in a training that waits for more machines.", show_default=False)
    ] = "",
    json: Json = False,
) -> None:
    """Train an experiment: prepare its data, fit, evaluate, record in MLflow."""
    if resume and overrides:
        raise RequestError("--resume goes on with a run exactly as it was; leave the overrides out")
    if join and (overrides or resume or queue):
        raise RequestError("--join takes part in another machine's training, which says what is trained; leave everything else out")
    if watch and not queue:
        raise RequestError("--watch follows a queued run: give --queue as well (a run in this terminal is shown anyway)")
    if join:
        _join(Output(json), join)
        return
    if not overrides and not resume:
        raise RequestError("say what to train, such as: lab train experiment=mlp_mnist (lab list experiments shows all)")
    from flows import runs
    from flows.lab.settings import Settings
    from flows.records import journal

    output = Output(json)
    if queue:
        from flows.commands.queued import submit

        submit(output, overrides or [], resume, watch=watch)
        return
    settings = Settings.load()
    if resume and journal.is_open(folder := runs.find(resume, settings)):
        raise RequestError(f"{folder.name} is running already, in another process; there is nothing to resume")
    request = {"resume": folder.name} if resume else {"overrides": overrides}
    _show(output, _train(output, request, settings))


def _join(output: Output, rendezvous: str) -> None:
    """Lend this machine to a training that another one leads, until it has ended."""
    from flows.child import stopping_on_signals
    from flows.commands.display import Display
    from flows.lab.settings import Settings
    from flows.supervise import Training

    settings = Settings.load()
    with Display(output) as display:
        training = Training({"join": rendezvous}, settings, watch=display)
        try:
            with stopping_on_signals(training.stop, signal.SIGINT, signal.SIGTERM):
                training.wait(lambda joined: bool(joined.config))
                output.say(f"taking part in {training.run}")
                training.wait()
        finally:
            training.close()
    output.say(f"{training.run} has ended; its results are where it was started")
    output.finish(run=training.run)


def _train(output: Output, request: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Run here, under Prefect where it runs, and before it the experiments whose weights it begins with; returns the run's summary."""
    try:
        return _train_this(output, request, settings)
    except UntrainedError:  # nothing was made; asked for only now, so that nobody else is kept waiting
        from flows.pretraining import needed

        first = needed(request.get("overrides") or [], settings)
        if not first:
            raise
    for earlier in first:
        output.say(earlier.announced(request["overrides"]))
        _train_this(output, {"overrides": earlier.overrides}, settings, goes_on=True)
    return _train_this(output, request, settings)


def _train_this(output: Output, request: dict[str, Any], settings: Settings, *, goes_on: bool = False) -> dict[str, Any]:
    """Train one request; where it `goes_on` with another one afterwards, that is not begun once somebody has asked to stop."""
    from flows.child import stopping_on_signals
    from flows.commands.display import Display
    from flows.lab import health, servers
    from flows.session import Session, train_here
    from flows.supervise import TrainerDied

    servers.check_database(settings)
    check_logins(settings)
    with Display(output) as display, Session(request, settings, watch=display) as session:
        orchestrated = health.answers(settings, "prefect", timeout=0.5)
        if orchestrated:
            load_prefect(settings, "flows.train")
        with stopping_on_signals(session.stop, signal.SIGINT, signal.SIGTERM):
            try:
                session.accept()
                if not orchestrated:
                    if stranger := health.stranger(settings):
                        output.say(stranger)
                    output.say("no lab is running (lab up starts one): training without Prefect, and writing MLflow's database directly")
                trained = _under_prefect(session, request) if orchestrated else train_here(session)
                if goes_on and session.training.stop_asked:
                    raise Interrupted(f"stopped after {session.run}, which is whole: the same command goes on from there")
                return trained
            except UntrainedError:
                if session.training.stop_asked:
                    raise Interrupted("stopped before the run began") from None
                raise
            except (Interrupted, TrainerDied) as error:
                if not session.training.config:
                    raise
                raise type(error)(f"{error}; go on from its last checkpoint with: lab train --resume {session.run}") from None


def check_logins(settings: Settings) -> None:
    """RequestError: a server that answers does not let us in; what a run has to say would have nowhere to go."""
    from flows.lab import health

    for server, check in (("prefect", health.check_prefect_login), ("mlflow", health.check_mlflow_login)):
        if health.answers(settings, server, timeout=0.5):
            check(settings)


def load_prefect(settings: Settings, module: str) -> None:
    """Import a flow, and so Prefect, in the background: whoever will do the work takes as long to be ready."""
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    os.environ.update(settings.prefect_environment() | settings.mlflow_environment() | quiet)
    threading.Thread(target=__import__, args=(module,), daemon=True, name="import prefect").start()


def _under_prefect(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    """The same steps as a flow run of the running lab."""
    from flows import train as module
    from flows.config.parameters import from_overrides

    module.adopt(session)
    parameters = from_overrides(request.get("overrides", []))
    return result_of(module.train_flow(**parameters, resume=request.get("resume", ""), return_state=True))


def result_of(state: Any) -> dict[str, Any]:
    """What a flow run came to; raises what ended it."""
    if state.is_completed():
        return dict(state.result())
    if state.is_cancelled():
        raise Interrupted((state.message or "cancelled").partition(";")[0])
    error = state.result(raise_on_failure=False)
    raise error if isinstance(error, LabError) else RunError(state.message or "the flow run failed")


def _show(output: Output, found: dict[str, Any]) -> None:
    """The end of a run: its metrics, where it is, what to do next."""
    metrics = found["metrics"]
    names = sorted({name.partition("/")[2] for name in metrics})
    splits = [split for split in ("validation", "test") if any(name.startswith(split) for name in metrics)]
    rows = [[name, *(f"{metrics[f'{split}/{name}']:.4f}" if f"{split}/{name}" in metrics else "" for split in splits)] for name in names]
    output.table(["metric", *splits], rows)
    output.say(f"{found['run']} took {found['seconds']:.1f} s")
    if found["registered"]:
        version = found["registered"]
        output.say(f"registered as {version['name']} version {version['version']}: {', '.join(version['aliases'])}")
    if found["trouble"]:
        output.say(f"MLflow does not have everything yet ({found['trouble']}); the rest is kept and delivered by the next lab up")
    output.say(f"MLflow: {found['url']}" if found["url"] else "to look at it: lab up, then open MLflow")
    output.finish(**found)


def reproduce(
    run: Annotated[str, typer.Argument(help="The run: its name, the beginning of it, MLflow's id, or last.", autocompletion=complete.runs)],
    *,
    json: Json = False,
) -> None:
    """Run a recorded run again from what MLflow recorded, and say which final metrics are identical."""
    from flows.lab.settings import Settings
    from flows.reproduction import compare, recorded

    output, settings = Output(json), Settings.load()
    original = recorded(run, settings)
    for line in original.differences:
        output.say(f"note: {line}")
    again = _train(output, {"config": original.config}, settings)
    rows, identical = compare(original, again)
    output.table(["", "recorded", "again", "identical"], rows)
    output.say("bit for bit the same" if identical else "not the same bit for bit; the notes above may say why")
    output.finish(run=again["run"], original=original.run, identical=identical, metrics=again["metrics"], seconds=again["seconds"])
    if not identical:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    for command in (train, reproduce):
        app.command()(command)
