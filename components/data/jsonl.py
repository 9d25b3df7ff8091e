"""A user's own examples as JSON lines: one object a line, whose columns the data set names."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.data.written import read_text
from components.errors import DataError, closest


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each object's line (from 1) and its values of `columns` as texts, stripped; empty lines are passed over.

    Raises:
        DataError: a line is no JSON object, lacks a column, or has something else there than a text or a whole number.
    """
    found = False
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        found = True
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a JSON object, such as {{{json.dumps(columns[0])}: …}}")
        for column in columns:
            if column not in row:
                raise DataError(f"{path}: line {number} has no {column!r} (it has: {', '.join(row)[:200]}){closest(column, row)}")
            if not isinstance(row[column], str | int) or isinstance(row[column], bool):
                raise DataError(f"{path}: line {number}: {column!r} is neither a text nor a whole number")
        yield number, {column: str(row[column]).strip() for column in columns}
    if not found:
        raise DataError(f"{path} has no line")
