"""What lies in LAB_HOME, in bytes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 0.5
"""How long sizes are added up; after that they are lower bounds."""


def sizes(home: Path, *, seconds: float = SECONDS) -> tuple[dict[str, int], bool]:
    """Bytes of each entry of `home`, largest first, and whether there was time to count everything."""
    deadline = time.monotonic() + seconds
    found: dict[str, int] = {}
    complete = True
    for entry in sorted(os.scandir(home), key=lambda each: each.name) if home.is_dir() else []:
        total = 0
        for size in _sizes(entry):
            total += size
            if time.monotonic() > deadline:
                complete = False
                break
        found[entry.name] = total
    return dict(sorted(found.items(), key=lambda item: -item[1])), complete


def _sizes(entry: os.DirEntry[str]) -> Iterator[int]:
    try:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.stat(follow_symlinks=False).st_size
            return
        with os.scandir(entry) as inside:
            for each in inside:
                yield from _sizes(each)
    except OSError:  # removed while we look, or not ours to read
        return
