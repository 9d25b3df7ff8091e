"""What is wrong in a file of examples, all of it at once: whoever mends a file wants to do so once."""

from collections.abc import Iterator
from contextlib import contextmanager

from components.errors import DataError

SHOWN = 20
"""Faults that a message spells out."""


class FaultList:
    """The faults of one file, in the order in which they are found.

    Args:
        file: what the file is called in the message.
    """

    def __init__(self, file: object) -> None:
        self.file = file
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """One fault, which begins with its place: `line 3 is not JSON`."""
        self.found.append(fault)

    @contextmanager
    def of(self, place: str = "") -> Iterator[None]:
        """What raises DataError in here is a fault, at `place` where it does not say so itself; the next one is looked for all the same."""
        try:
            yield
        except DataError as error:
            self.add(f"{place}: {error}" if place else str(error))

    def check(self) -> None:
        """Raise DataError with the first SHOWN faults, and how many more there are, where there is any."""
        if not self.found:
            return
        more = [f"and {len(self.found) - SHOWN:,} more"] if len(self.found) > SHOWN else []
        count = f"{len(self.found):,} faults: " if len(self.found) > 1 else ""
        raise DataError(f"{self.file}: {count}{'; '.join([*self.found[:SHOWN], *more])}")
