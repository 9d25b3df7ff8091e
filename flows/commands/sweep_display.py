"""A sweep as it goes on, for people: a bar of trials on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from flows.commands.output import Output

SECONDS_BETWEEN_LINES = 5.0


class SweepDisplay:
    """What a `SweepSession` is watched by (its `watch`)."""

    def __init__(self, output: Output) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.output = output
        self.bar = Progress(
            TextColumn("trials"),
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
        self.task = self.bar.add_task("trials", total=None, values="", visible=False)
        self.said_at = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.bar.stop()

    def __call__(self, line: dict[str, Any]) -> None:
        """Show one line of the sweep or of a worker."""
        match line["kind"]:
            case "note" | "warning":
                self._say(line.get("text") or f"warning: {line['message']}")
            case "trial" if line["state"] == "failed":
                self._say(f"{line['run']} failed: {_settings(line)}")
            case "counts":
                self._counts(line)

    def _counts(self, line: dict[str, Any]) -> None:
        done = line["complete"] + line["pruned"] + line["failed"]
        text = ", ".join(f"{line[name]} {name}" for name in ("running", "pruned", "failed") if line[name])
        if self.live:
            self.bar.update(self.task, completed=done, total=line["total"], values=text, visible=True)
        elif done == line["total"] or time.monotonic() - self.said_at > SECONDS_BETWEEN_LINES:
            self.said_at = time.monotonic()
            self._say(f"{done} of {line['total']} trials" + (f" ({text})" if text else ""))

    def _say(self, text: str) -> None:
        if self.live:
            self.bar.console.print(text, markup=False, soft_wrap=True)
        else:
            self.output.say(text)


def _settings(line: dict[str, Any]) -> str:
    return ", ".join([*(f"{key}={value}" for key, value in line["chosen"].items()), f"seed={line['seed']}"])
