"""A training as it goes on, for people: a progress bar on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from flows.commands.output import Output

SECONDS_BETWEEN_LINES = 5.0
SHOWN = ("train/loss", "validation/accuracy", "validation/loss")
"""Series that fit beside a bar, where a run has them."""


class Bar:
    """A progress bar on a terminal, and lines everywhere else; subclasses hear lines about what goes on.

    Args:
        output: where to.
        title: what the bar counts.
    """

    def __init__(self, output: Output, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.output = output
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=output.console,
            transient=True,
        )
        self.live = output.console.is_terminal
        self.task = self.bar.add_task(title, total=None, values="", visible=False)
        self.said_at = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.bar.stop()

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        if self.live:
            self.bar.console.print(text, markup=False, soft_wrap=True)
        else:
            self.output.say(text)

    def say_now_and_then(self, text: str) -> None:
        """One line, unless the last one of this kind was a moment ago."""
        if time.monotonic() - self.said_at > SECONDS_BETWEEN_LINES:
            self.said_at = time.monotonic()
            self.say(text)


class Display(Bar):
    """What a `Session` is watched by (its `watch`)."""

    def __init__(self, output: Output) -> None:
        super().__init__(output, "fit")
        self.values: dict[str, float] = {}

    def __call__(self, line: dict[str, Any]) -> None:
        """Show one line of the trainer."""
        match line["kind"]:
            case "run":
                self.say(f"run {line['run']}")
            case "note" | "warning":
                self.say(line.get("text") or f"warning: {line['message']}")
            case "stage" if line["state"] == "finished":
                self.bar.update(self.task, visible=False)
                self.say(f"{line['name']:<9} {line['seconds']:6.1f} s")
            case "progress":
                self._progress(line)

    def _progress(self, line: dict[str, Any]) -> None:
        self.values |= line["values"]
        total = line["total"] or None
        text = "  ".join(f"{name} {self.values[name]:.4f}" for name in SHOWN if name in self.values)
        epoch = f"epoch {min(line['epoch'] + 1, line['epochs'])}/{line['epochs']}"
        if self.live:
            self.bar.update(self.task, description=epoch, completed=line["step"], total=total, values=text, visible=True)
        elif total:
            self.say_now_and_then(f"{epoch}  step {line['step']}/{total}  {text}")
