"""`lab doctor`: what may be wrong on this machine, one line each, and how to mend it.

Each check is a function that yields `Finding`s and never raises for what it looks at. Nothing is changed.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

from components.errors import LabError, closest
from flows.lab import access, health, limits, postgres, processes, servers
from flows.lab.settings import VARIABLES, Settings

Level = Literal["ok", "warn", "fail"]

DISTRIBUTION = "lecture-lab"
OWN_VARIABLES = ("LAB_SERVERS_OF", "LAB_SERVER", "LAB_PYTHON", "LAB_START_PREFECT", "LAB_START_MLFLOW")
LOW_BYTES, TOO_LOW_BYTES = 5 * 10**9, 10**9
CLOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes:
        level: `ok`; `warn`: works, but look at it; `fail`: something will not work.
        check: what was looked at, in a word or two.
        found: what was found.
        mend: what to do about it; empty when nothing is to be done.
    """

    level: Level
    check: str
    found: str
    mend: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order of `CHECKS`; the checks run side by side."""
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        return [finding for findings in pool.map(lambda check: list(check(settings)), CHECKS) for finding in findings]


def python(_settings: Settings) -> Iterator[Finding]:
    """The interpreter against `requires-python`."""
    from packaging.specifiers import SpecifierSet

    wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    found = platform.python_version()
    if found in SpecifierSet(wanted):
        yield Finding("ok", "python", f"{found} in {sys.prefix}")
    else:
        yield Finding("fail", "python", f"{found}, but {wanted} is needed", "make the environment with a newer Python: make install")


def libraries(_settings: Settings) -> Iterator[Finding]:
    """Every library that the project requires, against its pin; the environment may have been changed by hand."""
    from packaging.requirements import Requirement

    wrong = 0
    requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    needed = [requirement for requirement in requirements if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]
    for requirement in needed:
        mend = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", requirement.name, "is not installed", mend)
            wrong += 1
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Finding("fail", requirement.name, f"{found}, but {requirement.specifier} is needed", mend)
            wrong += 1
    if not wrong:
        yield Finding("ok", "libraries", f"{len(needed)} as required")


def variables(_settings: Settings) -> Iterator[Finding]:
    """`LAB_` variables that nobody reads: likely a slip of the pen."""
    for name in sorted(os.environ):
        if name.startswith("LAB_") and name not in (*VARIABLES, *OWN_VARIABLES):
            yield Finding("warn", "settings", f"{name} is set, but means nothing{closest(name, VARIABLES)}", f"unset {name}")


def device(_settings: Settings) -> Iterator[Finding]:
    """What torch computes on; asked in another process, because importing torch takes seconds."""
    code = (
        "import json, torch; c = torch.cuda.is_available(); "
        "print(json.dumps({'cuda': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if c else [], "
        "'mps': torch.backends.mps.is_available(), 'threads': torch.get_num_threads()}))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        yield Finding("fail", "device", f"torch cannot be imported: {last}", "install the locked dependencies again: make install")
        return
    if found["cuda"]:
        yield Finding("ok", "device", f"cuda: {', '.join(found['cuda'])}")
    elif found["mps"]:
        yield Finding("ok", "device", "mps")
    elif gpus := servers.count_gpus():
        mend = (
            "compare `nvidia-smi` with the CUDA version of the installed torch" if shutil.which("nvidia-smi") else "install NVIDIA's driver"
        )
        yield Finding("warn", "device", f"cpu, although there are {gpus} NVIDIA devices that torch cannot use", mend)
    else:
        yield Finding("ok", "device", f"cpu, {found['threads']} threads")


def lab_servers(settings: Settings) -> Iterator[Finding]:
    """Each server: does it answer, and if it does not run, is its port free."""
    running = servers.supervised(settings) is not None
    ports = {"prefect": ("LAB_PREFECT_PORT", settings.prefect_port), "mlflow": ("LAB_MLFLOW_PORT", settings.mlflow_port)}
    here = servers.wanted(settings)
    for name, title in servers.TITLES.items():
        if (running or name not in here) and health.answers(settings, name, timeout=2.0):
            yield Finding("ok", title, "answers")
        elif name not in here:
            address = settings.prefect_api if name == "prefect" else settings.mlflow_uri
            yield Finding("fail", title, f"{address} does not answer", "check the address and the network, or unset it to use a local one")
        elif running:
            yield Finding("fail", title, "runs but does not answer", f"read {settings.logs / name}.log; lab down and lab up start it anew")
        elif name in ports and not servers.port_is_free(ports[name][1]):
            variable, port = ports[name]
            who = processes.owner_of_port(port) or "another program"
            yield Finding("fail", title, f"its port {port} is used by {who}", f"choose another: {variable}={servers.free_port_near(port)}")
        else:
            yield Finding("ok", title, "not running (lab up starts it)")
    if not running and (orphans := processes.marked(settings.home)):
        yield Finding("warn", "processes", f"{len(orphans)} were left behind by an earlier lab", "lab down ends them")


def disk(settings: Settings) -> Iterator[Finding]:
    """Whether LAB_HOME can be written, and has room."""
    there = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("fail", "disk", f"{there} cannot be written", "set LAB_HOME to another folder, or change its permissions")
    free = shutil.disk_usage(there).free
    words = f"{free / 1e9:.1f} GB free for {settings.home}"
    mend = "remove old runs and data under LAB_HOME, or set LAB_HOME to a larger disk"
    if free < TOO_LOW_BYTES:
        yield Finding("fail", "disk", words, mend)
    elif free < LOW_BYTES:
        yield Finding("warn", "disk", words, mend)
    else:
        yield Finding("ok", "disk", words)


def databases(settings: Settings) -> Iterator[Finding]:
    """SQLite's own quick check of every database; whether PostgreSQL answers and has them all."""
    if settings.database:
        try:
            missing = postgres.missing(settings.database, settings.password_file)
        except LabError as error:
            yield Finding("fail", "PostgreSQL", str(error), "correct LAB_DATABASE_URL, or start the database")
            return
        words = f"has no database {' or '.join(missing)}" if missing else "answers"
        yield Finding("fail" if missing else "ok", "PostgreSQL", words, "lab init-db makes what is missing" if missing else "")
        return
    for file in (settings.prefect_database, settings.mlflow_database, settings.lab_database, settings.optuna_database):
        if not file.exists():
            continue
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
                answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            answer = str(error)
        if answer == "ok":
            yield Finding("ok", file.name, "intact")
        else:
            mend = f"lab down, then move {file} away (a new one is made) or put a backup in its place"
            yield Finding("fail", file.name, f"is damaged: {answer.splitlines()[0]}", mend)


