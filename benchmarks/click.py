"""From a click on Run in the Prefect UI to the first training step.

The button sends one request: create a flow run of the deployment, scheduled for now. Everything after it is real: the worker picks the
run up, starts a process for it, that one starts the trainer.
"""

from __future__ import annotations

import time

from benchmarks.places import PATIENCE, first_step_at, lab, running_lab, runs
from benchmarks.report import Row, seconds
from flows.lab.health import call
from flows.lab.settings import Settings

GOAL = 12.0
PARAMETERS = {"experiment": "mlp_digits", "overrides": ["trainer=quick"]}


def click(settings: Settings) -> float:
    """Seconds from the request to the first step; the flow run is waited for."""
    deployment = call(f"{settings.prefect_api}/deployments/name/train/train")["id"]
    known, began = runs(settings), time.time()
    body = {"parameters": PARAMETERS, "state": {"type": "SCHEDULED"}}
    run = call(f"{settings.prefect_api}/deployments/{deployment}/create_flow_run", body)["id"]
    took = first_step_at(settings, known) - began
    deadline = time.monotonic() + PATIENCE
    while (state := call(f"{settings.prefect_api}/flow_runs/{run}")["state"]["type"]) in {"SCHEDULED", "PENDING", "RUNNING"}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the flow run is still {state} after {PATIENCE:.0f} s")
        time.sleep(0.5)
    if state != "COMPLETED":
        raise RuntimeError(f"the flow run ended as {state}")
    return took


def measure(*, repetitions: int = 5) -> list[Row]:
    """One row; data prepared before."""
    with running_lab() as settings:
        lab(settings, "prepare", "data=digits")
        first, *others = [click(settings) for _ in range(repetitions + 1)]
    return [
        seconds("click: first step after the very first Run of a new lab", [first], goal=GOAL),
        seconds("click: first step after Run", others, goal=GOAL),
    ]
