"""SSD: objects of many sizes from maps of many sizes, in one pass (Liu et al. 2016, arXiv 1512.02325).

The idea: fine maps see small objects, coarse maps large ones. Over every cell of every map lie default boxes of a few sizes and shapes; one
3×3 convolution a map says for each of them which class is there and how the box has to move. Nothing is proposed first, nothing resampled.

VGG16 is cut as in the paper: the first map is what the stage before the last gives, before its pooling, each place brought to length
`first_map_scale`; the last stage goes on to a pooling that does not halve and two convolutions in place of the fully connected layers,
the first of them dilated: the second map. Pairs of a 1×1 and a 3×3 convolution give the others. Where we differ, with torchvision: the
dilated convolution starts from an initializer and not from subsampled weights. Where we differ from both: class and box of a map come
from one convolution. `batch_norm` (after each convolution of the stages and the two that follow) is not in the paper; it trains sooner.

Weights of `VGG` load into `features` by name.

Shapes: B batch, A default boxes of all maps, K classes (logit 0 is background), H × W cells of a map, a default boxes a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Len
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.boxes import BoxCoder, cornered
from components.layers.convolutions import vgg_features
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]


class SSD(nn.Module):
    """A single-shot detector.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: number of classes K, background not counted.
        stages: as in VGG; two or more.
        context: (channels, dilation) of the two convolutions behind the last stage.
        extras: for each further map (channels of the 1×1, channels of the 3×3, stride): with stride 2 padded, with 1 not, as in the paper.
        scales: sides of the default boxes as shares of the picture, map by map, and one more, in rising order.
        ratios: for each map, width : height of its default boxes; besides these, their inverses and two squares: of the map's scale, and
            of the geometric mean of its scale and the next.
        maps: which maps are used, counted from 0, in rising order: `[0, 1, 2, 3, 4, 5]`, or one for a comparison.
        steps: for each map, pixels from cell to cell; empty means picture / cells.
        first_map_scale: length of each place of the first map at the start, then learned; 0 leaves the map as it is.
        activation: makes the activation after each convolution.
        batch_norm: whether to normalize.

    Raises:
        ValueError: lists of different length, maps that are not there, or a picture too small for the maps.
    """

    def __init__(
        self,
        *,
        input_shape: Annotated[Sequence[Width], Len(3, 3)],
        classes: Width,
        stages: Annotated[Sequence[Annotated[Sequence[Width], Len(1)]], Len(2)],
        context: Annotated[Sequence[Width], Len(2, 2)],
        extras: Sequence[Annotated[Sequence[Width], Len(3, 3)]],
        scales: Sequence[Annotated[float, Gt(0)]],
        ratios: Sequence[Sequence[Annotated[float, Gt(0)]]],
        maps: Annotated[Sequence[Annotated[int, Ge(0)]], Len(1)],
        activation: ActivationFactory,
        steps: Sequence[Annotated[float, Gt(0)]] = (),
        first_map_scale: Annotated[float, Ge(0)] = 20.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        count = 2 + len(extras)
        if len(ratios) != count or len(scales) != count + 1 or len(steps) not in (0, count):
            raise ValueError(
                f"{count} maps ({len(extras)} extras and two) need {count} ratios, {count + 1} scales and {count} steps (or none), "
                f"not {len(ratios)}, {len(scales)} and {len(steps)}"
            )
        if sorted(set(maps)) != list(maps) or maps[-1] >= count:
            raise ValueError(f"maps must be rising numbers from 0 to {count - 1}, not {list(maps)}")
        channels, height, width = input_shape
        self.classes, self.maps = classes, tuple(maps)
        self.coder = BoxCoder()

        self.features = vgg_features(channels, stages, activation=activation, batch_norm=batch_norm, halve_last=False)
        for place, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True  # 75 cells become 38, as in the paper
                self.cut = place
        before, (wide, dilation) = stages[-1][-1], context
        norm = [nn.BatchNorm2d(wide)] if batch_norm else []
        again = [nn.BatchNorm2d(wide)] if batch_norm else []
        self.context = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(before, wide, kernel_size=3, padding=dilation, dilation=dilation),
            *norm,
            activation(),
            nn.Conv2d(wide, wide, kernel_size=1),
            *again,
            activation(),
        )
        self.extras = nn.ModuleList()
        widths = [stages[-2][-1], wide]
        for squeezed, out, stride in list(extras)[: max(maps[-1] - 1, 0)]:
            self.extras.append(
                nn.Sequential(
                    nn.Conv2d(widths[-1], squeezed, kernel_size=1),
                    activation(),
                    nn.Conv2d(squeezed, out, kernel_size=3, stride=stride, padding=stride - 1),
                    activation(),
                )
            )
            widths.append(out)
        self.first_map_scale = first_map_scale
        if first_map_scale and maps[0] == 0:
            self.scale = nn.Parameter(torch.ones(widths[0]))  # times first_map_scale: initializers set it to 1
        boxes = [2 + 2 * len(ratios[place]) for place in maps]
        self.heads = nn.ModuleList(
            nn.Conv2d(widths[place], a * (1 + classes + 4), kernel_size=3, padding=1) for place, a in zip(maps, boxes, strict=True)
        )
        cells = list(self._cells(height, width, len(stages), [stride for *_, stride in extras]))
        found = [
            default_boxes(cells[place], (height, width), scales=(scales[place], scales[place + 1]), ratios=ratios[place], step=step)
            for place, step in ((place, steps[place] if steps else None) for place in maps)
        ]
        self.default_boxes: Tensor
        self.register_buffer("default_boxes", torch.cat(found), persistent=False)
        self.cells = [cells[place] for place in maps]

    @staticmethod
    def _cells(height: int, width: int, stages: int, strides: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(rows, columns) of every map."""
        sides = (height, width)
        for pooling in range(stages - 1):
            if pooling == stages - 2:
                yield sides
            sides = (math.ceil(sides[0] / 2), math.ceil(sides[1] / 2))
        yield sides
        for place, stride in enumerate(strides, start=2):
            padding = stride - 1
            rows, columns = ((side + 2 * padding - 3) // stride + 1 for side in sides)
            if min(rows, columns) < 1:
                raise ValueError(f"a picture of {height}×{width} is too small: nothing is left of it for map {place}")
            sides = (rows, columns)
            yield sides

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *input_shape) → logits (B, A, 1 + K) and offsets (B, A, 4), in the order of `default_boxes`."""
        outputs = [head(of) for head, of in zip(self.heads, self._maps(inputs), strict=True)]
        logits, offsets = [], []
        for output in outputs:
            rows = output.permute(0, 2, 3, 1).reshape(len(output), -1, 1 + self.classes + 4)  # (B, H·W·a, 1 + K + 4)
            logits.append(rows[..., : 1 + self.classes])
            offsets.append(rows[..., 1 + self.classes :])
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)

    def _maps(self, inputs: Tensor) -> list[Tensor]:
        found = []
        now = inputs.contiguous(memory_format=torch.channels_last)  # on a CPU, convolutions take a third less time so
        for layer in self.features[: self.cut]:
            now = layer(now)
        if 0 in self.maps:
            first = now
            if self.first_map_scale:
                first = F.normalize(now) * (self.first_map_scale * self.scale).view(1, -1, 1, 1)
            found.append(first)
        if self.maps[-1] >= 1:
            for layer in self.features[self.cut :]:
                now = layer(now)
            now = self.context(now)
            if 1 in self.maps:
                found.append(now)
        for place, extra in enumerate(self.extras, start=2):
            now = extra(now)
            if place in self.maps:
                found.append(now)
        return found

    def candidates(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each picture: decoded default boxes (A, 4) in pixels, and the probability of each class (A, K)."""
        logits, offsets = self(inputs)
        scores = logits.float().softmax(dim=2)[..., 1:]
        boxes = self.coder.decode(offsets.float(), self.default_boxes.float())
        return list(zip(boxes, scores, strict=True))

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """Features and heads."""
        return {"features": [*self.features, self.context, *self.extras], "heads": list(self.heads)}


