"""How every command talks: text for people, or with `--json` one JSON object as the only line on stdout, and all text on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
"""The option that every command has."""


_HARMFUL = (*range(32), *range(127, 160), *range(0xD800, 0xE000))
"""Control characters, and what stands for bytes of a file's name that are no UTF-8, which no stream takes."""
_ESCAPES = {ord(letter): repr(letter)[1:-1] for letter in map(chr, _HARMFUL) if letter not in "\n\t"}


def harmless(text: str) -> str:
    """A text as a terminal may be given it: control characters, which could move its cursor or ring its bell, as Python would write them.

    So are bytes that are no UTF-8. Line ends and tabs stay.
    """
    return text.translate(_ESCAPES)


class Output:
    """Where a command's words go.

    Args:
        as_json: whether `--json` was given.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def people(self) -> IO[str]:
        """The stream for people."""
        return sys.stderr if self.as_json else sys.stdout

    @property
    def console(self) -> "Console":
        """A rich console on the stream for people; lines that go to a file or a pipe are not folded at 80 columns."""
        from rich.console import Console

        return Console(file=self.people, highlight=False, width=None if self.people.isatty() else 160)

    def say(self, line: str) -> None:
        """One line for people."""
        typer.echo(harmless(line), file=self.people)

    def stream(self, pieces: Iterable[str]) -> None:
        """A text for people as it is made, and a line's end behind it."""
        for piece in pieces:
            typer.echo(harmless(piece), file=self.people, nl=False)
            self.people.flush()
        typer.echo(file=self.people)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A plain table for people; on a terminal it keeps to its width."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(harmless(cell)) for cell in row))
        self.console.print(table)

    def fail(self, message: str, *, code: int = 1, **facts: Any) -> NoReturn:
        """End the command with an exit code although it has an answer: one line on stderr, and the one JSON object holds both."""
        typer.echo(f"lab: {harmless(message)}", err=True)
        self.finish(**facts, error=message, exit_code=code)
        raise typer.Exit(code)

    def finish_or_fail(self, errors: Sequence[str], of: int, **facts: Any) -> None:
        """The end of a command that was given several things.

        Exit code 1 where some of them could not be used, 2 where none could.

        Args:
            errors: what was wrong with those that could not.
            of: how many there were.
            facts: the answer.
        """
        if not errors:
            self.finish(**facts)
        elif len(errors) < of:
            self.fail(f"{len(errors):,} of {of:,} could not be used", **facts)
        else:
            self.fail(errors[0] if of == 1 else "nothing that was given could be used", code=2, **facts)

    def finish(self, **facts: Any) -> None:
        """The command's answer as JSON; printed last, and only with `--json`."""
        if self.as_json:
            typer.echo(json.dumps(facts, default=str))
