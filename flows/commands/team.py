"""`lab init-db`, `migrate`, `access`, `notify`, `gc`: what one machine needs to become a team's."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from components.errors import RequestError, RunError
from flows.commands.output import Json, Output


def init_db(*, json: Json = False) -> None:
    """Make all tables in PostgreSQL (LAB_DATABASE_URL), or bring them forward; again does no harm."""
    from flows.databases import initialise
    from flows.lab.settings import Settings

    output = Output(json)
    initialise(Settings.load(), output.say)
    output.say("all tables are ready")
    output.finish(ready=True)


def migrate(*, json: Json = False) -> None:
    """Copy this lab from its SQLite files to PostgreSQL (LAB_DATABASE_URL), and check that everything has arrived."""
    from flows.lab.settings import Settings
    from flows.migration import migrate as copy

    output, settings = Output(json), Settings.load()
    copied = copy(settings, output.say)
    output.table(["", "copied"], [[what, str(count)] for what, count in copied.items()])
    output.say("everything has arrived; the files stay as they were, and may go when you have looked at it")
    output.finish(copied=copied)


def access(
    *,
    role: Annotated[Literal["reader", "editor"], typer.Option(help="What the other machine may do in MLflow.")] = "editor",
    into: Annotated[
        Path | None, typer.Option(help="Write a file of credentials for another machine.", dir_okay=False, show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show who may use the servers, or write the credentials for another machine; passwords are never shown."""
    from flows.lab import access
    from flows.lab.settings import Settings

    output, settings = Output(json), Settings.load()
    found = access.required(settings.credentials)
    if into is not None:
        access.export(found, role, into)
        output.say(f"{into} lets its owner use Prefect and {'look at' if role == 'reader' else 'write to'} MLflow; take it there safely,")
        output.say("and name it by LAB_CREDENTIALS there")
    users = {"Prefect": found.prefect, "MLflow": found.mlflow, "MLflow, administrator": found.admin, "MLflow, looks only": found.reader}
    known = {where: login.user for where, login in users.items() if login is not None}
    output.table(["where", "user"], [[where, user] for where, user in known.items()])
    output.say(f"their passwords are in {settings.credentials}")
    output.finish(users=known, file=str(settings.credentials), written=None if into is None else str(into))


def notify(*, json: Json = False) -> None:
    """Make Prefect's automations what notifications.yaml says (lab up does, too)."""
    from flows.lab import health, notifications
    from flows.lab.settings import Settings

    output, settings = Output(json), Settings.load()
    wanted = notifications.read(settings)
    if not health.answers(settings, "prefect"):
        raise RequestError(f"{settings.notifications} is right, but no lab is running: lab up --detach starts it")
    try:
        names = notifications.apply(settings)
    except OSError as error:
        raise RunError(f"the Prefect server refused a request: {error}") from None
    for name in names:
        output.say(name.removeprefix(notifications.PREFIX))
    if not wanted["notify"]:
        output.say(f"nothing is sent to anybody; {settings.notifications} may say what is")
    output.finish(automations=names)


def gc(
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, only show what would go.")] = False,
    failed_after: Annotated[float, typer.Option(min=0, help="Days after which a failed run goes.")] = 30.0,
    checkpoints_after: Annotated[float, typer.Option(min=0, help="Days after which checkpoints go.")] = 30.0,
    json: Json = False,
) -> None:
    """Show, or with --delete remove, failed runs and checkpoints that are old; never a champion's, nothing that is being written."""
    from flows import cleaning
    from flows.commands.lab import size
    from flows.lab.settings import Settings

    output, settings = Output(json), Settings.load()
    found = cleaning.find(settings, failed_days=failed_after, checkpoint_days=checkpoints_after)
    if delete:
        found = cleaning.remove(settings, found)
    rows = [[str(each.path.relative_to(settings.home)), each.why, size(each.size) or ""] for each in found]
    if rows:
        output.table(["removed" if delete else "would go", "why", "size"], rows)
    total = sum(each.size for each in found)
    end = "" if delete or not found else "; lab gc --delete removes it"
    output.say(f"{size(total)} in {len(found)} places{end}" if found else "nothing is old enough to go")
    output.finish(deleted=delete, removals=[{"path": str(each.path), "why": each.why, "bytes": each.size} for each in found], bytes=total)


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    app.command(name="init-db")(init_db)
    for command in (migrate, access, notify, gc):
        app.command()(command)
