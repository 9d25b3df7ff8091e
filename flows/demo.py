"""`make demo`: from nothing to two trained models in both UIs. Everything is done by the deployed flows, as a person would in the UI."""

from __future__ import annotations

import sys
import time
from typing import Any

from components.errors import LabError, RunError
from flows import runs
from flows.commands.output import Output
from flows.lab import servers
from flows.lab.settings import Settings
from flows.queue import Queued, follow, outcome, queue
from flows.records.tracking import run_page

EXPERIMENTS = ("mlp_mnist", "vgg_mnist")


def main() -> int:
    """Run the demo; returns the exit code."""
    try:
        demo(Output(as_json=False))
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201 — the one line that a person gets
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: stopped; make demo goes on from here, lab down stops the servers", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def demo(output: Output) -> None:
    """Start the lab, prepare MNIST, train both experiments (or find them trained), show where to look."""
    began = time.monotonic()

    def say(text: str) -> None:
        output.say(f"{time.monotonic() - began:6.1f} s  {text}")

    settings = Settings.load()
    if servers.up(settings, say):
        say(f"the lab is up: Prefect {settings.prefect_ui}  MLflow {settings.mlflow_ui}")
    else:
        say("the lab is already running")
    prepare = queue(settings, "prepare-data/prepare-data", {"data": "mnist"})
    say(f"preparing 5,000 MNIST digits: {prepare.page}")
    _completed(settings, prepare, say)
    rows = [_trained(name, settings, say) for name in EXPERIMENTS]
    table = [[row["experiment"], f"{row['metrics']['test/accuracy']:.4f}", f"{row['seconds']:.1f}", row["how"], row["url"]] for row in rows]
    output.table(["experiment", "test accuracy", "seconds", "", "run in MLflow"], table)
    champion = max(rows, key=lambda row: row["monitor"][2])
    output.say(f"The champion of mnist-classification, by validation accuracy, is {champion['run']}.")
    output.say(f"Prefect  {settings.prefect_ui}   choose the deployment `train`, then Run")
    output.say(f"MLflow   {settings.mlflow_ui}")
    output.say("The lab keeps running; stop it with: .venv/bin/lab down")


def _trained(experiment: str, settings: Settings, say: Any) -> dict[str, Any]:
    """The experiment's run: an earlier one with the same configuration, or one trained now by the worker."""
    from flows.config.build import validate
    from flows.config.compose import compose

    earlier = runs.finished_like(validate(compose([f"experiment={experiment}"])), settings)
    if earlier is not None:
        say(f"{experiment} was trained before: {earlier.name}")
        url = run_page(settings.mlflow_uri, runs.mlflow_experiment_id(earlier), str(runs.mlflow_run_id(earlier)))
        return {"experiment": experiment, "how": "from before", "url": url, **runs.result(earlier)}
    queued = queue(settings, "train/train", {"experiment": experiment})
    say(f"training {experiment}: {queued.page}")
    _completed(settings, queued, say)
    return {"experiment": experiment, "how": "now", **outcome(settings, queued)}


def _completed(settings: Settings, queued: Queued, say: Any) -> None:
    state, message = follow(settings, queued, lambda line: say(f"  {line[10:]}"))
    if state != "COMPLETED":
        raise RunError(f"{queued.name} ended as {state.lower()}: {message} ({queued.page})")


if __name__ == "__main__":
    sys.exit(main())
