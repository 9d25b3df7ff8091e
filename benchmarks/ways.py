"""Trials per minute and memory of one sweep done in three ways: one by one, in two processes, many together as one program.

The sweep is `search=lecture`. Time is from the first trial's first line in its journal to the last one's last, so everything that a sweep
does for a trial is in it: composing, Optuna, journals, evaluation; MLflow is written meanwhile by the supervising process. Memory is the
largest sum of the workers' resident memory, looked at ten times a second. Where Lightning is installed (it is no dependency), Optuna
driving its Trainer for the same trials, as people do today, stands beside them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.places import LAB, environment, lab_folder
from benchmarks.report import Row
from benchmarks.sweeps import bare, span
from flows.lab.settings import Settings

WAYS = {
    "one by one": ("search.backend=processes", "search.workers=1"),
    "two processes": ("search.backend=processes", "search.workers=2"),
    "together": ("search.backend=vectorised",),
    "auto": ("search.backend=auto",),
}
GOALS = {"mlp_digits": {"one by one": 8.0, "two processes": 5.0}, "mlp_mnist": {"one by one": 1.8}}
"""How many times as many trials per minute together as in another way, at least."""
LIGHTNING = Path(__file__).with_name("lightning_trials.py")


def swept(settings: Settings, experiment: str, way: str, *more: str) -> tuple[float, int, int]:
    """Seconds, trials and the workers' peak memory in bytes of one sweep."""
    known = set(settings.sweeps.glob("*/trials/*"))
    command = [LAB, "sweep", f"experiment={experiment}", "search=lecture", "trainer.threads=1", *WAYS[way], *more]
    process = subprocess.Popen(command, env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(process.stderr.read() if process.stderr else "the sweep failed")
    folders = [folder for folder in settings.sweeps.glob("*/trials/*") if folder not in known]
    return span(folders), len(folders), peak


def _memory(pid: int) -> int:
    total = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            if "flows.search.worker" in child.cmdline():
                total += child.memory_info().rss
    except psutil.Error:
        pass
    return total


def measure(
    *, experiments: tuple[str, ...] = ("mlp_digits", "mlp_mnist"), ways: tuple[str, ...] = tuple(WAYS), more: tuple[str, ...] = ()
) -> list[Row]:
    """A row for each experiment and way: milliseconds a trial, against together."""
    rows: list[Row] = []
    with lab_folder() as settings:
        for experiment in experiments:
            bare(settings, (f"experiment={experiment}", "trainer.epochs=1", "trainer.threads=1"), 1, 1)  # prepares the data
            found = {way: swept(settings, experiment, way, *more) for way in ways}
            if (each := lightning(experiment, more)) is not None:
                found["Lightning, one by one"] = each
            quick, count, _ = found["together"]
            for way, (seconds, trials, peak) in found.items():
                a_minute, times = 60 * trials / seconds, (seconds / trials) / (quick / count)
                goal = GOALS.get(experiment, {}).get(way)
                verdict = "" if goal is None else f"; together is to be ≥ {goal:g} times as quick: {'met' if times >= goal else 'missed'}"
                what = f"ways: {experiment}, {way}: {a_minute:.0f} trials a minute, {peak / 2**20:.0f} MB{verdict}"
                mine, theirs = 1000 * seconds / trials, 1000 * quick / count
                rows.append(Row(what, mine, theirs, times, (times, times), "ms/trial", "ratio"))
    return rows


def lightning(experiment: str, more: tuple[str, ...]) -> tuple[float, int, int] | None:
    """The same of Optuna driving Lightning's Trainer over some of the trials; None where Lightning is not installed."""
    command = [sys.executable, LIGHTNING, experiment, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    seconds, trials, peak = done.stdout.split()[-3:]
    return float(seconds), int(trials), int(peak)
