"""The smallest flow: what `benchmarks/load.py` queues hundreds of times."""

from __future__ import annotations

import os

from prefect import flow, runtime


@flow(name="tick", persist_result=False)
def tick_flow(file: str) -> None:
    """Add this flow run's id to `file`: one whole line, whoever else writes at the same time.

    Args:
        file: Where to.
    """
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{runtime.flow_run.id}\n".encode())
    os.close(handle)
