"""`lab schedule`: trainings and sweeps on a timetable, which Prefect keeps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from components.errors import RequestError
from flows.commands.output import Json, Output
from flows.commands.training import Overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flows.schedules import Schedule

Cron = Annotated[str, typer.Option(help='Due by a cron rule: "0 2 * * *" is every night at two.', show_default=False)]
Every = Annotated[str, typer.Option(help="Due again and again: 90s, 15m, 6h, 1d.", show_default=False)]
RRule = Annotated[str, typer.Option(help='Due by a calendar rule (RFC 5545): "FREQ=WEEKLY;BYDAY=MO;BYHOUR=2".', show_default=False)]
Zone = Annotated[str, typer.Option(help="What times are meant in, such as Asia/Seoul; this machine's when left out.", show_default=False)]
At = Annotated[
    str, typer.Option(help="First time of --every, such as 2026-11-26T02:00; one interval from now when left out.", show_default=False)
]
Name = Annotated[str, typer.Option(help="What to call the schedule; made from what it runs when left out.", show_default=False)]
Missed = Annotated[
    Literal["skip", "latest", "all"],
    typer.Option(help="Which of the runs missed while the lab was down are made up for when it is back; all: all that were planned."),
]


def names(incomplete: str) -> list[str]:
    """Names of schedules that start with what was typed; none while no lab is running."""
    from components.errors import LabError
    from flows import schedules
    from flows.lab.settings import Settings

    try:
        return [each.name for each in schedules.every(Settings.load()) if each.name.startswith(incomplete)]
    except LabError:
        return []


Which = Annotated[str, typer.Argument(help="The schedule's name.", autocompletion=names)]


def train(
    overrides: Overrides = None,
    *,
    cron: Cron = "",
    every: Every = "",
    rrule: RRule = "",
    timezone: Zone = "",
    at: At = "",
    name: Name = "",
    catch_up: Missed = "latest",
    json: Json = False,
) -> None:
    """Train an experiment on a timetable."""

    def check(overrides: list[str]) -> None:
        from flows.config.build import validate
        from flows.config.compose import compose

        validate(compose(overrides))

    when = {"cron": cron, "every": every, "rrule": rrule, "timezone": timezone, "at": at}
    _add(Output(json), "train", overrides or [], check=check, when=when, name=name, catch_up=catch_up)


def sweep(
    overrides: Overrides = None,
    *,
    cron: Cron = "",
    every: Every = "",
    rrule: RRule = "",
    timezone: Zone = "",
    at: At = "",
    name: Name = "",
    catch_up: Missed = "latest",
    json: Json = False,
) -> None:
    """Run a sweep on a timetable."""

    def check(overrides: list[str]) -> None:
        from flows.search.request import check_request

        check_request(overrides)

    when = {"cron": cron, "every": every, "rrule": rrule, "timezone": timezone, "at": at}
    _add(Output(json), "sweep", overrides or [], check=check, when=when, name=name, catch_up=catch_up)


def _add(
    output: Output, flow: str, overrides: list[str], *, check: Callable[[list[str]], None], when: dict[str, str], name: str, catch_up: str
) -> None:
    """Check everything, then make the schedule and say when it is due."""
    from datetime import UTC, datetime

    from flows import schedules
    from flows.commands.queued import absolute
    from flows.commands.when import rule, words
    from flows.lab.settings import Settings
    from flows.lab.timetable import free_name

    if not overrides:
        raise RequestError(f"say what to {flow}, such as: lab schedule {flow} experiment=mlp_mnist --every 6h")
    if name and not re.fullmatch(r"[\w.-]{1,80}", name):
        raise RequestError(f"--name {name!r}: a schedule's name is made of letters, digits, dots, hyphens and underscores, at most 80")
    found = rule(**when, now=datetime.now(UTC))
    settings, overrides = Settings.load(), [absolute(text) for text in overrides]
    deployment = schedules.deployment(settings, f"{flow}/{flow}")  # asked first: a lab that is not running is said at once
    there = [each.name for each in schedules.every(settings)]
    if name in there:
        raise schedules.taken(name)
    check(overrides)
    name = name or free_name(default_name(flow, overrides), there)
    made = schedules.create(settings, deployment, name, found, schedules.parameters(deployment, overrides, catch_up))
    due = schedules.upcoming(settings, made)
    next_run = due[0].isoformat() if due else None
    page = f"{settings.prefect_ui}/deployments/deployment/{deployment['id']}"
    output.say(f"{name}: {flow} {' '.join(overrides)}")
    output.say(f"{words(found)} ({found['timezone']}); {_due(made, due, deployment)}")
    output.say(f"Prefect: {page}")
    output.finish(**_facts(made), next=next_run, page=page)


def default_name(flow: str, overrides: Sequence[str]) -> str:
    """`sweep-mlp_mnist-optimizers`: the flow, its experiment (or what stands in its place) and its search."""
    given = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    parts = [flow, given.get("experiment") or given.get("model", ""), given.get("search", "")]
    return re.sub(r"[^\w.]+", "-", "-".join(part for part in parts if part))[:60].strip("-")


def show(*, json: Json = False) -> None:
    """Show every schedule and when it runs next."""
    from flows import schedules
    from flows.commands.when import words
    from flows.lab.settings import Settings

    output, settings = Output(json), Settings.load()
    rows, facts = [], []
    for each in schedules.every(settings):
        due = schedules.upcoming(settings, each) if each.active and not each.deployment["paused"] else []
        given = overrides_of(each)
        active = "yes" if each.active else "paused"
        policy = str(each.parameters.get("catch_up", "latest"))
        zone = str(each.rule.get("timezone") or "UTC")
        rows.append([each.name, each.deployment["name"], words(each.rule), zone, _local(each, due), active, policy, " ".join(given)])
        facts.append({**_facts(each), "next": due[0].isoformat() if due else None, "catch_up": policy, "overrides": given})
    if rows:
        output.table(["name", "deployment", "when", "zone", "next run", "active", "catch-up", "overrides"], rows)
    else:
        output.say("there are no schedules; lab schedule train experiment=mlp_digits --every 6h makes one")
    output.finish(schedules=facts)


def overrides_of(schedule: Schedule) -> list[str]:
    """What a schedule's parameters say, as one would write it behind `lab schedule`; of other deployments as KEY=VALUE."""
    import inspect

    from flows.config.parameters import to_overrides

    known = schedule.deployment["parameter_openapi_schema"]["properties"]
    given = {key: value for key, value in schedule.parameters.items() if value is not None and key != "catch_up"}
    shared = inspect.signature(to_overrides).parameters.keys() if "experiment" in known else set()
    usual = {key: form.get("default") for key, form in known.items() if key != "search"}  # what is searched is always said
    own = [f"{key}={value}" for key, value in given.items() if key not in shared and value != usual.get(key)]
    return [*(to_overrides(**{key: value for key, value in given.items() if key in shared}) if shared else []), *own]


