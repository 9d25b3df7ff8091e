"""A user's own examples as JSON lines: one object a line, whose columns the data set names."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.data.faults import FaultList
from components.data.written import read_text
from components.errors import DataError, closest


def read_rows(path: Path, columns: Sequence[str], faults: FaultList) -> Iterator[tuple[int, dict[str, str]]]:
    """Each object's line (from 1) and its values of `columns` as texts, stripped; empty lines are passed over.

    A line that is no JSON object, lacks a column, or has something else there than a text or a whole number goes to the `faults`, which are
    for the caller to check when it has added its own.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row: dict[str, str] | None = None
        with faults.of():
            row = _columns(line, columns, f"line {number}")
        if row is not None:
            yield number, row


def _columns(line: str, columns: Sequence[str], place: str) -> dict[str, str]:
    """The values of one line; DataError where it is not as it should be."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{place} is not a JSON object, such as {{{json.dumps(columns[0])}: …}}")
    for column in columns:
        if column not in row:
            raise DataError(f"{place} has no {column!r} (it has: {', '.join(row)[:200]}){closest(column, row)}")
        if not isinstance(row[column], str | int) or isinstance(row[column], bool):
            raise DataError(f"{place}: {column!r} is neither a text nor a whole number")
    return {column: str(row[column]).strip() for column in columns}
