"""What a sweep costs beside its trainings, and what a large study costs.

Reference of the first two: the same trainings, one after the other through `flows.experiment.run`, in as many bare processes as the
sweep has workers. Begin and end of a trial are the times in its journal, so starting the processes is not in it (`start` measures that).
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.places import environment, lab, lab_folder, running_lab
from benchmarks.report import Row, difference, ratio, seconds
from flows.lab.settings import Settings
from flows.records.journal import read

SHORT = ("experiment=mlp_digits", "trainer.epochs=5", "trainer.threads=1")
LONG = ("experiment=mlp_mnist", "trainer.epochs=40", "trainer.threads=1")
SPACE = "search.space={optimizer.learning_rate:{low:0.0005,high:0.002,log:true}}"
SEARCH = ("search=initializers", "search.sampler=tpe", "search.seeds=1", SPACE)
MILLISECONDS_A_TRIAL = 0.05
SLOWDOWN = 1.1
LARGE = 5000
BARE = """
import sys, time
import torch
torch.set_num_threads(1)
from flows import experiment
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
settings = Settings.load()
for number in range(int(sys.argv[1])):
    config = validate(compose([*sys.argv[2:], f"seed={number}"]))
    folder = experiment.create(config, settings)
    experiment.run(config, folder, settings, draw=False, splits=("validation",))
"""


def swept(settings: Settings, request: tuple[str, ...], trials: int, workers: int) -> float:
    """Seconds from the first trial's begin to the last one's end, of a sweep."""
    known = set(settings.sweeps.glob("*/trials/*"))
    lab(settings, "sweep", *request, *SEARCH, f"search.trials={trials}", f"search.workers={workers}")
    return span([folder for folder in settings.sweeps.glob("*/trials/*") if folder not in known])


def bare(settings: Settings, request: tuple[str, ...], trials: int, workers: int) -> float:
    """The same of the bare trainings."""
    known = set(settings.runs.glob("*"))
    command = [sys.executable, "-c", BARE, str(trials // workers), *request]
    processes = [subprocess.Popen(command, env=environment(settings)) for _ in range(workers)]
    if any(process.wait() for process in processes):
        raise RuntimeError("a bare training failed")
    return span([folder for folder in settings.runs.glob("*") if folder not in known])


def span(folders: list[Path]) -> float:
    """Seconds from the first line to the last in these run folders' journals."""
    times = [line["t"] for folder in folders for line in read(folder)]
    return (max(times) - min(times)) / 1000


def large_study(settings: Settings, trials: int) -> dict[str, float]:
    """Seconds of each step with a finished study of `trials` trials: opening, taking the next trial, counting, reporting."""
    import optuna

    from flows.search import storage
    from flows.search.page import html
    from flows.search.pictures import figures
    from flows.search.plan import Plan
    from flows.search.report import report
    from flows.search.results import Objective, Range
    from flows.search.space import Parameter, Space
    from flows.search.study import Sweep

    levels = {"optimizer": ("adam", "momentum", "rmsprop"), "initializer": ("xavier", "he_normal")}
    rate = Range(1e-4, 1.0, log=True)
    space = Space((*(Parameter(key, levels=each) for key, each in levels.items()), Parameter("optimizer.learning_rate", range=rate)))
    plan = Plan(name="large", space={"x": 1}, trials=trials + 1)
    objectives = [Objective("validation/accuracy", "max")]
    sweep = Sweep.create(settings, "large", overrides=["experiment=mlp_digits"], plan=plan, space=space, objectives=objectives, seed=0)
    draw = random.Random(0)
    distributions: dict[str, Any] = {
        **{key: optuna.distributions.CategoricalDistribution(each) for key, each in levels.items()},
        "optimizer.learning_rate": optuna.distributions.FloatDistribution(rate.low, rate.high, log=True),
    }
    storage.storage(settings).add(
        sweep.study._study_id,
        [
            optuna.create_trial(
                value=draw.random(),
                params={**{key: draw.choice(each) for key, each in levels.items()}, "optimizer.learning_rate": 10 ** draw.uniform(-4, 0)},
                distributions=distributions,
                user_attrs={
                    "phase": "search",
                    "configuration": number,
                    "seed": 0,
                    "run": f"large-{number}",
                    "outcome": {"seconds": 1.0, "samples": 1000, "curve": [(epoch, draw.random()) for epoch in range(1, 6)]},
                },
            )
            for number in range(trials)
        ],
    )
    took: dict[str, float] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = do()
        took[name] = time.perf_counter() - began
        return done

    again = step("open", lambda: Sweep.load(settings, "large"))
    worker = again.presence.sign_in("large")
    step("first look at all trials", again.counts)
    step("take the next trial (TPE)", lambda: again.take(worker))
    results = step("read the results", again.results)
    found = step("report", lambda: report(results))
    drawn = step("figures", lambda: figures(results, found))
    step("page", lambda: html(results, found, drawn))
    return took


def measure(*, repetitions: int = 3, trials: int = 20, with_lab: bool = True, size: int = LARGE, long: bool = True) -> list[Row]:
    """Rows for short trials one by one, long ones with two workers, and a large study."""
    rows: list[Row] = []
    for title, place in [("no lab running", lab_folder), ("under Prefect", running_lab)][: 1 + with_lab]:
        with place() as settings:
            bare(settings, SHORT, 2, 1)  # prepares the data
            pairs = [(swept(settings, SHORT, trials, 1), bare(settings, SHORT, trials, 1)) for _ in range(repetitions)]
            mine, theirs = ([total / trials for total in each] for each in zip(*pairs, strict=True))
            rows.append(difference(f"sweeps: a short trial, one worker, {title}", mine, theirs, goal=MILLISECONDS_A_TRIAL))
            if long and title == "under Prefect":
                bare(settings, LONG, 2, 2)
                pairs = [(swept(settings, LONG, 6, 2), bare(settings, LONG, 6, 2)) for _ in range(repetitions)]
                mine, theirs = (list(each) for each in zip(*pairs, strict=True))
                rows.append(ratio("sweeps: six trials of about 10 s, two workers", mine, theirs, unit="s", goal=SLOWDOWN))
    with lab_folder() as settings:
        rows += [seconds(f"sweeps: {size} trials: {name}", [took], goal=1.0) for name, took in large_study(settings, size).items()]
    return rows
