"""Where the stacks of a sweep keep their checkpoints: `sweeps/NAME/stacks/0`, `1` …, each used by one worker at a time."""

from __future__ import annotations

import fcntl
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.training.checkpoint import Checkpoints
from flows.lab.settings import Settings


@dataclass(frozen=True)
class Place:
    """One of them.

    Attributes:
        number: from 0; the trials that are trained there carry it as their attribute `stack`.
        folder: with the checkpoints.
    """

    number: int
    folder: Path

    @property
    def checkpoints(self) -> Checkpoints:
        """The stack's checkpoints."""
        return Checkpoints(self.folder / "checkpoints")

    @property
    def begun(self) -> bool:
        """Whether a stack has left a checkpoint here that somebody is to go on from."""
        return any(self.folder.glob("checkpoints/step-*"))


class Places:
    """All of a sweep's."""

    def __init__(self, settings: Settings, sweep: str) -> None:
        self.root = settings.sweeps / sweep / "stacks"

    def begun(self, number: int) -> bool:
        """Whether stack `number` has left a checkpoint."""
        return self._place(number).begun

    @contextmanager
    def taken(self) -> Iterator[Place]:
        """The first that nobody uses, those with a checkpoint before all others. It is let go with the process, too."""
        there = [int(path.name) for path in self.root.glob("[0-9]*")]
        known = sorted(there, key=lambda number: (not self.begun(number), number))
        for number in itertools.chain(known, itertools.count(max(there, default=-1) + 1)):
            place = self._place(number)
            place.folder.mkdir(parents=True, exist_ok=True)
            with (place.folder / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield place
                return

    def _place(self, number: int) -> Place:
        return Place(number, self.root / str(number))
