"""A sweep as it goes on, for people: a bar of trials on a terminal, a line now and then everywhere else."""

from __future__ import annotations

from typing import Any

from flows.commands.display import Bar
from flows.commands.output import Output


class SweepDisplay(Bar):
    """What a `SweepSession` is watched by (its `watch`)."""

    def __init__(self, output: Output) -> None:
        super().__init__(output, "trials")

    def __call__(self, line: dict[str, Any]) -> None:
        """Show one line of the sweep or of a worker."""
        match line["kind"]:
            case "note" | "warning":
                self.say(line.get("text") or f"warning: {line['message']}")
            case "way":
                self.say(f"{line['way']}: {line['reason']}")
            case "trial" if line["state"] == "failed":
                self.say(f"{line['run']} failed: {_settings(line)}")
            case "counts":
                self._counts(line)

    def _counts(self, line: dict[str, Any]) -> None:
        done = line["complete"] + line["pruned"] + line["failed"]
        text = ", ".join(f"{line[name]} {name}" for name in ("running", "pruned", "failed") if line[name])
        of = f"{done} of {line['total']} trials" if line["total"] else f"{done} trials"
        if self.live:
            self.bar.update(self.task, completed=done, total=line["total"] or None, values=text, visible=True)
        elif done == line["total"]:
            self.say(of)
        else:
            self.say_now_and_then(of + (f" ({text})" if text else ""))


def _settings(line: dict[str, Any]) -> str:
    return ", ".join([*(f"{key}={value}" for key, value in line["chosen"].items()), f"seed={line['seed']}"])