def default_boxes(
    cells: tuple[int, int], picture: tuple[int, int], *, scales: tuple[float, float], ratios: Sequence[float], step: float | None
) -> Tensor:
    """The default boxes of one map: (rows · columns · (2 + 2·ratios), 4) `xyxy` pixels, cell by cell in reading order.

    In each cell: a square of the map's scale, one of the geometric mean of its scale and the next's, and for each ratio a wide and a high
    box of the map's scale. They may reach beyond the picture, but none is larger than it.

    Args:
        cells: (rows, columns).
        picture: (height, width) in pixels.
        scales: the map's, and the next one's, as shares of the picture.
        ratios: of width to height, > 1.
        step: pixels from cell to cell; None means picture / cells.
    """
    scale, following = scales
    between = math.sqrt(scale * following)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sides += [(long, short), (short, long)]
    height, width = picture
    pixels = torch.tensor(sides).clamp(max=1) * torch.tensor([width, height])  # (a, 2) width, height
    steps = [step or side / count for side, count in zip(picture, cells, strict=True)]
    y, x = ((torch.arange(count) + 0.5) * pace for count, pace in zip(cells, steps, strict=True))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2).expand(-1, len(sides), -1)
    return cornered(torch.cat([centres, pixels.expand(len(centres), -1, -1)], dim=-1).reshape(-1, 4))
