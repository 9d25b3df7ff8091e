"""From `lab train` to the first training step, against a bare script that imports torch, builds the same model and does one step."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.places import LAB, environment, first_step_at, lab_folder, running_lab, runs
from benchmarks.report import Row, difference
from flows.lab.settings import Settings

GOAL = 1.5
REQUEST = ("experiment=mlp_digits", "trainer=quick")
BARE = """
import time
import torch
from torch import nn
from torch.nn import functional as F
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters())
F.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
optimizer.step()
print(time.time(), flush=True)
"""


def bare() -> float:
    """Seconds until the bare script's first step is done."""
    began = time.time()
    done = subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True, text=True)
    return float(done.stdout) - began


def ours(settings: Settings) -> float:
    """Seconds until the first step of a run that `lab train` started is done; the run is let finish."""
    known, began = runs(settings), time.time()
    subprocess.run([LAB, "train", *REQUEST], env=environment(settings), check=True, capture_output=True)
    return first_step_at(settings, known) - began


def measure(*, repetitions: int = 5, with_lab: bool = True) -> list[Row]:
    """A row without a running lab and, if asked for, one with it; data prepared before."""
    rows = []
    for title, place in [("no lab running", lab_folder), ("under Prefect", running_lab)][: 1 + with_lab]:
        with place() as settings:
            ours(settings)  # prepares the data, and fills the disk's cache
            pairs = [(ours(settings), bare()) for _ in range(repetitions)]
        mine, theirs = zip(*pairs, strict=True)
        rows.append(difference(f"start: first step after `lab train`, {title}", mine, theirs, goal=GOAL))
    return rows