def pause(name: Which, *, json: Json = False) -> None:
    """Let a schedule rest; a run that is due already still runs."""
    _set_active(Output(json), name, active=False)


def resume(name: Which, *, json: Json = False) -> None:
    """Let a paused schedule go on; what was due in between stays undone."""
    _set_active(Output(json), name, active=True)


def _set_active(output: Output, name: str, *, active: bool) -> None:
    from flows import schedules
    from flows.lab.settings import Settings

    settings = Settings.load()
    found = schedules.find(settings, name)
    schedules.set_active(settings, found, active)
    due = schedules.upcoming(settings, found) if active else []
    output.say(f"{name} goes on; {_due(found, due, found.deployment)}" if active else f"{name} is paused; lab schedule resume {name}")
    output.finish(**_facts(found) | {"active": active}, next=due[0].isoformat() if due else None)


def delete(name: Which, *, json: Json = False) -> None:
    """Remove a schedule and its runs that have not begun."""
    from flows import schedules
    from flows.lab.settings import Settings

    output, settings = Output(json), Settings.load()
    found = schedules.find(settings, name)
    schedules.delete(settings, found)
    output.say(f"{name} is deleted")
    output.finish(**_facts(found), deleted=True)


def _facts(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "id": schedule.id,
        "deployment": schedule.deployment["name"],
        "schedule": schedule.rule,
        "parameters": schedule.parameters,
        "active": schedule.active,
    }


def _local(schedule: Schedule, due: list[Any]) -> str:
    """The next time on the clock of the schedule's zone; empty when there is none."""
    from zoneinfo import ZoneInfo

    return f"{due[0].astimezone(ZoneInfo(schedule.rule.get('timezone') or 'UTC')):%Y-%m-%d %H:%M:%S}" if due else ""


def _due(schedule: Schedule, due: list[Any], deployment: Any) -> str:
    """When it runs next, or why it does not."""
    from flows.schedules import DAYS_AHEAD

    if deployment["paused"]:
        return f"nothing runs before the deployment {deployment['name']}, which is paused, is resumed in the Prefect UI"
    return f"next run {_local(schedule, due)}" if due else f"no run within the next {DAYS_AHEAD} days, as far ahead as Prefect plans"


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    group = typer.Typer(help="Train and sweep on a timetable.", rich_markup_mode=None)
    commands: dict[str, Callable[..., None]] = {
        "train": train,
        "sweep": sweep,
        "list": show,
        "pause": pause,
        "resume": resume,
        "delete": delete,
    }
    for name, command in commands.items():
        group.command(name)(command)
    app.add_typer(group, name="schedule")
