"""RoI align, whose gradient does not take longer than all the rest of a training step.

RoI align (He et al. 2017, arXiv 1703.06870) divides a region of the map into P × P cells, reads the map at points within each cell by
bilinear interpolation, and averages them. torchvision's kernel computes it; but on a CPU its gradient, one point after the other, was a
third of Faster R-CNN's step. Interpolation and mean are linear and act on rows and columns separately, so a region's cells are
`rows @ map @ columns`, and the gradient is two matrix products with the same two small matrices.

Shapes: B pictures, C channels, h × w map, r regions of one picture, R of all, P cells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torchvision.ops import roi_align as kernel

SAMPLES = 2
"""Points a cell and direction; torchvision's detectors have as many."""


def roi_align(features: Tensor, regions: list[Tensor], size: int, *, scale: float) -> Tensor:
    """Regions of any size as cells of one size.

    Args:
        features: (B, C, h, w).
        regions: for each picture (r, 4) in pixels; no gradients flow into them.
        size: P.
        scale: what a pixel is in the map's cells.

    Returns:
        (R, C, P, P), as torchvision's `roi_align(…, sampling_ratio=2, aligned=False)` gives it.
    """
    if features.device.type != "cpu":
        cells: Tensor = kernel(features, regions, size, spatial_scale=scale, sampling_ratio=SAMPLES)
    else:
        cells = _Align.apply(features, regions, size, scale)
    return cells


class _Align(Function):
    @staticmethod
    def forward(context: Any, features: Tensor, regions: list[Tensor], size: int, scale: float) -> Tensor:
        context.regions, context.size, context.scale, context.map = regions, size, scale, features.shape
        cells: Tensor = kernel(features, regions, size, spatial_scale=scale, sampling_ratio=SAMPLES)
        return cells

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        _, channels, height, width = context.map
        counts = [len(of_one) for of_one in context.regions]
        of_maps = []
        for of_one, cells in zip(context.regions, torch.split(gradient, counts), strict=True):
            left, top, right, bottom = (of_one.to(gradient) * context.scale).unbind(1)
            rows = interpolation(top, bottom, size=context.size, length=height)  # (r, P, h)
            columns = interpolation(left, right, size=context.size, length=width)  # (r, P, w)
            cells = cells.permute(0, 2, 3, 1).reshape(-1, context.size, channels)  # (r·P, P, C)  # noqa: PLW2901
            spread = torch.bmm(columns.transpose(1, 2).repeat_interleave(context.size, dim=0), cells)  # (r·P, w, C)
            of_map = rows.flatten(0, 1).t() @ spread.flatten(1)  # (h, r·P) @ (r·P, w·C)
            of_maps.append(of_map.view(height, width, channels).permute(2, 0, 1))
        return torch.stack(of_maps), None, None, None


def interpolation(low: Tensor, high: Tensor, *, size: int, length: int) -> Tensor:
    """How much each of a line's `length` values counts in each of the `size` cells between `low` and `high`: (r, size, length).

    Args:
        low, high: (r,) a region's sides, in units of the line's steps; at least one step apart, or taken as that.
        size: P.
        length: h or w. A point up to one step beyond the line counts as its end, one farther off as nothing.
    """
    step = (high - low).clamp(min=1) / size
    points = (torch.arange(size * SAMPLES, device=low.device, dtype=low.dtype) + 0.5) / SAMPLES
    places = low[:, None] + points * step[:, None]  # (r, P · SAMPLES)
    counts = (places >= -1) & (places <= length)
    places = places.clamp(0, length - 1)
    near = (1 - (places[..., None] - torch.arange(length, device=low.device)).abs()).clamp(min=0)
    return (near * counts[..., None]).view(-1, size, SAMPLES, length).mean(dim=2)
