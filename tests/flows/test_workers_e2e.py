"""A lab and workers on machines of their own: network namespaces with nothing between them but a cable, each with a name and a home."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import postgresql
import pytest
from lab_command import LAB
from machines import Machine, network, refused
from prefect_runs import ENDED, until
from trainings import environment

from flows.lab import health, processes, servers
from flows.lab.settings import Settings
from flows.search.study import Sweep

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500), *postgresql.needs_postgresql]
SECONDS = 600.0


@contextmanager
def database(machine: Machine, folder: Path) -> Iterator[str]:
    """PostgreSQL on that machine, open to its network."""
    if postgresql.AS_ROOT:
        for above in (folder, *folder.parents[:3]):
            above.chmod(0o755)
        shutil.chown(folder, "postgres")
    as_other = ["runuser", "-u", "postgres", "--"] if postgresql.AS_ROOT else []

    def run(*words: str, check: bool = True) -> None:
        program = str(postgresql.PROGRAMS[-1] / words[0])
        subprocess.run(machine.command(*as_other, program, *words[1:]), check=check, capture_output=True, cwd="/")

    run("initdb", "-D", f"{folder}/data", "--auth=trust", "-U", "lab", "--no-sync")
    (folder / "data/pg_hba.conf").write_text("local all all trust\nhost all all 10.213.0.0/16 trust\n")
    options = f"-c listen_addresses={machine.address} -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lab@{machine.address}:5432/lab"
    finally:
        run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-t", "300", "stop", check=False)


@dataclass(frozen=True)
class Team:
    """A lab on one machine, and how to start workers on the others."""

    settings: Settings
    url: str
    worker: Callable[..., Settings]

    def ask(self, path: str, body: Any = None) -> Any:
        """The Prefect server's answer."""
        return health.ask(self.settings, path, body, timeout=60)

    def queue(self, deployment: str, **parameters: Any) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def end_of(self, flow_run: str) -> dict[str, Any]:
        """The flow run, when it has ended."""
        return dict(until(lambda: (run := self.ask(f"/flow_runs/{flow_run}"))["state_type"] in ENDED and run, SECONDS))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Team]:
    if reason := refused():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("team")
    (folder / "postgres").mkdir()
    (folder / "sweeps").mkdir()
    logs = folder / "logs"
    logs.mkdir()
    homes: list[Path] = []

    def home(name: str) -> Path:
        made = folder / name
        made.mkdir()
        (made / "data").symlink_to(digits)
        (made / "sweeps").symlink_to(folder / "sweeps")  # what a shared folder is for
        homes.append(made)
        return made

    with ExitStack() as stack:
        machines = {machine.host: machine for machine in stack.enter_context(network("hub", "one", "two", "old"))}
        hub = machines["hub"]
        url = stack.enter_context(database(hub, folder / "postgres"))
        settings = Settings(home("hub"), host=hub.address, workers=1, database=url)
        direct = {"NO_PROXY": hub.address, "no_proxy": hub.address}

        def lab(*words: str) -> None:
            command = hub.command(str(LAB), *words)
            done = subprocess.run(command, env=environment(settings) | direct, cwd="/", capture_output=True, text=True, check=False)
            sys.stdout.write(f"$ lab {' '.join(words)}\n{done.stderr}{done.stdout}")
            assert done.returncode == 0, done.stderr

        def worker(host: str, *options: str, **variables: str) -> Settings:
            own = replace(Settings(home(host)), database=url, credentials_file=settings.credentials)
            command = machines[host].command(str(LAB), "worker", "--url", settings.prefect_api, "--limit", "1", *options)
            log = stack.enter_context((logs / host).open("wb"))
            started = subprocess.Popen(command, env=environment(own) | direct | variables, cwd="/", stdout=log, stderr=log)

            def end() -> None:
                started.terminate()
                started.wait(90)

            stack.callback(end)
            return own

        stack.callback(lambda: servers.down(settings, lambda _line: None))
        lab("init-db")
        lab("up", "--detach", "--team", "--timeout", str(SECONDS))
        yield Team(settings, settings.prefect_api, worker)
        for log in logs.iterdir():
            sys.stdout.write(f"--- {log.name}\n{log.read_text()[-3000:]}\n")
    for each in homes:
        assert processes.marked(each) == [], "nothing is left running"


def test_a_sweep_in_the_pool_uses_the_workers_of_all_machines(team: Team) -> None:
    """There is enough to do for the other machines' flow runs to start before the first has done it all."""
    for host in ("one", "two"):
        team.worker(host)
    names = {"lab@hub", "lab@one", "lab@two"}
    until(lambda: names <= {each["name"] for each in health.workers(team.settings) if each["status"] == "ONLINE"}, SECONDS)
    parameters = {
        "experiment": "mlp_digits",
        "search": "initializers",
        "overrides": [
            "trainer.epochs=200",
            "trainer.threads=1",
            "search.space.initializer=[he_normal,xavier,orthogonal]",
            "search.seeds=8",
        ],
    }
    deployment = team.ask("/deployments/name/sweep/sweep")["id"]
    ended = team.end_of(team.queue(deployment, **parameters, backend="pool", workers=3))
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    (folder,) = (team.settings.home / "sweeps").iterdir()
    sweep = Sweep.load(team.settings, folder.name)
    assert sweep.counts() == {"complete": 24, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    hosts = {str(trial.user_attrs["worker"]).split(":")[0] for trial in sweep.study.trials if trial.state.name == "COMPLETE"}
    assert hosts == {"hub", "one", "two"}
    report = json.loads((folder / "report/report.json").read_text())
    assert report["test"], "the chosen configuration was looked at on the test split, whoever had trained it"


def test_a_worker_with_other_code_refuses_and_the_run_says_so_in_one_line(team: Team, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for part in ("flows", "components", "conf", "infra"):
        shutil.copytree(root / part, tmp_path / "code" / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "code/components/optimizers.py").open("a") as file:
        file.write("# older\n")
    team.ask("/work_pools/", {"name": "other", "type": "process"})
    team.worker("old", "--pool", "other", PYTHONPATH=str(tmp_path / "code"))
    deployed = team.ask("/deployments/name/train/train")
    kept = ("flow_id", "entrypoint", "path", "pull_steps", "job_variables", "parameter_openapi_schema")
    body = {**{key: deployed[key] for key in kept}, "name": "other", "work_pool_name": "other"}
    ended = team.end_of(team.queue(team.ask("/deployments/", body)["id"], experiment="mlp_digits", overrides=["trainer.epochs=1"]))
    assert ended["state_type"] == "FAILED"
    message = ended["state"]["message"]
    wanted = json.loads(deployed["job_variables"]["env"]["LAB_CODE"])["version"]
    assert message.startswith("this worker (old) has code version ")
    assert f"and the run is of {wanted} " in message
    assert "\n" not in message
