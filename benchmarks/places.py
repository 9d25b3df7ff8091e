"""Places to measure in: a lab folder of its own on free ports, with or without running servers, gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.lab.settings import Settings
from flows.records.journal import read

LAB = Path(sys.executable).with_name("lab")
PATIENCE = 120.0
"""Seconds after which a run that shows nothing is given up."""


@contextmanager
def lab_folder() -> Iterator[Settings]:
    """Settings of an empty LAB_HOME on two free ports."""
    with tempfile.TemporaryDirectory(prefix="lab-benchmark-", ignore_cleanup_errors=True) as folder:
        with socket.socket() as prefect, socket.socket() as mlflow:
            for each in (prefect, mlflow):
                each.bind(("127.0.0.1", 0))
            ports = prefect.getsockname()[1], mlflow.getsockname()[1]
        yield Settings(Path(folder) / "lab", prefect_port=ports[0], mlflow_port=ports[1], data_mirror=Settings.load().data_mirror)


@contextmanager
def running_lab() -> Iterator[Settings]:
    """The same with Prefect, MLflow and a worker running; stopped at the end, whatever happens."""
    with lab_folder() as settings:
        try:
            lab(settings, "up", "--detach")
            yield settings
        finally:
            lab(settings, "down")


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it."""
    return os.environ | settings.lab_environment()


def lab(settings: Settings, *arguments: str) -> None:
    """Run a `lab` command to its end; RuntimeError with what it said where it fails."""
    done = subprocess.run([LAB, *arguments], env=environment(settings), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lab {' '.join(arguments)} ended with exit code {done.returncode}: {done.stderr.strip()}")


def first_step_at(settings: Settings, known: set[str]) -> float:
    """When (seconds since 1970) the one run that is not in `known` did its first step; waits for it.

    The first step is always looked at by layer, so the journal has a line of that moment, to the millisecond.

    Raises:
        TimeoutError: nothing of the kind happened.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for name in runs(settings) - known:
            for line in read(settings.runs / name):
                if line["kind"] == "metrics" and line["step"] == 1:
                    return float(line["t"]) / 1000
        time.sleep(0.05)
    raise TimeoutError(f"no run in {settings.runs} began within {PATIENCE:.0f} s")


def runs(settings: Settings) -> set[str]:
    """Names of the runs there are."""
    return {path.parent.name for path in settings.runs.glob("*/config.json")}
