"""What the Prefect server keeps of this machine's settings for everybody: limits and notifications. `lab up` puts them there."""

from __future__ import annotations

from components.errors import RequestError, RunError
from flows.lab import access, limits, notifications
from flows.lab.settings import Settings

TROUBLE = "note: "
"""How a line begins by which `python -m flows.deployments` says what the server did not take."""


def keeps_the_servers(settings: Settings) -> bool:
    """Whether this machine's settings are the servers': it runs them, or has everybody's credentials. A worker's settings are its own."""
    login = access.read(settings.credentials)
    return settings.remote_prefect is None or (login is not None and login.admin is not None)


def check(settings: Settings) -> None:
    """Refuse what could not be put there, before anything is started. RequestError: the file of notifications is wrong."""
    if keeps_the_servers(settings):
        notifications.read(settings)


def publish(settings: Settings) -> list[str]:
    """Make all of it what the settings say; returns what the server did not take, for the lab is of use without it."""
    if not keeps_the_servers(settings):
        return []
    troubles = []
    for what, put in (("the limits are", limits.publish), ("the notifications are", notifications.apply)):
        try:
            put(settings)
        except (OSError, RequestError) as error:
            troubles.append(f"{what} not what was asked for: {error}")
    return troubles


def renew(settings: Settings) -> list[str]:
    """Bring to a running lab what is set here; returns what that is, in words. What is not set stays as it was.

    Raises:
        RequestError: the file of notifications is wrong; nothing was changed.
        RunError: the server did not take it.
    """
    check(settings)
    if not keeps_the_servers(settings):
        return []
    done = []
    try:
        if settings.runs_per_user is not None:
            limits.set_runs_per_user(settings, settings.runs_per_user)
            done.append(f"runs a person: {settings.runs_per_user}")
        if settings.gpu_slots is not None:
            limits.set_gpu_slots(settings, settings.gpu_slots)
            done.append(f"GPU slots: {settings.gpu_slots}")
        if settings.notifications.exists():
            done.append(f"notifications: {len(notifications.apply(settings))}")
    except OSError as error:
        raise RunError(f"the Prefect server refused a request: {error}") from None
    return done
