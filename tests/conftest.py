"""What every test relies on: one thread a process (small tensors gain nothing from more, and two test workers share two cores)."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "agg")
