"""What is in one picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The n objects of one picture.

    Attributes:
        boxes: (n, 4) float32 left, top, right, bottom in pixels.
        labels: (n,) int64 classes from 0.
        difficult: (n,) bool; VOC counts such objects neither as found nor as missed.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, which: Tensor) -> Objects:
        """Some of them: places (k,) int64, or (n,) bool."""
        return Objects(self.boxes[which], self.labels[which], self.difficult[which])
