"""The run's journal: one file of JSON lines in the run folder, to which the training process says everything it has to say.

Nothing here waits for a server and nothing heavy is imported: a call formats one line and hands it to the operating system, so a
killed process loses nothing that it has said, and only a power cut can take what came after the last `flush`. A courier in another
process (`flows/records/courier.py`) carries the lines on to MLflow.

Lines, by `kind`; `t` is the time in milliseconds since 1970:

    {"t": …, "kind": "metrics", "step": 100, "epoch": 0.8, "values": {"train/loss": 0.31}}
    {"t": …, "kind": "figure", "name": "gradients/step-100", "step": 100, "file": "figures/gradients/step-100.png"}
    {"t": …, "kind": "file", "file": "report/report.html"}
    {"t": …, "kind": "event", "event": "stage", "facts": {"name": "fit", "state": "started"}}

Values that are not finite are written as Python's `json` does: the bare words `NaN`, `Infinity`, `-Infinity`.

A point is named by (series, step) and is written once: a resumed run that replays steps finds its points here already, and the
first one, with its time, stays.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from components.errors import RunError
from components.training.disk import on_disk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "journal.jsonl"
DOTS_PER_INCH = 120

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Journal:
    """The journal of one run folder, open for writing; a `Recorder` with events.

    Raises:
        RunError: another process (or another object) is writing this journal, or the disk does not take it.
    """

    def __init__(self, folder: Path, *, file: str = FILE) -> None:
        self.folder = folder
        self.path = folder / file
        folder.mkdir(parents=True, exist_ok=True)
        self._file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise RunError(f"the run in {folder} is already running: another process writes {file}") from None
        self._steps: dict[str, array[int]] = {}  # series → its steps, ascending; 8 bytes a point
        self._figures: set[tuple[str, int]] = set()
        self._size = _whole(self.path.read_bytes())
        os.ftruncate(self._file, self._size)
        for line in read(folder, file=file):
            if line["kind"] == "metrics":
                for name in line["values"]:
                    self._is_new(name, line["step"])
            elif line["kind"] == "figure":
                self._figures.add((line["name"], line["step"]))

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float | None) -> None:
        """Points of named series at optimizer step `step`; a (name, step) that is already here is dropped.

        Args:
            values: series name → value; NaN and infinities are kept.
            step: optimizer step, from 1 (0 for what is known before training).
            epoch: epochs done at that step, with fraction; None where steps are no steps of a training.

        Raises:
            RunError: the disk is full.
        """
        fresh = {name: float(value) for name, value in values.items() if self._is_new(name, step)}
        if fresh:
            self._write({"t": time.time_ns() // 1_000_000, "kind": "metrics", "step": step, "epoch": epoch, "values": fresh})

    def figure(self, name: str, figure: Figure, *, step: int) -> None:
        """Save `figure` as figures/NAME.png, whole or not at all; a (name, step) that is already here is dropped.

        Raises:
            ValueError: `name` is not a plain relative path.
            RunError: the disk is full.
        """
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"a figure's name is a relative path without '..', not {name!r}")
        if (name, step) in self._figures:
            return
        file = f"figures/{name}.png"
        target = self.folder / file
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(unfinished, format="png", dpi=DOTS_PER_INCH)
            unfinished.replace(target)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise self._refused(error) from error
        self._figures.add((name, step))
        self._write({"t": time.time_ns() // 1_000_000, "kind": "figure", "name": name, "step": step, "file": file})

    def file(self, path: Path) -> None:
        """A file of the run folder that belongs to the run's record; what it holds now is what counts, however often it is said.

        Raises:
            ValueError: it does not lie in the run folder.
            RunError: the disk is full.
        """
        self._write({"t": time.time_ns() // 1_000_000, "kind": "file", "file": str(path.relative_to(self.folder))})

    def event(self, event: str, /, **facts: Any) -> None:
        """Something that happened (`started`, `stage`, `checkpoint`, `result`, `warning` …) with JSON-able facts; on disk on return.

        Raises:
            RunError: the disk is full.
        """
        self._write({"t": time.time_ns() // 1_000_000, "kind": "event", "event": event, "facts": facts})
        self.flush()

    def flush(self) -> None:
        """Make everything said so far survive a power cut."""
        try:
            on_disk(self._descriptor())
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Let go of the file; the journal can be opened again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def _is_new(self, name: str, step: int) -> bool:
        """Whether the point (name, step) has not been said yet; it counts as said from now on."""
        steps = self._steps.get(name)
        if steps is None:
            self._steps[name] = array("q", (step,))
        elif steps[-1] < step:  # nearly always: steps only grow
            steps.append(step)
        else:
            place = bisect.bisect_left(steps, step)
            if steps[place] == step:
                return False
            steps.insert(place, step)
        return True

    def _write(self, line: dict[str, Any]) -> None:
        """Append one whole line, or nothing."""
        data = (_encode(line) + "\n").encode()
        file = self._descriptor()
        try:
            written = os.write(file, data)
            while written < len(data):  # a nearly full disk takes a part, then refuses the rest
                written += os.write(file, data[written:])
        except OSError as error:
            os.ftruncate(file, self._size)
            raise self._refused(error) from error
        self._size += written

    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError(f"the journal in {self.folder} is closed")
        return self._file

    def _refused(self, error: OSError) -> RunError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RunError(f"the disk is full: cannot write to {self.folder}; free some space, then resume the run")
        return RunError(f"cannot write to {self.folder}: {error.strerror or error}")


def lines(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines in `data`, each with the place (bytes from the start) just behind it.

    An unfinished last line is not there yet; a line that is not JSON (a power cut can leave one) is passed over.
    """
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        try:
            line = json.loads(data[start:end])
        except ValueError:
            line = None
        start = end + 1
        if isinstance(line, dict) and "kind" in line:
            yield start, line


def read(folder: Path, *, file: str = FILE) -> list[dict[str, Any]]:
    """Every line of the run folder's journal, in order; an empty list when it has none."""
    path = folder / file
    return [line for _, line in lines(path.read_bytes())] if path.exists() else []


def history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The run's series: name → (step, value) by ascending step; `epoch` is one of them."""
    return series_of(read(folder))


def series_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The series in some lines, as `history` gives them."""
    series: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["kind"] == "metrics":
            epoch = {} if line["epoch"] is None else {"epoch": line["epoch"]}
            for name, value in {**epoch, **line["values"]}.items():
                series.setdefault(name, {}).setdefault(line["step"], value)
    return {name: sorted(points.items()) for name, points in series.items()}


def is_open(folder: Path) -> bool:
    """Whether some process is writing this run folder's journal now."""
    try:
        file = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _whole(data: bytes) -> int:
    """How many bytes of `data` are whole lines."""
    return data.rfind(b"\n") + 1
