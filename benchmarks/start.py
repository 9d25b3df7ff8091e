"""From `lab train` to the first training step, against two bare scripts.

Both import torch and build the same model; the second also does one step with `torch.optim.Adam`, which makes torch import its
compiler. The lab's optimizers do without it (components/optimizers.py), so they can be there before that script.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.places import first_step_at, lab, lab_folder, running_lab, runs
from benchmarks.report import Row, difference
from flows.lab.settings import Settings

GOAL = 1.5
REQUEST = ("experiment=mlp_digits", "trainer=quick")
MODEL = """
import time
import torch
from torch import nn
from torch.nn import functional as F
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""
STEP = """
optimizer = torch.optim.Adam(model.parameters())
F.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
optimizer.step()
"""


def bare(*, step: bool) -> float:
    """Seconds until the bare script has its model, or its first step, done."""
    began = time.time()
    script = MODEL + STEP * step + "print(time.time(), flush=True)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(done.stdout) - began


def ours(settings: Settings) -> float:
    """Seconds until the first step of a run that `lab train` started is done; the run is let finish."""
    known, began = runs(settings), time.time()
    lab(settings, "train", *REQUEST)
    return first_step_at(settings, known) - began


def measure(*, repetitions: int = 5, with_lab: bool = True) -> list[Row]:
    """A row without a running lab and, if asked for, one with it; data prepared before."""
    rows = []
    for title, place in [("no lab running", lab_folder), ("under Prefect", running_lab)][: 1 + with_lab]:
        with place() as settings:
            ours(settings)  # prepares the data, and fills the disk's cache
            found = [(ours(settings), bare(step=False), bare(step=True)) for _ in range(repetitions)]
        mine, model, stepped = zip(*found, strict=True)
        rows.append(difference(f"start: first step after `lab train`, {title}; reference: torch and model", mine, model, goal=GOAL))
        rows.append(difference(f"start: the same; reference: torch, model and one step, {title}", mine, stepped, goal=GOAL))
    return rows