def credentials(settings: Settings) -> Iterator[Finding]:
    """Whether the file of credentials is right, and its owner's alone."""
    try:
        found = access.read(settings.credentials)
    except LabError as error:
        yield Finding("fail", "credentials", str(error), "lab access --into FILE, where the servers are, writes another")
        return
    if found is not None and settings.credentials_file is None and settings.credentials.stat().st_mode & 0o077:
        yield Finding("fail", "credentials", f"{settings.credentials} can be read by others", f"chmod 600 {settings.credentials}")
    elif found is not None:
        yield Finding("ok", "credentials", "the servers ask for them")


def quota(settings: Settings) -> Iterator[Finding]:
    """How much of LAB_QUOTA_GB is taken."""
    try:
        near = limits.warning(settings)
    except LabError as error:
        yield Finding("fail", "quota", str(error), "lab gc --delete")
        return
    if near:
        yield Finding("warn", "quota", near)


def mirror(settings: Settings) -> Iterator[Finding]:
    """Whether the data mirror is there."""
    place = settings.data_mirror
    if place is None:
        yield Finding("ok", "data mirror", "none set (LAB_DATA_MIRROR); data comes from pinned packages and upstream addresses")
    elif not place.startswith("http"):
        if Path(place).is_dir():
            yield Finding("ok", "data mirror", place)
        else:
            yield Finding("fail", "data mirror", f"{place} is not a folder", "correct LAB_DATA_MIRROR, or unset it")
    else:
        try:
            urllib.request.urlopen(urllib.request.Request(place, method="HEAD"), timeout=5).close()  # noqa: S310 — http(s) by Settings
        except urllib.error.HTTPError:
            yield Finding("ok", "data mirror", f"{place} answers")
        except OSError as error:
            yield Finding("fail", "data mirror", f"{place} does not answer: {error}", "correct LAB_DATA_MIRROR, or unset it")
        else:
            yield Finding("ok", "data mirror", f"{place} answers")


def clock(settings: Settings) -> Iterator[Finding]:
    """This machine's clock against a remote server's and against the files in LAB_HOME: schedules go by it."""
    now = time.time()
    if remote := settings.remote_prefect:
        try:
            with urllib.request.urlopen(f"{remote}/health", timeout=5) as answer:  # noqa: S310 — http(s) by Settings
                ahead = now - parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (OSError, TypeError, ValueError):
            ahead = 0.0
        if abs(ahead) > CLOCK_SECONDS:
            yield Finding(
                "fail", "clock", f"differs by {ahead:+.0f} s from the Prefect server's", "let both synchronise their clocks (NTP)"
            )
            return
    newest = max((file.stat().st_mtime for file in (settings.home, settings.run, settings.logs) if file.exists()), default=now)
    if newest > now + CLOCK_SECONDS:
        yield Finding("warn", "clock", f"is {newest - now:.0f} s behind the newest files in LAB_HOME", "set the clock (NTP)")
    else:
        yield Finding("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)))


CHECKS: tuple[Check, ...] = (python, libraries, variables, device, lab_servers, disk, quota, databases, credentials, mirror, clock)
