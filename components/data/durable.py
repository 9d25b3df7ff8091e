"""Writing files so that nobody ever sees half of one: not another process, not the next start after a power cut.

Work happens in a `scratch` folder beside its destination and is moved there by one rename, after a sync. A scratch folder holds a
lock for as long as its owner lives (the kernel drops it at any kind of death), so whoever comes next knows which ones are litter.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import SourceError

PREFIX = ".partial-"
LOCK = ".lock"
UNLOCKED_SECONDS = 3600.0
"""A scratch folder without a lock file is one whose owner died, or is still being born: it is litter only after this long."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A fresh folder in `root` (made if missing), removed at the end; first removes those whose owner died.

    Raises:
        SourceError: the disk is full, or `root` cannot be written to.
    """
    with _disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder, lock = _create(root)
    try:
        with _disk_errors(root, only_full=True):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def turn(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One at a time: wait for whoever works on `folder` (made if missing), and hold its lock; `waiting` is called once if it is held.

    The lock is the folder's own, so nothing is left behind. Where a file system has no locks, nobody waits.

    Raises:
        SourceError: the folder cannot be made.
    """
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(held)


def publish(work: Path, final: Path) -> None:
    """Move the finished file or folder `work` to `final`, so that it is there completely or not at all.

    A file replaces what is there; a folder does not (OSError ENOTEMPTY: somebody else published first).
    """
    for path in [work, *work.rglob("*")] if work.is_dir() else [work]:
        _sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    work.replace(final)
    _sync(final.parent)


FULL = ("os error 28", "os error 122", "No space left", "disk is full")
"""How safetensors and databases word it, which wrap the system's error in their own."""


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came of, says that the disk, or the user's share of it, is full."""
    seen: list[BaseException] = []
    while error not in seen:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in FULL):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return False


@contextmanager
def _disk_errors(root: Path, *, only_full: bool = False) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise SourceError(f"no space left for {root}: free some, or choose another place; nothing half-written was kept") from error
        if isinstance(error, OSError) and not only_full:
            raise SourceError(f"cannot write to {root}: {error.strerror or error}") from error
        raise


def _create(root: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o644)
        with suppress(BlockingIOError):  # somebody sweeping found it between the two lines above and below: take another
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / LOCK).exists():
                return folder, lock
        os.close(lock)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / LOCK, os.O_WRONLY)
        except OSError:
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > UNLOCKED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            continue
        with suppress(BlockingIOError):  # its owner lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
