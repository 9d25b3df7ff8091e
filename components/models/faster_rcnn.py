"""Faster R-CNN: the detector's own network proposes the regions that it then looks at (Ren et al. 2015, arXiv 1506.01497).

The idea: VGG's map is computed once and shared. A region proposal network says where something is, from nine anchors a cell; the heads of
Fast R-CNN say what it is, and where exactly. Nothing outside the network is asked, and all of it is trained together.

Where we differ from the paper: all of it is trained jointly by one sum of losses ("approximate joint training"), not in four steps;
RoI align stands in for RoI pooling unless `pooling` says otherwise; see `layers.region_proposals` for the proposals. With
`stages=VGG16`, `head=[4096, 4096]`, `pool_to=7` and `sizes=[128, 256, 512]` it is the paper's network, and torchvision's `FasterRCNN` on
VGG16's map computes the same (see its test). Parameters of `features` are named as VGG's, so its weights can be taken over.

Shapes: B pictures of H × W, C channels, R regions of all pictures, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Le, Len, Lt
from torch import Tensor, nn

from components.layers.convolutions import channels_last, vgg_features
from components.layers.region_heads import Judged, Pooling, RegionHeads
from components.layers.region_proposals import Proposals, RegionProposalNetwork
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]
Pixels = Annotated[float, Gt(0)]


class Found(NamedTuple):
    """What both networks say."""

    proposals: Proposals
    judged: Judged


class FasterRCNN(nn.Module):
    """A two-stage detector.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: K, background not counted.
        stages: of VGG's convolutions; all but the last end in a halving of the picture.
        batch_norm: whether each convolution is followed by batch normalization.
        sizes: of the anchors, in pixels (square roots of their areas).
        ratios: of the anchors, height : width.
        candidates: so many most probable boxes of a picture go into the proposals' non-maximum suppression.
        proposals: at most so many come out.
        overlap: IoU above which the less probable of two proposals is dropped.
        pooling: `align` or `max`, how a region becomes `pool_to` × `pool_to`.
        pool_to: see `pooling`.
        head: widths of the linear layers between a pooled region and the two outputs.
        dropout: probability of dropping a unit of the head in training.
        activation: makes every activation.

    Raises:
        ValueError: a picture that is used up before the last stage.
    """

    def __init__(
        self,
        *,
        input_shape: Annotated[Sequence[Width], Len(3, 3)],
        classes: Width,
        stages: Annotated[Sequence[Annotated[Sequence[Width], Len(1)]], Len(1)],
        sizes: Annotated[Sequence[Pixels], Len(1)],
        ratios: Annotated[Sequence[Pixels], Len(1)],
        head: Sequence[Width],
        pool_to: Width,
        activation: ActivationFactory,
        candidates: Width = 2000,
        proposals: Width = 300,
        overlap: Annotated[float, Gt(0), Le(1)] = 0.7,
        pooling: Pooling = "align",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        if min(size) < 2 ** (len(stages) - 1):
            raise ValueError(f"a picture of {size[0]}×{size[1]} is too small for {len(stages)} stages, all but one of which halve it")
        width = stages[-1][-1]
        self.features = vgg_features(channels, stages, activation=activation, batch_norm=batch_norm, halve_last=False)
        self.proposals = RegionProposalNetwork(
            width, sizes=sizes, ratios=ratios, candidates=candidates, proposals=proposals, overlap=overlap, activation=activation
        )
        self.heads = RegionHeads(
            width,
            stride=2 ** (len(stages) - 1),
            classes=classes,
            pooling=pooling,
            pool_to=pool_to,
            head=head,
            dropout=dropout,
            activation=activation,
        )

    def forward(self, inputs: Tensor, choose: Callable[[list[Tensor]], list[Tensor]] | None = None) -> Found:
        """(B, channels, H, W) → the proposals, and what is in them.

        Args:
            inputs: pictures.
            choose: what makes, of each picture's proposals (r, 4), the regions that the heads look at; in training a sample. None: all.
        """
        height, width = inputs.shape[-2:]
        features = self.features(channels_last(inputs))  # (B, C, H/2ˢ⁻¹, W/2ˢ⁻¹) of s stages
        proposals: Proposals = self.proposals(features, (height, width))
        regions = proposals.regions if choose is None else choose(proposals.regions)
        return Found(proposals, self.heads(features, regions))

    def candidates(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each picture (boxes (r, K, 4) in pixels, probability of each class (r, K)), before suppression within the classes."""
        found: Found = self(inputs)
        return found.judged.candidates()

    def parts(self) -> dict[str, list[nn.Module]]:
        """What computes in which phase, for those who measure."""
        return {"features": [self.features], "proposals": [self.proposals], "heads": [self.heads]}
