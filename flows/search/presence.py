"""Which workers are there: each signs in and gives a sign of life every few seconds; nobody guesses.

On the worker's own machine its process tells whether it lives, at once and exactly, however busy the machine is. Elsewhere a worker
is believed to live for `SECONDS_BELIEVED` after its last sign.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

import psutil
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from flows.lab.settings import Settings
from flows.records.store import Store
from flows.records.tables import Worker

SECONDS_BETWEEN_SIGNS = 5.0
SECONDS_BELIEVED = 30.0


class Presence:
    """The workers of a lab, in the lab's own tables."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.lab_store

    def sign_in(self, sweep: str) -> str:
        """Enter this process as a worker; returns its name. A thread gives the signs of life until the process ends."""
        process = psutil.Process()
        name = f"{_host()}:{process.pid}:{process.create_time():.2f}"
        store = Store(self._url)
        with store.writing() as session:
            session.merge(Worker(name=name, host=_host(), pid=process.pid, sweep=sweep, seen=datetime.now(UTC)))
        threading.Thread(target=_give_signs, args=(store, name), daemon=True, name="signs of life").start()
        return name

    def alive(self, worker: str) -> bool:
        """Whether the worker of that name is there."""
        host, pid, created = worker.rsplit(":", 2)
        if host == _host():
            try:
                process = psutil.Process(int(pid))
                return abs(process.create_time() - float(created)) < 0.02 and process.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False
        with Store(self._url) as store, store.reading() as session:
            seen = session.scalars(select(Worker.seen).where(Worker.name == worker)).one_or_none()
        return seen is not None and datetime.now(UTC) - _aware(seen) < timedelta(seconds=SECONDS_BELIEVED)

    def of(self, sweep: str) -> list[str]:
        """The living workers of a sweep."""
        with Store(self._url) as store, store.reading() as session:
            names = list(session.scalars(select(Worker.name).where(Worker.sweep == sweep)))
        return [name for name in names if self.alive(name)]


def _give_signs(store: Store, name: str) -> None:
    pause = threading.Event()
    while not pause.wait(SECONDS_BETWEEN_SIGNS):
        try:
            with store.writing() as session:
                found = session.get(Worker, name)
                if found is not None:
                    found.seen = datetime.now(UTC)
        except SQLAlchemyError:  # the database is busy or away; the next sign says the same
            continue


def _host() -> str:
    return os.uname().nodename


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
