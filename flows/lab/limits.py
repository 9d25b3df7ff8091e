"""How much anybody may take: gigabytes of LAB_HOME, GPUs at once, runs a person. Set where the servers are, and asked of them elsewhere."""

from __future__ import annotations

import shutil
import urllib.error
from dataclasses import dataclass

from components.errors import RequestError, RunError
from flows.lab import disk, health
from flows.lab.settings import Settings

WARN_AT = 0.8
"""Share of the quota from which on people are told."""
SECONDS_COUNTING = 60.0
RUNS_PER_USER = "lab_runs_per_user"
"""The Prefect variable that holds the limit for everybody who queues runs."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Quota:
    """How much of LAB_QUOTA_GB is taken.

    Attributes:
        limit: bytes that LAB_HOME may take.
        taken: bytes that it takes.
        warning: a line from WARN_AT on; None below.
    """

    limit: int
    taken: int
    warning: str | None


def quota(settings: Settings, taken: int) -> Quota | None:
    """What `taken` bytes in LAB_HOME are of its quota; None where it has none."""
    if settings.quota is None:
        return None
    share = taken / settings.quota
    words = f"{settings.home} takes {share:.0%} of its {settings.quota / GIGABYTE:g} GB"
    if share >= 1:
        words += " (LAB_QUOTA_GB), so nothing more is begun: lab gc shows what may go"
    elif share >= WARN_AT:
        words += "; lab gc shows what may go"
    return Quota(settings.quota, taken, words if share >= WARN_AT else None)


def used(settings: Settings) -> int:
    """Bytes in LAB_HOME."""
    return sum(disk.sizes(settings.home, seconds=SECONDS_COUNTING)[0].values())


def warning(settings: Settings) -> str | None:
    """A line when LAB_HOME is nearly full, None while it is not. RequestError: it is full."""
    found = None if settings.quota is None else quota(settings, used(settings))
    if found is not None and found.taken >= found.limit:
        raise RequestError(found.warning)
    return found.warning if found is not None else None


def refuse_what_will_not_fit(settings: Settings, needed: int, what: str = "the run will not fit: its checkpoints need") -> None:
    """RunError: `needed` bytes are more than the quota or the disk has left; it begins with `what`."""
    home = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(home).free
    if needed > free:
        raise RunError(f"{what} {_size(needed)}, and the disk has {_size(free)} left")
    if settings.quota is not None and needed > (left := settings.quota - used(settings)):
        of = f"of {settings.home}'s {settings.quota / GIGABYTE:g} GB (LAB_QUOTA_GB) {_size(max(0, left))} are left"
        raise RunError(f"{what} {_size(needed)}, and {of}: lab gc shows what may go")


def publish(settings: Settings) -> None:
    """Keep the limits on the Prefect server, where every machine finds them.

    Raises:
        OSError: it does not answer as it should.
    """
    set_runs_per_user(settings, settings.runs_per_user)
    if settings.gpu_slots is not None:
        set_gpu_slots(settings, settings.gpu_slots)


def set_runs_per_user(settings: Settings, limit: int | None) -> None:
    """Let every person have `limit` unfinished runs; None for no limit. OSError: the server does not answer as it should."""
    try:
        health.ask(settings, f"/variables/name/{RUNS_PER_USER}", method="DELETE")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
    if limit is not None:
        health.ask(settings, "/variables/", {"name": RUNS_PER_USER, "value": limit})


def set_gpu_slots(settings: Settings, slots: int) -> None:
    """Let `slots` runs use GPUs at once. OSError: the server does not answer as it should."""
    health.set_concurrency_limit(settings, "gpu", slots)


def runs_per_user(settings: Settings) -> int | None:
    """How many unfinished runs a person may have; None for no limit. OSError: the server does not answer as it should."""
    try:
        return int(health.ask(settings, f"/variables/name/{RUNS_PER_USER}")["value"])
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        return None


def _size(number: int) -> str:
    return f"{number / GIGABYTE:.1f} GB" if number >= GIGABYTE else f"{number / 1e6:.1f} MB"
