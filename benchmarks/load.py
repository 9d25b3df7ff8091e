"""Hundreds of queued runs, several workers, PostgreSQL: is one lost, is one run twice, does the server's memory grow?

`python -m benchmarks.load [RUNS] [WORKERS]`. It starts a PostgreSQL server of its own (from /usr/lib/postgresql), a lab on it, and so
many workers. Each run is the smallest flow there is (benchmarks/tick.py): it writes its id into a file, so what a run costs is Prefect's.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.places import environment, lab, lab_folder
from benchmarks.report import Row, machine, seconds, table
from flows.lab import processes
from flows.lab.health import ask
from flows.lab.settings import WORK_POOL, Settings

ROOT = Path(__file__).resolve().parent.parent
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SECONDS_BETWEEN_LOOKS = 2.0
PATIENCE = 3600.0


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The address of a PostgreSQL server whose data are in `folder`; it refuses to run as root, so as root it runs as `postgres`."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if other:
        folder.parent.chmod(0o755)
        shutil.chown(folder, "postgres")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run([*other, programs / command[0], *command[1:]], check=True, capture_output=True, cwd="/")

    run("initdb", "-D", f"{folder}/data", "--auth=trust", "-U", "lab")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c max_connections=200"
    run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lab@127.0.0.1:{port}/lab"
    finally:
        run("pg_ctl", "-D", f"{folder}/data", "-m", "fast", "stop")


@contextmanager
def more_workers(settings: Settings, count: int) -> Iterator[None]:
    """`count` workers beside the lab's own; each runs one flow run at a time."""
    given = environment(settings) | settings.prefect_environment() | processes.mark(settings.home)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--limit", "1", "--name"]
    with (settings.logs / "more.log").open("wb") as log:
        started = [subprocess.Popen([*command, f"more-{place}"], env=given, stdout=log, stderr=log) for place in range(count)]
        try:
            yield
        finally:
            for worker in started:
                worker.terminate()
            for worker in started:  # they have nothing left to do; some do not notice
                try:
                    worker.wait(20)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()


def deploy(settings: Settings) -> str:
    """Register the flow; returns the deployment's id."""
    code = (
        "from prefect import flow; import sys;"
        f"flow.from_source(source={str(ROOT)!r}, entrypoint='benchmarks/tick.py:tick_flow')"
        f".deploy(name='tick', work_pool_name={WORK_POOL!r}, build=False, push=False, print_next_steps=False, ignore_warnings=True)"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=environment(settings) | settings.prefect_environment(), check=True, capture_output=True
    )
    return str(ask(settings, "/deployments/name/tick/tick")["id"])


def memory(settings: Settings) -> float:
    """Megabytes that the Prefect server's processes hold."""
    servers = [each for each in processes.marked(settings.home) if processes.part(each) == "prefect"]
    return sum(each.memory_info().rss for each in servers) / 1e6


def states(settings: Settings, deployment: str) -> list[dict[str, Any]]:
    """All flow runs of the deployment."""
    found: list[dict[str, Any]] = []
    while page := ask(
        settings,
        "/flow_runs/filter",
        {"deployments": {"id": {"any_": [deployment]}}, "limit": 200, "offset": len(found), "sort": "ID_DESC"},
        timeout=60,
    ):
        found += page
    return found


def measure(*, runs: int = 200, workers: int = 4) -> list[Row]:
    """Rows; RuntimeError when a run was lost, failed, or was run twice."""
    with tempfile.TemporaryDirectory(prefix="lab-load-") as folder, lab_folder() as place:
        data = Path(folder) / "postgresql"
        data.mkdir()
        with postgresql(data) as url:
            settings = replace(place, database=url, workers=1)
            ticks = settings.home / "ticks"
            try:
                lab(settings, "init-db")
                lab(settings, "up", "--detach", "--timeout", "600")
                with more_workers(settings, workers - 1):
                    deployment = deploy(settings)
                    return _load(settings, deployment, ticks, runs, workers)
            finally:
                lab(settings, "down")


def _load(settings: Settings, deployment: str, ticks: Path, runs: int, workers: int) -> list[Row]:
    before, began = memory(settings), time.monotonic()
    body = {"parameters": {"file": str(ticks)}, "state": {"type": "SCHEDULED"}}
    queued = [ask(settings, f"/deployments/{deployment}/create_flow_run", body, timeout=60)["id"] for _ in range(runs)]
    queueing = time.monotonic() - began
    held: list[tuple[int, float]] = []
    said = 0
    while (done := len(ticks.read_text().split()) if ticks.exists() else 0) < runs:
        held.append((done, memory(settings)))
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"{done} of {runs} runs after {PATIENCE:.0f} s")
        if done >= said + 20:
            said = done
            print(f"  {done} of {runs} after {time.monotonic() - began:.0f} s, the server holds {held[-1][1]:.0f} MB", flush=True)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    took = time.monotonic() - began
    found = states(settings, deployment)
    while any(run["state_type"] not in ENDED for run in found):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        found = states(settings, deployment)
    held.append((runs, memory(settings)))
    ran, ends = Counter(ticks.read_text().split()), Counter(run["state_type"] for run in found)
    once = set(ran) == set(queued) and set(ran.values()) == {1} and {run["run_count"] for run in found} == {1}
    if not once or ends != {"COMPLETED": runs}:
        twice = sum(count > 1 for count in ran.values())
        raise RuntimeError(f"{len(set(queued) - set(ran))} runs lost, {twice} run twice; states: {dict(ends)}")
    first = [size for done, size in held if runs // 10 <= done <= runs // 2] or [before]
    last = [size for done, size in held if done > runs // 2]
    print(f"  each of {runs} runs was run once and completed; the server held {before:.0f} MB before", flush=True)
    return [
        seconds(f"load: queueing a run, {runs} in a row", [queueing / runs]),
        seconds(f"load: a run, {runs} queued at once, {workers} workers", [took / runs]),
        Row(
            "load: the Prefect server's memory, second half of the runs against the first",
            statistics.median(last),
            statistics.median(first),
            statistics.median(last) / statistics.median(first),
            (min(last) / statistics.median(first), max(last) / statistics.median(first)),
            "MB",
            "ratio",
            1.1,
        ),
    ]


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    print(machine(), flush=True)
    print(table(measure(**dict(zip(("runs", "workers"), given, strict=False)))))
    print(machine())
