"""`lab train --queue [--watch]`: the same run, done by the lab's worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import Interrupted, RunError
from flows.commands.output import Output
from flows.config.parameters import from_overrides
from flows.lab.settings import Settings
from flows.queue import follow, outcome, queue


def submit(output: Output, overrides: list[str], resume: str, *, watch: bool) -> None:
    """Queue a run of the deployment `train/train`; with `watch`, follow it to its end.

    Raises:
        RequestError: the request is wrong, or no lab is running.
        RunError: the run that was watched did not complete.
    """
    overrides = [absolute(text) for text in overrides]
    if not resume:
        from flows.config.build import validate
        from flows.config.compose import compose
        from flows.lineage import ancestors

        ancestors(validate(compose(overrides)))  # a wrong request is refused here, not half a minute later by the worker
    found = hand_over(output, "train/train", {**from_overrides(overrides), "resume": resume}, watch=watch)
    if watch:
        output.table(["metric", "value"], [[name, f"{value:.4f}"] for name, value in sorted(found.get("metrics", {}).items())])
        output.say(f"MLflow: {found.get('url')}")
    output.finish(**found)


def hand_over(output: Output, deployment: str, parameters: dict[str, Any], *, watch: bool) -> dict[str, Any]:
    """Queue one run of `deployment`, follow it to its end with `watch`; returns what is known of it.

    Raises:
        RequestError: no lab is running, or the server refuses the parameters.
        RunError: the run that was watched did not complete.
    """
    settings = Settings.load()
    queued = queue(settings, deployment, parameters)
    output.say(f"queued as {queued.name}: {queued.page}")
    found: dict[str, Any] = {"flow_run_id": queued.id, "flow_run_name": queued.name, "page": queued.page}
    if not watch:
        return found
    try:
        state, message = follow(settings, queued, output.say)
    except KeyboardInterrupt:
        raise Interrupted(f"no longer watching; the run goes on: {queued.page}") from None
    if state != "COMPLETED":
        raise RunError(f"the run ended as {state.lower()}: {message}")
    return found | outcome(settings, queued)


def absolute(override: str) -> str:
    """`data.path=pictures` → `data.path=/home/…/pictures`: the worker's current folder is another one. Other overrides stay."""
    key, _, value = override.partition("=")
    if value and not value.startswith(("/", "~", "'", '"', "$")):
        if key.endswith(".path"):
            return f"{key}='{Path(value).absolute()}'"
        kind, _, path = value.partition(":")
        if key == "pretrained" and kind in ("file", "hf") and not path.startswith(("/", "~")):
            return f"{key}='{kind}:{Path(path).absolute()}'"
    return override
