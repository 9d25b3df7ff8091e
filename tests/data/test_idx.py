"""The IDX format, by hand."""

from pathlib import Path

import pytest

from components.data.idx import read_idx
from components.errors import DataError


def test_a_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "idx").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]))
    assert read_idx(tmp_path / "idx").tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "not an IDX file"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x02", "ends within its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03\x01\x02", r"has 2 values where its header \[3\] says 3"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x01\x02", r"has 2 values"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "idx").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_idx(tmp_path / "idx")
