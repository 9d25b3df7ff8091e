"""A user's own labelled texts: a CSV file with a header, or one JSON object a line, with one column of texts and one of labels."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Len, Lt

from components.data.faults import FaultList
from components.data.jsonl import read_rows
from components.data.labelled_text import LabelledText, write_labelled
from components.data.splits import stratified
from components.data.tokens import TokenSettings
from components.data.users_file import UsersFile
from components.data.written import LONGEST, read_text
from components.errors import DataError, closest
from components.protocols import Fetch

FEWEST = 3
"""Examples that a class needs: one for each split."""
MOST_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class LabelledRows(LabelledText, TokenSettings, UsersFile):
    """What both kinds of file share.

    Attributes:
        path: the file, UTF-8.
        text: name of the column with the texts.
        label: name of the column with the labels.
        validation: share of each class to validate on.
        test: share of each class to test on; the others train.
        split_seed: which examples are in which split.
    """

    text: str = "text"
    label: str = "label"
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.1
    split_seed: Annotated[int, Ge(0)] = 0

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card.

        Raises:
            DataError: the file is no such table, or a label has too few examples.
        """
        path = Path(self.path).expanduser()
        faults = FaultList(path)
        rows = list(self._rows(path, faults))
        faults.check()
        used = [(text, label) for text, label in rows if text and label]
        labels = Counter(label for _, label in used)
        rare = sorted(label for label, count in labels.items() if count < FEWEST)
        if len(labels) < 2 or len(labels) > MOST_CLASSES:
            raise DataError(f"{self.path}: the column {self.label!r} has {len(labels)} different labels; 2 to {MOST_CLASSES} are needed")
        for label in rare:
            faults.add(f"the label {label!r} has {labels[label]} examples, and each needs {FEWEST}, one for each split")
        faults.check()
        names = sorted(labels)
        targets = torch.tensor([names.index(label) for _, label in used])
        take = {"validation": max(round(self.validation * len(used)), 1), "test": max(round(self.test * len(used)), 1)}
        try:
            split = stratified(targets, take, seed=self.split_seed)
        except ValueError as error:
            raise DataError(f"{self.path}: {error}") from error
        return {
            "source": Path(self.path).name,
            "licence": "the user's own",
            "left_out": len(rows) - len(used),
            "left_out_reason": "without a text or a label",
            **write_labelled(
                into, texts=[text for text, _ in used], targets=targets, rows=split, class_names=names, settings=self, fetch=fetch
            ),
        }

    def _rows(self, path: Path, faults: FaultList) -> Iterator[tuple[str, str]]:
        """(text, label) of each row that is as it should be, stripped; of all others, the fault."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextCsv(LabelledRows):
    """Rows of a CSV file with a header.

    Attributes:
        delimiter: what separates the columns.
    """

    delimiter: Annotated[str, Len(1, 1)] = ","

    name: ClassVar[str] = "text_csv"

    def _rows(self, path: Path, faults: FaultList) -> Iterator[tuple[str, str]]:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # its own, 131,072, is less than many a text that is then cut anyway
        reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=self.delimiter, strict=True)
        line = 1
        try:
            columns = next(reader, [])
            text, label = (_place(wanted, columns, path) for wanted in (self.text, self.label))
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) < len(columns):
                    faults.add(f"line {line} has fewer columns than the header")
                elif len(cells) > len(columns):
                    faults.add(f"line {line} has more columns than the header (a text with {self.delimiter!r} in it has to be in quotes)")
                elif cells:
                    yield cells[text].strip(), cells[label].strip()
                line = reader.line_num + 1
        except csv.Error as error:
            faults.add(f"after line {line - 1}: {error}")  # nothing behind it can be told apart


def _place(wanted: str, columns: Sequence[str], path: Path) -> int:
    """Where in the header the column is. DataError when it is not there, or twice."""
    if wanted not in columns:
        known = ", ".join(columns)[:200] or "none"
        raise DataError(f"{path} has no column {wanted!r} (its columns: {known}){closest(wanted, columns)}")
    if columns.count(wanted) > 1:
        times = "twice" if columns.count(wanted) == 2 else f"{columns.count(wanted)} times"
        raise DataError(f"{path}: the header has {wanted!r} {times}")
    return columns.index(wanted)


@dataclass(frozen=True, kw_only=True)
class TextJsonl(LabelledRows):
    """JSON objects, one a line."""

    name: ClassVar[str] = "text_jsonl"

    def _rows(self, path: Path, faults: FaultList) -> Iterator[tuple[str, str]]:
        for _, row in read_rows(path, (self.text, self.label), faults):
            yield row[self.text], row[self.label]
