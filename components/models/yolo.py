"""YOLO: the picture as a grid, and each cell says which object's centre lies in it (Redmon et al. 2016, arXiv 1506.02640, version 1).

The idea: detection as one regression from pixels to boxes. Each cell predicts a few boxes, each with the confidence that it holds an
object (times its IoU), and once the probabilities of the classes, given that there is an object. So a cell has one class only: small
objects close together are lost.

As in the authors' program, the outputs for width and height are the roots that the paper's loss compares, so no root has to be taken of
what may be negative. `head` are the fully connected layers of the paper, which see the whole picture; without any, a 1×1 convolution
reads each cell's features alone, which is not in the paper (it is in version 2) and takes fewer weights and less data. `batch_norm` is
not in the paper either.

Shapes: B batch, R × S cells, N boxes a cell, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Len, Lt
from torch import Tensor, nn

from components.layers.boxes import cornered
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]


class YOLO(nn.Module):
    """A detector that looks once.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: number of classes K.
        stages: for each stage, its convolutions as (channels, kernel side, stride); 2×2 max pooling between stages.
        head: widths of the fully connected layers before the last; empty for a 1×1 convolution instead.
        boxes: boxes a cell N.
        activation: makes the activation after each convolution and hidden layer.
        dropout: probability of dropping a unit of the hidden layers in training.
        batch_norm: whether each convolution of the stages is followed by batch normalization.

    Raises:
        ValueError: a kernel of even side, or a picture that is used up before the last stage.
    """

    def __init__(
        self,
        *,
        input_shape: Annotated[Sequence[Width], Len(3, 3)],
        classes: Width,
        stages: Annotated[Sequence[Annotated[Sequence[Annotated[Sequence[Width], Len(3, 3)]], Len(1)]], Len(1)],
        head: Sequence[Width],
        boxes: Width,
        activation: ActivationFactory,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.classes, self.boxes, self.picture = classes, boxes, (height, width)
        rows, columns = height, width
        layers: list[nn.Module] = []
        for place, stage in enumerate(stages):
            if place:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                rows, columns = rows // 2, columns // 2
            for out, side, stride in stage:
                if side % 2 == 0:
                    raise ValueError(f"a kernel's side must be odd, not {side}")
                layers.append(nn.Conv2d(channels, out, kernel_size=side, stride=stride, padding=side // 2))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(activation())
                channels, rows, columns = out, math.ceil(rows / stride), math.ceil(columns / stride)
            if min(rows, columns) < 1:
                raise ValueError(f"a picture of {height}×{width} is too small for {len(stages)} stages")
        self.features = nn.Sequential(*layers)
        self.cells = (rows, columns)

        outputs = 5 * boxes + classes
        if head:
            hidden: list[nn.Module] = [nn.Flatten()]
            before = channels * rows * columns
            for wide in head:
                hidden += [nn.Linear(before, wide), activation(), nn.Dropout(dropout)]
                before = wide
            self.head = nn.Sequential(*hidden, nn.Linear(before, rows * columns * outputs))
        else:
            self.head = nn.Sequential(nn.Conv2d(channels, outputs, kernel_size=1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, *input_shape) → places (B, R, S, N, 4), confidences (B, R, S, N) and class probabilities (B, R, S, K), as they come.

        A place is (x, y, √w, √h): the centre's in the cell, in cells, and the roots of the sides' shares of the picture.
        """
        rows, columns = self.cells
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # on a CPU, convolutions take a third less time so
        outputs = self.head(self.features(inputs))
        if outputs.ndim == 4:
            outputs = outputs.permute(0, 2, 3, 1)  # (B, R, S, 5N + K)
        outputs = outputs.reshape(len(inputs), rows, columns, -1)
        boxes = outputs[..., : 5 * self.boxes].unflatten(3, (self.boxes, 5))
        return boxes[..., :4], boxes[..., 4], outputs[..., 5 * self.boxes :]

    def corners(self, places: Tensor) -> Tensor:
        """Places (B, R, S, N, 4) as boxes of the same shape, `xyxy` in pixels."""
        (rows, columns), (height, width) = self.cells, self.picture
        y = torch.arange(rows, device=places.device).view(-1, 1, 1)
        x = torch.arange(columns, device=places.device).view(1, -1, 1)
        centre = [(places[..., 0] + x) * (width / columns), (places[..., 1] + y) * (height / rows)]
        sides = [places[..., 2].square() * width, places[..., 3].square() * height]
        return cornered(torch.stack([*centre, *sides], dim=-1))

    def candidates(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each picture: boxes (R·S·N, 4) in pixels, and confidence times class probability, cut to 0 … 1, (R·S·N, K)."""
        places, confidence, classes = self(inputs)
        scores = confidence.float().clamp(0, 1).unsqueeze(-1) * classes.float().clamp(0, 1).unsqueeze(3)  # (B, R, S, N, K)
        return list(zip(self.corners(places.float()).flatten(1, 3), scores.flatten(1, 3), strict=True))

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """Features and head."""
        return {"features": [self.features], "heads": [self.head]}
