"""How much anybody may take: gigabytes of LAB_HOME, GPUs at once, runs a person. Set where the servers are, and asked of them elsewhere."""

from __future__ import annotations

import shutil
import urllib.error

from components.errors import RequestError, RunError
from flows.lab import health
from flows.lab.settings import Settings
from flows.lab.status import disk_use

WARN_AT = 0.8
"""Share of the quota from which on people are told."""
SECONDS_COUNTING = 60.0
RUNS_PER_USER = "lab_runs_per_user"
"""The Prefect variable that holds the limit for everybody who queues runs."""
GIGABYTE = 1e9


def used(settings: Settings) -> int:
    """Bytes in LAB_HOME."""
    return sum(disk_use(settings.home, seconds=SECONDS_COUNTING)[0].values())


def warning(settings: Settings) -> str | None:
    """A line when LAB_HOME is nearly full, None while it is not. RequestError: it is full."""
    if settings.quota is None:
        return None
    share = used(settings) / settings.quota
    words = f"{settings.home} takes {share:.0%} of its {settings.quota / GIGABYTE:g} GB"
    if share >= 1:
        raise RequestError(f"{words} (LAB_QUOTA_GB), so nothing more is begun: lab gc shows what may go")
    return f"{words}; lab gc shows what may go" if share >= WARN_AT else None


def refuse_what_will_not_fit(settings: Settings, needed: int) -> None:
    """RunError: `needed` bytes are more than the quota or the disk has left."""
    free = shutil.disk_usage(settings.home).free
    if needed > free:
        raise RunError(f"the run will not fit: its checkpoints need {_size(needed)}, and the disk has {_size(free)} left")
    if settings.quota is not None and needed > (left := settings.quota - used(settings)):
        quota = f"of {settings.home}'s {settings.quota / GIGABYTE:g} GB (LAB_QUOTA_GB) {_size(max(0, left))} are left"
        raise RunError(f"the run will not fit: its checkpoints need {_size(needed)}, and {quota}: lab gc shows what may go")


def publish(settings: Settings) -> None:
    """Keep the limits on the Prefect server, where every machine finds them.

    Raises:
        OSError: it does not answer as it should.
    """
    try:
        health.ask(settings, f"/variables/name/{RUNS_PER_USER}", method="DELETE")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
    if settings.runs_per_user is not None:
        health.ask(settings, "/variables/", {"name": RUNS_PER_USER, "value": settings.runs_per_user})
    if settings.gpu_slots is not None:
        health.set_concurrency_limit(settings, "gpu", settings.gpu_slots)


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
