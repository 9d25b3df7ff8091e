"""`lab sweep` and `lab report`: search a space of configurations, and say what came out."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import Interrupted, RequestError, RunError
from flows.commands import complete
from flows.commands.output import Json, Output

if TYPE_CHECKING:
    from flows.lab.settings import Settings
    from flows.search.session import SweepSession

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to search and on what: experiment=mlp_mnist search=initializers search.trials=40",
        autocompletion=complete.searches,
        show_default=False,
    ),
]


def sweep(
    overrides: Overrides = None,
    *,
    name: Annotated[str, typer.Option(help="A name for the sweep, instead of one made from the time.", show_default=False)] = "",
    resume: Annotated[
        str, typer.Option(help="Go on with a sweep; search.trials=N gives it more.", autocompletion=complete.sweeps, show_default=False)
    ] = "",
    join: Annotated[
        str, typer.Option(help="Add workers to a sweep that runs elsewhere.", autocompletion=complete.sweeps, show_default=False)
    ] = "",
    workers: Annotated[int, typer.Option(min=0, max=1000, help="Processes that run trials; 0 is as the search says.")] = 0,
    queue: Annotated[bool, typer.Option("--queue", help="Hand the sweep to the lab's worker and return.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="With --queue: follow it until it ends.")] = False,
    json: Json = False,
) -> None:
    """Search initializers, optimizers, activations … with Optuna, and report what is really better."""
    given = [*(overrides or []), *([f"search.workers={workers}"] if workers and not join else [])]
    _refuse_contradictions(overrides, name=name, resume=resume, join=join, queue=queue, watch=watch)
    from flows.lab.settings import Settings

    output = Output(json)
    if queue:
        _queue(output, given, resume, watch=watch)
        return
    settings = Settings.load()
    request: dict[str, Any] = {"resume": resume, "overrides": given} if resume else {"overrides": given, "name": name}
    if join:
        request = {"join": join, "workers": workers or 1}
    _show(output, _sweep(output, request, settings))


def _refuse_contradictions(overrides: list[str] | None, *, name: str, resume: str, join: str, queue: bool, watch: bool) -> None:
    if watch and not queue:
        raise RequestError("--watch follows a queued sweep: give --queue as well (a sweep in this terminal is shown anyway)")
    if sum(map(bool, (name, resume, join))) > 1:
        raise RequestError("--name is for a new sweep, --resume goes on with one, --join adds workers to one: give one of them")
    if join and (overrides or queue):
        raise RequestError("--join adds workers to a sweep as it is; leave the rest out")
    if name and queue:
        raise RequestError("--name and --queue do not go together; a queued sweep gets its name from the worker")
    if not overrides and not resume and not join:
        raise RequestError("say what to search, such as: lab sweep experiment=mlp_mnist search=initializers (lab list searches shows all)")


def _sweep(output: Output, request: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Search here, under Prefect where it runs; returns the summary."""
    from flows.child import stopping_on_signals
    from flows.commands.sweep_display import SweepDisplay
    from flows.commands.training import check_logins, load_prefect
    from flows.lab import health
    from flows.search.session import SweepSession, sweep_here
    from flows.search.storage import in_words

    check_logins(settings)
    with SweepDisplay(output) as display, SweepSession(request, settings, watch=display) as session:
        orchestrated = "join" not in request and health.answers(settings, "prefect", timeout=0.5)
        if orchestrated:
            load_prefect(settings, "flows.sweep")
        with stopping_on_signals(session.stop, signal.SIGINT, signal.SIGTERM):
            try:
                name = session.accept()
                output.say(
                    f"sweep {name}: " + ("until its hours or samples are used up" if session.open_ended else f"{session.total} trials")
                )
                if not orchestrated and "join" not in request:
                    output.say("no lab is running (lab up starts one): searching without Prefect, and writing MLflow's database directly")
                return _under_prefect(session) if orchestrated else sweep_here(session)
            except Interrupted as error:
                raise Interrupted(f"{error}{_again(session)}") from None
            except RunError as error:
                raise RunError(f"{error}{_again(session)}") from error
            except Exception as error:
                if (known := in_words(error)) is None:
                    raise
                raise RunError(f"{known}{_again(session)}") from error


def _again(session: SweepSession) -> str:
    return f"; go on with: lab sweep --resume {shlex.quote(session.name)}" if session.sweep is not None else ""


def _under_prefect(session: SweepSession) -> dict[str, Any]:
    """The same steps as a flow run of the running lab."""
    from flows import sweep as module
    from flows.commands.training import result_of
    from flows.config.parameters import from_overrides
    from flows.search.plan import split

    module.adopt(session)
    own, search = split(session.request.get("overrides", []))
    parameters = from_overrides(own)
    parameters["overrides"] += search
    assert session.sweep is not None
    resume = {"resume": session.name} if "resume" in session.request else {}
    return result_of(module.sweep_flow(**parameters, search=session.sweep.plan.name, **resume, return_state=True))


def _queue(output: Output, overrides: list[str], resume: str, *, watch: bool) -> None:
    from flows.commands.queued import absolute, hand_over
    from flows.config.parameters import from_overrides
    from flows.search import request as requests
    from flows.search.plan import split

    overrides = [absolute(text) for text in overrides]
    own, search = split(overrides)
    changes = requests.changes(search) if resume else None
    if changes is None:
        requests.check_request(overrides)  # a wrong request is refused here, not half a minute later by the worker
        parameters = {**from_overrides(own), "resume": ""}
        parameters["overrides"] += search
    else:
        allowed = {key: value for key, value in changes.items() if key in ("trials", "seeds", "workers", "backend")}
        parameters = {**from_overrides([]), "resume": resume, **allowed}
    found = hand_over(output, "sweep/sweep", parameters, watch=watch)
    if watch:
        output.say(f"MLflow: {found.get('url')}")
    output.finish(**found)


def _show(output: Output, found: dict[str, Any]) -> None:
    """The end of a sweep: its verdict, where it is, what to do next."""
    if "text" in found:
        output.say(found["text"].rstrip())
        output.say("")
        output.say(f"report: {found['report']}")
    counts = found["trials"]
    output.say(f"{found['sweep']}: {counts['complete']} complete, {counts['pruned']} pruned, {counts['failed']} failed")
    if found.get("trouble"):
        output.say(f"MLflow does not have everything yet ({found['trouble']}); the rest is kept and delivered by the next lab up")
    if "url" in found:
        output.say(f"MLflow: {found['url']}" if found["url"] else "to look at it: lab up, then open MLflow")
    output.finish(**{key: value for key, value in found.items() if key != "markdown"})


def report(
    name: Annotated[str, typer.Argument(help="The sweep's name, the beginning of it, or last.", autocompletion=complete.sweeps)],
    *,
    json: Json = False,
) -> None:
    """Say what a sweep came to so far, and record it in MLflow."""
    from flows.lab.settings import Settings
    from flows.search.reporting import renew

    output, settings = Output(json), Settings.load()
    found = renew(name, settings, tell=lambda line: output.say(line["text"]) if line["kind"] == "note" else None)
    output.say(found["text"].rstrip())
    output.say("")
    output.say(f"report: {found['report']}")
    if found["url"]:
        output.say(f"MLflow: {found['url']}")
    output.finish(**{key: value for key, value in found.items() if key != "markdown"})


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    for command in (sweep, report):
        app.command()(command)
