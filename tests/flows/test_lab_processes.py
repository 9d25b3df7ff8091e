"""Processes are known by their marker: another lab's are never touched, and flow runs end before what they report to."""

import os
import socket
import subprocess
from pathlib import Path

import psutil
from lab_processes import STUBBORN, stand_in, wait_for

from flows.lab import processes


def test_only_processes_of_this_home_are_found(tmp_path: Path) -> None:
    with stand_in(tmp_path / "one") as one, stand_in(tmp_path / "two"):
        assert [found.pid for found in processes.marked(tmp_path / "one")] == [one.pid]
        assert processes.marked(tmp_path / "three") == []


def test_a_symbolic_link_names_the_same_lab(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with stand_in(tmp_path / "link") as process:
        assert [found.pid for found in processes.marked(tmp_path / "real")] == [process.pid]


def test_a_process_finds_neither_itself_nor_those_it_runs_in(tmp_path: Path) -> None:
    look = "import os, sys; from flows.lab import processes; print(processes.marked(os.getcwd()))"
    with stand_in(tmp_path, f"(here / 'found').write_bytes(subprocess.check_output([sys.executable, '-c', {look!r}]))"):
        assert (tmp_path / "found").read_text() == "[]\n"


def test_parts(tmp_path: Path) -> None:
    with (
        stand_in(tmp_path) as supervisor,
        stand_in(tmp_path, LAB_SERVER="mlflow") as mlflow,
        stand_in(tmp_path, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b") as flow_run,
    ):
        parts = {found.pid: processes.part(found) for found in processes.marked(tmp_path)}
        assert parts == {supervisor.pid: "supervisor", mlflow.pid: "mlflow", flow_run.pid: "flow run"}
        assert [found.pid for found in processes.leftovers(tmp_path, "mlflow")] == [mlflow.pid]
        assert processes.leftovers(tmp_path, "worker") == []
        assert processes.flow_run_ids(tmp_path) == {"7b"}


def gone(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def test_who_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    farewell = "signal.signal(signal.SIGTERM, lambda *_: ((here / 'farewell').touch(), os._exit(0)))"
    with stand_in(tmp_path, farewell) as polite, stand_in(tmp_path, STUBBORN) as stubborn:
        processes.end(processes.marked(tmp_path), seconds=0.5)
        assert gone(polite)
        assert gone(stubborn)
    assert (tmp_path / "farewell").exists()


SAVES_WHEN_ASKED = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def save(*_):
    time.sleep(0.3)
    worker = psutil.Process(int(os.environ["WORKER"])).status()
    (here / "saved").write_text(f"worker {worker}, child {child.poll()}")
    child.kill()
    sys.exit()
signal.signal(signal.SIGTERM, save)
"""


def test_flow_runs_save_while_their_worker_sleeps_and_only_they_are_asked(tmp_path: Path) -> None:
    with (
        stand_in(tmp_path, LAB_SERVER="worker") as worker,
        stand_in(tmp_path, SAVES_WHEN_ASKED, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b", WORKER=str(worker.pid)) as flow_run,
    ):
        wait_for(lambda: len(processes.marked(tmp_path)) == 3)
        processes.end_flow_runs(tmp_path, seconds=10)
        assert gone(flow_run)
        assert gone(worker)
    assert (tmp_path / "saved").read_text() == "worker stopped, child None", "the flow run's child is for the flow run to end"
    assert processes.marked(tmp_path) == []


def test_a_flow_run_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with stand_in(tmp_path, STUBBORN, LAB_SERVER="worker", PREFECT__FLOW_RUN_ID="7b") as process:
        processes.end_flow_runs(tmp_path, seconds=0.3)
        assert gone(process)


def test_the_owner_of_a_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        owner = processes.owner_of_port(mine.getsockname()[1])
        assert owner == f"{psutil.Process().name()} (process {os.getpid()})"
    with stand_in(tmp_path, "s = socket.create_server(('127.0.0.1', 0)); (here / 'port').write_text(str(s.getsockname()[1]))"):
        assert processes.owner_of_port(int((tmp_path / "port").read_text())) == f"the lab of {tmp_path}"


def test_memory_counts_only_who_is_there() -> None:
    with subprocess.Popen(["/bin/true"]) as gone:
        ended = psutil.Process(gone.pid)
    assert processes.memory([ended]) == 0
    assert processes.memory([psutil.Process()]) > 1_000_000
