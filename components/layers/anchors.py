"""Anchors: boxes of several sizes and shapes at every cell of a map, from which offsets are predicted (Ren et al. 2015, section 3.1.1).

Legend: A anchors a cell, H × W cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of the cell at the picture's corner, about that corner: every ratio with every size.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: height : width.

    Returns:
        (A, 4) float32 `xyxy`, ratio by ratio, rounded to whole pixels as in the authors' code and in torchvision.
    """
    root = torch.tensor(list(ratios), dtype=torch.float32).sqrt()[:, None]
    size = torch.tensor(list(sizes), dtype=torch.float32)[None]
    width, height = (1 / root * size).flatten(), (root * size).flatten()
    return (torch.stack([-width, -height, width, height], dim=1) / 2).round()


def grid_anchors(cell: Tensor, *, cells: tuple[int, int], picture: tuple[int, int]) -> Tensor:
    """The anchors of all cells.

    Args:
        cell: (A, 4), of one cell.
        cells: (H, W) of the map.
        picture: (height, width) in pixels; its whole quotients by `cells` are the distances from cell to cell.

    Returns:
        (H·W·A, 4) `xyxy`, row by row, and within a cell in the order of `cell`; they may reach beyond the picture.
    """
    steps = [torch.arange(count, device=cell.device) * (pixels // count) for count, pixels in zip(cells, picture, strict=True)]
    y, x = torch.meshgrid(*steps, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4)
