"""What the tests of real trainings share: small requests, the trainer as a process of its own, and what a run came to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab_processes import wait_for

from flows.lab.settings import Settings
from flows.records import journal

TINY = ["experiment=mlp_digits", "model.hidden=[16]", "trainer.epochs=2", "trainer.log_every=10", "trainer.threads=1"]
"""80 steps: a few hundredths of a second."""

EVERYTHING_RANDOM = [
    "experiment=mlp_digits",
    "model.hidden=[32,32]",
    "model.dropout=0.3",
    "optimizer=adam",
    "schedule=warmup_cosine",
    "trainer.epochs=8",
    "trainer.log_every=1",
    "trainer.diagnose_every=25",
    "trainer.clip_norm=1",
    "trainer.threads=1",
    "seed=11",
]
"""320 steps in which all that a checkpoint has to hold matters: dropout masks, moments, the schedule's place, the order of the batches."""


def environment(settings: Settings) -> dict[str, str]:
    """The variables of a process that belongs to the lab of `settings` and to no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "PREFECT_", "MLFLOW_"))}
    return kept | settings.lab_environment()


def here(settings: Settings, overrides: list[str], run: str, **options: Any) -> Path:
    """Run the experiment in this process, without its figures; returns the run's folder."""
    import torch

    from flows import experiment
    from flows.config.build import validate
    from flows.config.compose import compose

    threads, strictness = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    config = validate(compose(overrides))
    folder = experiment.create(config, settings, run)
    try:
        experiment.run(config, folder, settings, **{"draw": False, **options})
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strictness)
    return folder


class Trainer:
    """`python -m flows.trainer` with `request`, for use in a `with` statement; what is left of it is killed at the end."""

    def __init__(self, settings: Settings, request: dict[str, Any]) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(settings),
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, to the end of its output."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            yield self.said[-1]

    def hear(self, kind: str) -> dict[str, Any]:
        """The next line of this kind."""
        return next(line for line in self.lines() if line["kind"] == kind)

    def end(self) -> int:
        """Listen to the end; returns the exit code."""
        for _ in self.lines():
            pass
        return self.process.wait(60)


def last_step(folder: Path) -> int:
    """The last step whose loss is in the journal; 0 before the first."""
    return max((line["step"] for line in journal.read(folder) if "train/loss" in line.get("values", {})), default=0)


def until_step(folder: Path, step: int, *, alive: Callable[[], bool]) -> int:
    """Wait until the journal has reached `step`; returns where it is."""
    return int(wait_for(lambda: (at if (at := last_step(folder)) >= step else 0) or (not alive() and -1), 60))


def events(folder: Path) -> list[str]:
    """Names of the journal's events, in order."""
    return [line["event"] for line in journal.read(folder) if line["kind"] == "event"]


def result(folder: Path) -> dict[str, Any]:
    """The run's result, from its journal."""
    (found,) = [line["facts"] for line in journal.read(folder) if line.get("event") == "result"]
    return dict(found)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every series of the journal but the one that tells the machine's speed."""
    return {name: points for name, points in journal.history(folder).items() if name != "train/samples_per_second"}


def points(folder: Path) -> list[tuple[str, int]]:
    """(series, step) of every point in the journal, as often as it is there."""
    return [(name, line["step"]) for line in journal.read(folder) if line["kind"] == "metrics" for name in line["values"]]
