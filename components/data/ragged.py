"""Rows of different length in two tensors: all values one after the other, and where each row ends.

So a data set of texts is a few tensors in one memory-mapped file, and a padded batch is one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """N rows.

    Attributes:
        values: (M,) all rows' values.
        bounds: (N + 1,) int64; row i is `values[bounds[i]:bounds[i + 1]]`.
    """

    values: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.int32) -> Ragged:
        """From lists."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        values = torch.tensor([value for row in rows for value in row], dtype=dtype)
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Ragged:
        """Texts as UTF-8 bytes."""
        encoded = [text.encode() for text in texts]
        lengths = torch.tensor([len(text) for text in encoded], dtype=torch.int64)
        joined = b"".join(encoded)
        values = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    @classmethod
    def load(cls, tensors: dict[str, Tensor], name: str) -> Ragged:
        """From what `tensors` made."""
        return cls(tensors[name], tensors[f"{name}.bounds"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """As named tensors for a safetensors file."""
        return {name: self.values, f"{name}.bounds": self.bounds}

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> Tensor:
        """(N,) int64."""
        return self.bounds.diff()

    def row(self, place: int) -> Tensor:
        """One row's values."""
        return self.values[self.bounds[place] : self.bounds[place + 1]]

    def text(self, place: int) -> str:
        """One row of UTF-8 bytes as text."""
        return bytes(self.row(place).numpy()).decode()

    def padded(self, index: Tensor, *, pad: int = 0) -> tuple[Tensor, Tensor]:
        """The rows at `index` (B,): (B, T) int64 with `pad` behind each row's end, T the longest of them (1 at least), and lengths (B,)."""
        begins, ends = self.bounds[index], self.bounds[index + 1]
        lengths = ends - begins
        columns = torch.arange(max(int(lengths.max()), 1))
        present = columns < lengths.unsqueeze(1)
        places = (begins.unsqueeze(1) + columns).clamp_(max=max(len(self.values) - 1, 0))
        return torch.where(present, self.values[places].long(), pad), lengths
