"""`lab`, the command line. Each group of commands is a file in `flows/commands` with a `register(app)`; this wires them together.

Exit codes: 0 done, 1 it failed, 2 the request was wrong (unknown commands, options and values as well). A `LabError` is one line on
stderr; with `--json` also `{"error": …, "exit_code": …}` on stdout. Anything else that escapes is a defect and keeps its traceback.
"""

import json
import sys
from collections.abc import Sequence

import typer

from components.errors import LabError
from flows.commands import lab, listing, schedule, sweep, team, training, using, vectors, worker
from flows.commands.output import harmless

INTERRUPTED = 130
"""What Typer makes of a Ctrl-C that no command has taken care of."""

app = typer.Typer(
    name="lab",
    help="Prepare, train, evaluate and compare the models of a deep-learning lecture.",
    rich_markup_mode=None,  # plain help: rich alone would take a third of the time that `lab --help` may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (training, sweep, using, vectors, schedule, lab, team, listing, worker):
    group.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `lab` with `arguments` (default: those of this process) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        code = int(app(args=list(arguments) or ["--help"], prog_name="lab", standalone_mode=False) or 0)
    except LabError as error:
        return _failed(str(error), error.exit_code, arguments)
    except typer.TyperException as error:
        return _failed(error.format_message(), error.exit_code, arguments)
    except typer.Abort:
        code = INTERRUPTED
    return _failed("stopped", 1, arguments) if code == INTERRUPTED else code


def _failed(message: str, exit_code: int, arguments: Sequence[str]) -> int:
    typer.echo(f"lab: {harmless(message)}", err=True)
    if "--json" in arguments:
        typer.echo(json.dumps({"error": message, "exit_code": exit_code}))
    return exit_code


if __name__ == "__main__":
    main()
