"""VGG: stages of 3×3 convolutions, each stage ending in a halving of the picture (Simonyan and Zisserman 2015, arXiv 1409.1556).

The idea: two 3×3 convolutions see as much as one 5×5, three as much as one 7×7, with fewer weights and more activations between them;
so a network can be made deep by one simple rule. Depth is a parameter here: `stages` lists the channels of each stage's convolutions.

Parameter names and layout are torchvision's, so its weights load: `stages=VGG16`, `head=[4096, 4096]`, `pool_to=7`, `dropout=0.5`,
`activation=nn.ReLU`, `classes=1000` is `torchvision.models.vgg16`; with `batch_norm=True`, `vgg16_bn`. Where we differ from the paper,
with torchvision: an adaptive average pooling before the head, so that pictures of other sizes fit the same head.

Shapes: B batch, C channels of a stage, H × W picture (halved by every stage), P `pool_to`, F a head layer's width, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Len, Lt
from torch import Tensor, nn

from components.layers.convolutions import vgg_features
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]


class VGG(nn.Module):
    """A VGG-style classifier of pictures.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: number of logits.
        stages: for each stage, the output channels of its 3×3 convolutions; 2×2 max pooling ends the stage.
        head: widths of the linear layers between the features and the logits; may be empty.
        pool_to: the features are averaged to `pool_to` × `pool_to` before the head.
        activation: makes the activation after each convolution and each layer of the head.
        dropout: probability of dropping a unit of the head in training.
        batch_norm: whether each convolution is followed by batch normalization.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), or a picture that is used up before the last stage.
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
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"input_shape must be [channels, height, width], not {list(input_shape)}")
        if not stages or not all(stages):
            raise ValueError(f"stages needs a stage, and each stage a convolution, not {[list(stage) for stage in stages]}")
        if min([*input_shape, *head, *(width for stage in stages for width in stage), classes, pool_to]) < 1:
            raise ValueError("input_shape, classes, stages, head and pool_to must all be 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        channels, *size = input_shape
        if min(size) < 2 ** len(stages):
            raise ValueError(
                f"a picture of {size[0]}×{size[1]} is too small for {len(stages)} stages, each of which halves it: "
                f"the shorter side must be {2 ** len(stages)} or more"
            )

        self.features = vgg_features(channels, stages, activation=activation, batch_norm=batch_norm)
        self.pool = nn.AdaptiveAvgPool2d(pool_to)

        classifier: list[nn.Module] = []
        before = stages[-1][-1] * pool_to**2
        for width in head:
            # The dropout stays where its probability is 0, so that names do not depend on it.
            classifier += [nn.Linear(before, width), activation(), nn.Dropout(dropout)]
            before = width
        self.classifier = nn.Sequential(*classifier, nn.Linear(before, classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) → logits (B, K)."""
        maps = self.features(inputs)  # (B, C, H/2ˢ, W/2ˢ) after s stages
        pooled = self.pool(maps)  # (B, C, P, P)
        logits: Tensor = self.classifier(pooled.flatten(1))  # (B, C·P·P) → (B, F) → (B, K)
        return logits
