"""`lab up`, `down`, `status`, `doctor`: the local servers."""

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import RequestError, RunError
from flows.commands.output import Json, Output

if TYPE_CHECKING:
    from flows.lab.settings import Settings


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything runs, instead of staying until Ctrl-C.")] = False,
    team: Annotated[bool, typer.Option("--team", help="The servers ask for credentials, made now if there are none.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until everything has to answer.")] = 180.0,
    json: Json = False,
) -> None:
    """Start the Prefect server, the MLflow server and a worker."""
    from flows.lab import access, published, servers
    from flows.lab.settings import Settings

    output, settings, begin = Output(json), Settings.load(), time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    secured = access.read(settings.credentials) is not None
    if team and not secured and servers.supervised(settings):
        raise RequestError("the lab is running without credentials; lab down, then lab up --team")
    with _Progress(output) as progress:
        try:
            started = servers.up(settings, progress.say, team=team, timeout=timeout)
        except KeyboardInterrupt:
            raise RunError("stopped before everything was up; nothing is left running") from None
        delivered = _repair(settings, progress.say) if started else 0
        renewed = [] if started else published.renew(settings)
    facts = {
        "started": started,
        "renewed": renewed,
        "delivered": delivered,
        "prefect": settings.prefect_ui,
        "mlflow": settings.mlflow_ui,
        "home": str(settings.home),
    }
    if started:
        output.say(f"the lab is up after {time.monotonic() - begin:.1f} s; everything is kept in {settings.home}")
    elif renewed:
        output.say(f"the lab is already running; brought up to date: {', '.join(renewed)} (all other settings take lab down first)")
    else:
        output.say("the lab is already running; nothing was changed")
    output.say(f"  Prefect  {settings.prefect_ui}")
    output.say(f"  MLflow   {settings.mlflow_ui}")
    output.finish(**facts, seconds=round(time.monotonic() - begin, 2))
    if started and not detach:
        try:
            output.say("Ctrl-C stops it (lab up --detach leaves it running)")
            while servers.supervised(settings):
                time.sleep(1.0)
            output.say("the lab was stopped from elsewhere")
        except KeyboardInterrupt:
            servers.down(settings, output.say)
            output.say("the lab is stopped")


def _repair(settings: "Settings", say: Callable[[str], None]) -> int:
    """Put right what the last end of the lab left behind; returns how many runs MLflow has been brought."""
    if not any(any(folder.glob("*/journal.jsonl")) for folder in (settings.runs, settings.sweeps)):
        return 0
    from flows.search.repair import repair as put_right

    return len(put_right(settings, say=say).delivered)


def repair(*, json: Json = False) -> None:
    """Make Optuna, MLflow and Prefect agree again after a crash; never touches what is alive."""
    from flows.lab.settings import Settings
    from flows.search.repair import repair as put_right

    output = Output(json)
    found = put_right(Settings.load(), say=output.say)
    if not any(found.lines()):
        output.say("nothing to repair: all stores agree")
    output.finish(**vars(found))


def down(*, json: Json = False) -> None:
    """Stop all of it; running flow runs save a checkpoint first."""
    from flows.lab import servers
    from flows.lab.settings import Settings

    output, settings, begin = Output(json), Settings.load(), time.monotonic()
    with _Progress(output) as progress:
        stopped = servers.down(settings, progress.say)
    output.say(f"the lab is stopped after {time.monotonic() - begin:.1f} s" if stopped else "the lab was not running")
    output.finish(stopped=stopped, home=str(settings.home), seconds=round(time.monotonic() - begin, 2))


def status(*, json: Json = False) -> None:
    """Show the servers, the flow runs and the disk."""
    from flows.lab import status
    from flows.lab.settings import Settings

    output = Output(json)
    found = status.look(Settings.load())
    rows = []
    for server in found.servers:
        pid = "" if server.pid is None else str(server.pid)
        since = "" if server.uptime_seconds is None else duration(server.uptime_seconds)
        rows.append([server.name, server.state, server.address, pid, since, size(server.memory_bytes)])
    output.table(["server", "state", "address", "pid", "up for", "memory"], rows)
    if found.flow_runs is not None:
        own = f", using {size(found.flow_run_bytes)}" if found.flow_run_bytes else ""
        output.say(f"flow runs: {found.flow_runs['running']} running, {found.flow_runs['queued']} queued{own}")
    parts = ", ".join(f"{name} {size(used)}" for name, used in found.disk.items()) or "empty"
    output.say(f"{found.home}: {parts}{'' if found.disk_complete else ' (at least)'}; {size(found.free_bytes)} free")
    if found.quota and found.quota.warning:
        output.say(found.quota.warning)
    output.finish(**found.as_json())


def doctor(*, json: Json = False) -> None:
    """Check versions, device, servers, disk; say how to mend what is wrong. Exit code 1 when something is."""
    from flows.lab import doctor
    from flows.lab.settings import Settings

    output = Output(json)
    findings = doctor.examine(Settings.load())
    style = {"ok": "green", "warn": "yellow", "fail": "red"}
    console = output.console
    for finding in findings:
        console.print(f"[{style[finding.level]}]{finding.level:4}[/]  ", end="")
        console.print(f"{finding.check}: {finding.found}", markup=False, soft_wrap=True)
        if finding.mend:
            console.print(f"      → {finding.mend}", markup=False, soft_wrap=True)
    failed = sum(finding.level == "fail" for finding in findings)
    output.finish(ok=not failed, findings=[vars(finding) for finding in findings])
    if failed:
        raise typer.Exit(1)


def size(number: int | None) -> str:
    """Bytes for people: `512 kB`, `1.4 GB`; empty for None."""
    if number is None:
        return ""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= bytes_:
            value = number / bytes_
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{number} B"


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if not minutes:
        return f"{int(seconds)} s"
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"


class _Progress:
    """Steps as they happen, on stderr: finished lines stay, and on a terminal the current step has a spinner."""

    def __init__(self, output: Output) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("…")
        self._spins = self._console.is_terminal and not output.as_json
        self._begin = time.monotonic()

    def __enter__(self) -> "_Progress":
        if self._spins:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._spins:
            self._status.stop()

    def say(self, line: str) -> None:
        """One step."""
        self._status.update(line)
        self._console.print(f"{time.monotonic() - self._begin:6.1f} s  {line}", markup=False, soft_wrap=True)


def _interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    for command in (up, down, status, doctor, repair):
        app.command()(command)
