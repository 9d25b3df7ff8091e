"""A user's own long and short texts, or texts and translations: JSON lines, one object a line, whose columns the user names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt, Lt, MinLen

from components.data.faults import FaultList
from components.data.jsonl import read_rows
from components.data.parallel_text import ParallelText
from components.data.users_file import UsersFile
from components.protocols import Fetch


@dataclass(frozen=True, kw_only=True)
class PairsJsonl(ParallelText, UsersFile):
    """A user's own pairs: a UTF-8 file, a JSON object a line.

    Attributes:
        path: the file.
        source: the column of what is read; what is too long is cut.
        target: the column of what is to be written.
        validation: share of the pairs to validate on.
        test: share of the pairs to test on; the others train.
    """

    source: Annotated[str, MinLen(1)] = "text"
    target: Annotated[str, MinLen(1)] = "summary"
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.1

    cuts = True

    name: ClassVar[str] = "pairs_jsonl"

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — the file is here already
        """Write the prepared file; the data card. DataError names the lines that are no pairs."""
        path = Path(self.path).expanduser()
        pairs, faults = [], FaultList(path)
        for number, row in read_rows(path, (self.source, self.target), faults):
            pair = " ".join(row[self.source].split()), " ".join(row[self.target].split())
            if not all(pair):
                faults.add(f"line {number}: {(self.target if pair[0] else self.source)!r} is empty")
            pairs.append(pair)
        faults.check()
        sizes = [max(round(share * len(pairs)), 1) for share in (self.validation, self.test)]
        divided = self.divide(pairs, validation=sizes[0], test=sizes[1])
        return {"source": path.name, "licence": "the user's own", **self.write(into, divided)}
