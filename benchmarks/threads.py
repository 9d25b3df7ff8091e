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
from typing import Any

from benchmarks.report import Row, ratio

STEPS = {"mlp_digits": 2000, "mlp_mnist": 1000, "vgg_mnist": 40}
SHAPES = {"mlp_digits": (1, 8, 8)}
CORES = os.cpu_count() or 1
WAYS: dict[str, tuple[int, dict[str, str]]] = {
    f"{CORES} threads": (CORES, {}),
    f"{CORES} threads, OMP_WAIT_POLICY=PASSIVE": (CORES, {"OMP_WAIT_POLICY": "PASSIVE"}),
    f"{CORES} threads, GOMP_SPINCOUNT=10000": (CORES, {"GOMP_SPINCOUNT": "10000"}),
}


class Nobody:
    """A recorder that forgets."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Forget."""

    def figure(self, name: str, figure: Any, *, step: int) -> None:
        """Forget."""

    def flush(self) -> None:
        """Nothing is kept."""


def train(experiment: str, threads: int, steps: int) -> float:
    """Seconds a step of the experiment's model on random pictures, in this process; the first fifth warms up."""
    from dataclasses import replace

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
    trainer: Trainer = replace(build(config["trainer"]), threads=threads, max_steps=steps, epochs=steps, diagnose_every=0)
    configure(threads=threads, deterministic=trainer.deterministic)
    shape = SHAPES.get(experiment, (1, 28, 28))
    model, objective = build_model(config, {"input_shape": list(shape), "classes": 10, "class_names": [str(name) for name in range(10)]})
    data = Synthetic(Setting(experiment, shape[1] * shape[2], (), trainer.batch_size, 4000))
    data.inputs = data.inputs.reshape(-1, *shape)
    times: list[float] = []

    def note() -> bool:
        times.append(time.perf_counter())
        return False

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
        stopping=note,
    )
    warm = len(times) // 5
    return (times[-1] - times[warm]) / (len(times) - 1 - warm)


def in_a_process(experiment: str, threads: int, steps: int, variables: Mapping[str, str]) -> float:
    """`train` in a process of its own: these variables are read when torch is loaded."""
    command = [sys.executable, "-m", "benchmarks.threads", experiment, str(threads), str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | variables)
    return float(json.loads(done.stdout))


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


def measure(*, repetitions: int = 3, steps: Mapping[str, int] = STEPS) -> list[Row]:
    """Every way over one thread, in turns; no goal, for a decision (docs/adr/0011-threads.md)."""
    rows = []
    for experiment, busy in itertools.product(steps, (False, True)):
        taken: dict[str, list[float]] = {way: [] for way in ("one", *WAYS)}
        with company(busy):
            for _ in range(repetitions):
                taken["one"].append(in_a_process(experiment, 1, steps[experiment], {}))
                for way, (threads, variables) in WAYS.items():
                    taken[way].append(in_a_process(experiment, threads, steps[experiment], variables))
        beside = "beside a busy process" if busy else "alone"
        for way in WAYS:
            rows.append(ratio(f"threads: {experiment} {beside}, {way} over one", taken[way], taken["one"], unit="µs/step", scale=1e6))
    return rows


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
