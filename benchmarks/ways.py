"""Trials per minute, processor time and memory of one sweep done in several ways, of which the last two choose their processes themselves.

The sweep is `search=lecture`; the ways that train trials one by one do an eighth of it, one initializer in place of eight, since a trial
takes as long with any. Time is from the first trial's first line in its journal to the last one's last, so everything that a sweep does
for a trial is in it: composing, Optuna, journals, evaluation; MLflow is written meanwhile by the supervising process. With the start is
from the command until the last trial's last line: imports, data and, for `auto`, timing. Processor time is that of the workers from the
first trial on: where other work runs on the machine it says more than the clock. Memory is the largest sum of the workers' resident
memory, looked at ten times a second. Where Lightning is installed (it is no dependency), Optuna driving its Trainer for some of the
trials, as people do today, stands beside them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.places import LAB, environment, lab_folder
from benchmarks.report import Row
from benchmarks.sweeps import bare, span
from flows.lab.settings import Settings
from flows.records.journal import read

AN_EIGHTH = "search.space.initializer=[he_normal]"
WAYS = {
    "one by one": ("search.backend=processes", "search.workers=1", AN_EIGHTH),
    "two processes": ("search.backend=processes", "search.workers=2", AN_EIGHTH),
    "together": ("search.backend=vectorised",),
    "auto": ("search.backend=auto",),
}
GOALS = {"mlp_digits": {"one by one": 8.0, "two processes": 5.0}, "mlp_mnist": {"one by one": 1.8}}
"""How many times as many trials per minute together as in another way, at least."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Swept:
    """One sweep, measured.

    Attributes:
        seconds: from the first trial's first line to the last one's last.
        started: seconds from the command to the first trial's first line.
        trials: how many.
        processes: how many workers at the same time.
        peak: bytes of memory of all workers together.
        processor: seconds of processor time, by worker.
    """

    seconds: float = 0.0
    started: float = 0.0
    trials: int = 0
    processes: int = 0
    peak: int = 0
    processor: dict[int, float] = field(default_factory=dict)
    before: dict[int, float] = field(default_factory=dict)
    """Of that, before the first trial."""

    def look(self, pid: int, *, begun: bool) -> None:
        """See what the workers below the process `pid` have used by now."""
        total, count = 0, 0
        try:
            for child in psutil.Process(pid).children():  # not what workers fork, which looks like them for a moment
                if "flows.search.worker" in child.cmdline():
                    total, count = total + child.memory_info().rss, count + 1
                    self.processor[child.pid] = sum(child.cpu_times()[:2])
                    if not begun:
                        self.before[child.pid] = self.processor[child.pid]
        except psutil.Error:  # it has ended meanwhile
            return
        self.peak, self.processes = max(self.peak, total), max(self.processes, count)

    @property
    def each(self) -> float:
        """Seconds a trial."""
        return self.seconds / self.trials

    @property
    def processor_each(self) -> float:
        """Seconds of processor time a trial."""
        return (sum(self.processor.values()) - sum(self.before.values())) / self.trials


def swept(settings: Settings, experiment: str, way: str, *more: str) -> Swept:
    """Do one sweep."""
    known, found = set(settings.sweeps.glob("*/trials/*")), Swept()
    command = [LAB, "sweep", f"experiment={experiment}", "search=lecture", "trainer.threads=1", *WAYS[way], *more]
    began, begun = time.time(), False
    process = subprocess.Popen(command, env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        begun = begun or any(folder not in known for folder in settings.sweeps.glob("*/trials/*"))
        found.look(process.pid, begun=begun)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(process.stderr.read() if process.stderr else "the sweep failed")
    folders = [folder for folder in settings.sweeps.glob("*/trials/*") if folder not in known]
    found.seconds, found.trials = span(folders), len(folders)
    found.started = min(line["t"] for folder in folders for line in read(folder)) / 1000 - began
    return found


def measure(
    *,
    experiments: tuple[str, ...] = ("mlp_digits", "mlp_mnist"),
    ways: tuple[str, ...] = tuple(WAYS),
    more: tuple[str, ...] = (),
    with_lightning: bool = True,
) -> list[Row]:
    """A row for each experiment and way: milliseconds a trial, against together."""
    rows: list[Row] = []
    with lab_folder() as settings:
        for experiment in experiments:
            bare(settings, (f"experiment={experiment}", "trainer.epochs=1", "trainer.threads=1"), 1, 1)  # prepares the data
            found = {way: swept(settings, experiment, way, *more) for way in ways}
            if with_lightning and (each := lightning(experiment, more)) is not None:
                found["Lightning, one by one"] = each
            quick = found["together"]
            for way, one in found.items():
                times = one.each / quick.each
                goal = GOALS.get(experiment, {}).get(way)
                verdict = "" if goal is None else f"; together is to be ≥ {goal:g} times as quick: {'met' if times >= goal else 'missed'}"
                a_minute = f"{60 / one.each:.0f} trials a minute ({60 * one.trials / (one.seconds + one.started):.0f} with the start)"
                used = f"{1000 * one.processor_each:.0f} ms of processor time a trial" if one.processor else "processor time not measured"
                size = f"{one.trials} trials in {one.processes} process{'es' if one.processes > 1 else ''}"
                what = f"ways: {experiment}, {way}: {size}: {a_minute}, {used}, {one.peak / 2**20:.0f} MB{verdict}"
                rows.append(Row(what, 1000 * one.each, 1000 * quick.each, times, (times, times), "ms/trial", "ratio"))
                print(rows[-1].what, f"{rows[-1].ours:.0f} ms a trial, {times:.2f} times", file=sys.stderr, flush=True)
    return rows


def lightning(experiment: str, more: tuple[str, ...]) -> Swept | None:
    """The same of Optuna driving Lightning's Trainer over some of the trials; None where Lightning is not installed."""
    command = [sys.executable, "-m", "benchmarks.lightning_trials", experiment, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    seconds, trials, peak = done.stdout.split()[-3:]
    return Swept(float(seconds), trials=int(trials), processes=1, peak=int(peak))
