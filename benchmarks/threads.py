"""One thread, several, and several that sleep while they wait: alone and beside a busy process, for the models of the experiments.

OpenMP's threads spin for a while where they wait for each other. Beside another busy process the one that is waited for may not be
running at all, and the others spin for nothing. `OMP_WAIT_POLICY=PASSIVE` lets them sleep at once, which costs a wake-up each time.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.report import Row, ratio
from flows.child import WAITING

BLOCKS = {"mlp_digits": 100, "mlp_mnist": 50, "vgg_mnist": 3}
"""Experiment → optimizer steps in one turn, a small part of a second each."""
SHAPES = {"mlp_digits": (1, 8, 8)}
CORES = os.cpu_count() or 1
WAYS: dict[str, dict[str, str]] = {
    f"{CORES} threads": {},
    f"{CORES} threads, OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    f"{CORES} threads, GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
}


class Nobody:
    """A recorder that forgets."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Forget."""

    def figure(self, name: str, figure: Any, *, step: int) -> None:
        """Forget."""

    def flush(self) -> None:
        """Nothing is kept."""


def in_turns(experiment: str, block: int, turns: int) -> tuple[list[float], list[float]]:
    """Seconds a step of the experiment's model on random pictures, in this process: each turn's with all cores, and with one thread."""
    import torch

    from benchmarks.loop import Setting, Synthetic
    from components.data.batches import Batches
    from components.training.device import configure
    from components.training.loop import fit
    from components.training.settings import Trainer
    from flows.config.build import build, validate
    from flows.config.compose import compose
    from flows.parts import build_model

    config = validate(compose([f"experiment={experiment}"]))
    steps = 2 * (turns + 1) * block
    trainer: Trainer = replace(build(config["trainer"]), max_steps=steps, epochs=steps, diagnose_every=0)
    configure(threads=0, deterministic=trainer.deterministic)
    shape = SHAPES.get(experiment, (1, 28, 28))
    model, objective = build_model(config, {"input_shape": list(shape), "classes": 10, "class_names": [str(name) for name in range(10)]})
    data = Synthetic(Setting(experiment, shape[1] * shape[2], (), trainer.batch_size, 4000))
    data.inputs = data.inputs.reshape(-1, *shape)
    taken: list[float] = []
    done = itertools.count(1)
    began = 0.0

    def turn() -> bool:
        nonlocal began
        if next(done) % block == 0:
            taken.append((time.perf_counter() - began) / block)
            torch.set_num_threads(1 if len(taken) % 2 else CORES)
            began = time.perf_counter()
        return False

    torch.set_num_threads(CORES)
    began = time.perf_counter()
    fit(
        model,
        objective,
        Batches(data, batch_size=trainer.batch_size, seed=0, shuffle=True),
        None,
        optimizer=build(config["optimizer"]),
        schedule=build(config["schedule"]),
        settings=trainer,
        device=torch.device("cpu"),
        recorder=Nobody(),
        stopping=turn,
    )
    return taken[2::2], taken[3::2]  # the first turn of each warms up


def in_a_process(experiment: str, block: int, turns: int, variables: Mapping[str, str]) -> tuple[list[float], list[float]]:
    """`in_turns` in a process of its own: these variables are read when torch is loaded."""
    command = [sys.executable, "-m", "benchmarks.threads", experiment, str(block), str(turns)]
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**environment, **variables})
    several, one = json.loads(done.stdout)
    return several, one


@contextmanager
def company(busy: bool) -> Iterator[None]:
    """With one process that computes all the time, or without."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(*, turns: int = 20, blocks: Mapping[str, int] = BLOCKS) -> list[Row]:
    """Every way over one thread; no goal, for a decision (docs/adr/0011-threads.md)."""
    rows = []
    for (experiment, block), busy, (way, variables) in itertools.product(blocks.items(), (False, True), WAYS.items()):
        with company(busy):
            several, one = in_a_process(experiment, block, turns, variables)
        beside = "beside a busy process" if busy else "alone"
        rows.append(ratio(f"threads: {experiment} {beside}, {way} over one", several, one, unit="µs/step", scale=1e6))
    return rows


if __name__ == "__main__":
    print(json.dumps(in_turns(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
