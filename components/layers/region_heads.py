"""From a map and regions of any size to what is in each: RoI pooling, linear layers, a softmax and box offsets for each class.

RoI pooling cuts a region of the map into P × P cells and takes the maximum of each (Girshick 2015, arXiv 1504.08083, section 2.1); RoI
align samples each cell at points between the map's own and averages them (He et al. 2017, arXiv 1703.06870). The kernels are torchvision's.

Legend: B pictures, C channels, h × w cells, R regions of all pictures, P pooled size, K classes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from components.layers.boxes import BoxCoder
from components.layers.region_pooling import roi_align
from components.protocols import ActivationFactory

Pooling = Literal["align", "max"]

CODER = BoxCoder(variances=(0.1, 0.1, 0.2, 0.2))
"""How the offsets from regions are meant: about as large as the logits, so that both losses count (Girshick 2015, section 2.3)."""


class Judged(NamedTuple):
    """What region heads say of regions.

    Attributes:
        regions: for each picture (r, 4); together R.
        logits: (R, K + 1), the background first.
        offsets: (R, K, 4), as `CODER` has them: each class has its own.
    """

    regions: list[Tensor]
    logits: Tensor
    offsets: Tensor

    def candidates(self) -> list[tuple[Tensor, Tensor]]:
        """For each picture its regions as each class would have them (r, K, 4), and the probability of each class (r, K)."""
        counts = [len(of_one) for of_one in self.regions]
        boxes = CODER.decode(self.offsets, torch.cat(self.regions)[:, None])
        scores = self.logits.softmax(dim=1)[:, 1:]
        return list(zip(torch.split(boxes, counts), torch.split(scores, counts), strict=True))


class RegionHeads(nn.Module):
    """Classes and boxes of regions.

    Args:
        channels: of the map.
        stride: pixels of the picture from one of the map's cells to the next.
        classes: K.
        pooling: `max` is RoI pooling, `align` RoI align.
        pool_to: P; every region becomes P × P.
        head: widths of the linear layers between the pooled region and the two outputs.
        dropout: probability of dropping a unit of these layers in training.
        activation: makes the activation after each of them.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int,
        classes: int,
        pooling: Pooling,
        pool_to: int,
        head: Sequence[int],
        dropout: float,
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        self.scale, self.pooling, self.pool_to, self.classes = 1 / stride, pooling, pool_to, classes
        layers: list[nn.Module] = []
        before = channels * pool_to**2
        for width in head:
            layers += [nn.Linear(before, width), activation(), nn.Dropout(dropout)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.logits = nn.Linear(before, classes + 1)
        self.offsets = nn.Linear(before, 4 * classes)

    def forward(self, features: Tensor, regions: list[Tensor]) -> Judged:
        """A map (B, C, h, w), and B × (r, 4) regions in pixels → classes and offsets."""
        if self.pooling == "max":
            pooled = roi_pool(features, regions, self.pool_to, spatial_scale=self.scale)
        else:
            pooled = roi_align(features, regions, self.pool_to, scale=self.scale)
        hidden = self.layers(pooled.flatten(1))  # (R, C, P, P) → (R, C·P·P) → (R, F)
        return Judged(regions, self.logits(hidden), self.offsets(hidden).view(-1, self.classes, 4))
