"""Fast R-CNN: one map for all regions of a picture (Girshick 2015, arXiv 1504.08083).

The idea: R-CNN sends every region through the convolutions; here the whole picture goes through once, and each region, which selective
search has found before, is cut out of the map by RoI pooling. A fully connected softmax stands in for the SVMs, and classes and boxes are
trained together. What remains slow is selective search.

With `stages=VGG16`, `head=[4096, 4096]` and `pool_to=7` it is the paper's network (its truncated SVD left out). Parameters of `features`
are named as VGG's, so its weights can be taken over.

Shapes: B pictures of H × W, C channels, R regions of all pictures, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Len, Lt
from torch import Tensor, nn

from components.layers.convolutions import channels_last, vgg_features
from components.layers.region_heads import Judged, Pooling, RegionHeads
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]


class FastRCNN(nn.Module):
    """A detector of what is in given regions.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: K, background not counted.
        stages: of VGG's convolutions; all but the last end in a halving of the picture.
        batch_norm: whether each convolution is followed by batch normalization.
        pooling: `max` or `align`, how a region becomes `pool_to` × `pool_to`.
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
        head: Sequence[Width],
        pool_to: Width,
        activation: ActivationFactory,
        pooling: Pooling = "max",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        if min(size) < 2 ** (len(stages) - 1):
            raise ValueError(f"a picture of {size[0]}×{size[1]} is too small for {len(stages)} stages, all but one of which halve it")
        self.features = vgg_features(channels, stages, activation=activation, batch_norm=batch_norm, halve_last=False)
        self.heads = RegionHeads(
            stages[-1][-1],
            stride=2 ** (len(stages) - 1),
            classes=classes,
            pooling=pooling,
            pool_to=pool_to,
            head=head,
            dropout=dropout,
            activation=activation,
        )

    def forward(self, inputs: Tensor, regions: list[Tensor]) -> Judged:
        """(B, channels, H, W), and for each picture (r, 4) regions in pixels → what is in them."""
        judged: Judged = self.heads(self.features(channels_last(inputs)), regions)
        return judged

    def candidates(self, inputs: Tensor, regions: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each picture (boxes (r, K, 4) in pixels, probability of each class (r, K)), before suppression within the classes."""
        judged: Judged = self(inputs, regions)
        return judged.candidates()

    def parts(self) -> dict[str, list[nn.Module]]:
        """What computes in which phase, for those who measure."""
        return {"features": [self.features], "heads": [self.heads]}
