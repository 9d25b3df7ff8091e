"""Region proposal network: where in a picture something is, whatever it is (Ren et al. 2015, arXiv 1506.01497, section 3.1).

At every cell of the map a 3×3 convolution looks around, and for each of the cell's anchors two things are said: how probable it is that an
object is there, and by which offsets the anchor becomes the object's box. The most probable boxes, after non-maximum suppression, are the
proposals. Where we differ, with torchvision: objectness is one logit and not a softmax of two, which is the same function; anchors that
reach beyond the picture take part; proposals are as many in training as in use.

Legend: B pictures, C channels, h × w cells, A anchors in all, R proposals of a picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from components.layers.anchors import cell_anchors, grid_anchors
from components.layers.boxes import BoxCoder, clip
from components.protocols import ActivationFactory

CODER = BoxCoder(variances=(1.0, 1.0, 1.0, 1.0))
"""How the offsets from anchors are meant."""

SMALLEST = 1e-3
"""Proposals with a side below this many pixels are no regions: what lies beyond the picture is cut to nothing."""


class Proposals(NamedTuple):
    """What a region proposal network says.

    Attributes:
        anchors: (A, 4), the same for every picture.
        objectness: (B, A) logits.
        offsets: (B, A, 4), as `CODER` has them.
        regions: for each picture (R, 4), the most probable first, without gradients.
    """

    anchors: Tensor
    objectness: Tensor
    offsets: Tensor
    regions: list[Tensor]


class RegionProposalNetwork(nn.Module):
    """Proposals from a map.

    Args:
        channels: of the map.
        sizes: of the anchors, in pixels (square roots of their areas).
        ratios: of the anchors, height : width.
        candidates: so many most probable boxes of a picture go into non-maximum suppression.
        proposals: at most so many come out.
        overlap: IoU above which the less probable of two boxes is dropped.
        activation: makes the activation after the convolution.
    """

    def __init__(
        self,
        channels: int,
        *,
        sizes: Sequence[float],
        ratios: Sequence[float],
        candidates: int,
        proposals: int,
        overlap: float,
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        self.sizes, self.ratios = tuple(sizes), tuple(ratios)
        self.candidates, self.proposals, self.overlap = candidates, proposals, overlap
        anchors = len(self.sizes) * len(self.ratios)
        self.convolution = nn.Sequential(nn.Conv2d(channels, channels, kernel_size=3, padding=1), activation())
        self.objectness = nn.Conv2d(channels, anchors, kernel_size=1)
        self.offsets = nn.Conv2d(channels, 4 * anchors, kernel_size=1)

    def forward(self, features: Tensor, picture: tuple[int, int]) -> Proposals:
        """A map (B, C, h, w) of pictures of (height, width) pixels → proposals."""
        height, width = features.shape[-2:]
        anchors = grid_anchors(
            cell_anchors(self.sizes, self.ratios).to(features), cells=(height, width), picture=picture
        )  # the cell's anchors are no buffer: they follow from the constructor's numbers
        hidden = self.convolution(features)
        objectness = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)  # (B, h, w, a) → (B, A)
        offsets = self.offsets(hidden).permute(0, 2, 3, 1).reshape(len(features), -1, 4)  # (B, h, w, 4a) → (B, A, 4)
        with torch.no_grad():
            regions = self._regions(anchors, objectness, offsets, picture)
        return Proposals(anchors, objectness, offsets, regions)

    def _regions(self, anchors: Tensor, objectness: Tensor, offsets: Tensor, picture: tuple[int, int]) -> list[Tensor]:
        scores, places = objectness.topk(min(self.candidates, objectness.shape[1]), dim=1)
        chosen = offsets.gather(1, places[..., None].expand(-1, -1, 4))
        boxes = clip(CODER.decode(chosen, anchors[places]), picture)
        regions = []
        for of_one, score in zip(boxes, scores, strict=True):
            large = ((of_one[:, 2:] - of_one[:, :2]) >= SMALLEST).all(dim=1)
            of_one, score = of_one[large], score[large]  # noqa: PLW2901 — the small ones are not wanted again
            regions.append(of_one[nms(of_one.float(), score.float(), self.overlap)[: self.proposals]])
        return regions
