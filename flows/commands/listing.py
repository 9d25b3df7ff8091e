"""`lab list`: what there is to choose from."""

from typing import Annotated

import typer

from components.errors import RequestError, closest
from flows.commands.output import Json, Output

KINDS = {
    "experiments": "experiment",
    "models": "model",
    "data": "data",
    "optimizers": "optimizer",
    "activations": "activation",
    "initializers": "initializer",
    "schedules": "schedule",
    "objectives": "objective",
    "trainers": "trainer",
    "searches": "search",
}
"""What a person asks for, and the configuration group behind it."""


def complete(incomplete: str) -> list[str]:
    """The kinds that start with what was typed."""
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def list_choices(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}; all when left out.", autocompletion=complete)] = "",
    *,
    json: Json = False,
) -> None:
    """List experiments, models, data … with one line each."""
    from flows.config import names

    output = Output(json)
    if kind and kind not in KINDS and kind not in KINDS.values():
        raise RequestError(f"there are no {kind!r} to list; choose from {', '.join(KINDS)}{closest(kind, KINDS)}")
    chosen = {name: group for name, group in KINDS.items() if not kind or kind in {name, group}}
    found = {name: names.describe(group) for name, group in chosen.items()}
    for name, choices in found.items():
        output.table([name, "description"], choices)
    output.finish(**{name: [{"name": choice, "description": text} for choice, text in choices] for name, choices in found.items()})


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    app.command("list")(list_choices)
