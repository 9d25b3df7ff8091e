"""What is wrong in a file of examples, all of it at once: whoever mends a file wants to do so once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from components.errors import DataError

SHOWN = 20
"""Faults that a message spells out."""
ALIKE = 3
"""Lines with the same fault that are told of together: a column's name that is wrong in the request is wrong in every line."""
PLACE = re.compile(r"line [\d,]+")
"""What a fault of a line begins with."""


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
        """Raise DataError with the first SHOWN faults, and how many more there are, where there is any; what lines share is said once."""
        if not self.found:
            return
        alike: dict[str, list[str]] = {}
        for fault in self.found:
            alike.setdefault(_what(fault), []).append(fault)
        said = list[str]()
        for fault in self.found:
            same = alike[_what(fault)]
            if len(same) < ALIKE or not PLACE.match(fault):
                said.append(fault)
            elif fault is same[0]:
                said.append(f"{fault} (the same in lines {_listed([other.split()[1].rstrip(':,') for other in same[1:]])})")
        more = [f"and {len(said) - SHOWN:,} more"] if len(said) > SHOWN else []
        count = f"{len(self.found):,} faults: " if len(self.found) > 1 else ""
        raise DataError(f"{self.file}: {count}{'; '.join([*said[:SHOWN], *more])}")


def _what(fault: str) -> str:
    """A fault without the number of its line; as it is where it names no line."""
    return fault[place.end() :] if (place := PLACE.match(fault)) else fault


def _listed(numbers: Sequence[str]) -> str:
    """`2, 3 and 5`, or the first SHOWN of them and how many more."""
    *first, last = [*numbers[:SHOWN], f"{len(numbers) - SHOWN:,} more"] if len(numbers) > SHOWN else numbers
    return f"{', '.join(first)} and {last}"
