"""R-CNN: every region through a CNN of its own, then linear SVMs, then box regression (Girshick et al. 2014, arXiv 1311.2524).

The idea: regions that may hold objects come from selective search; each is cut out with some of what is around it, warped to one size, and
goes through the CNN by itself. It is trained in three stages, each on what the one before has learned: the CNN with a softmax over classes
and background; a linear SVM for each class on the features of the last hidden layer; a linear regression for each class, from the features
of the last convolution to where the object's box is. A stage is a training like any other, begun with `pretrained` from the one before.

Where we differ from the paper: VGG's stages for AlexNet's, smaller crops, gradient steps where it solves for the SVMs and the regression.

Legend: B pictures, R regions of all pictures, S crop size, C channels, F features of a region, K classes.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Len, Lt
from torch import Tensor, nn
from torchvision.ops import roi_align

from components.layers.convolutions import channels_last, vgg_features
from components.layers.region_heads import CODER
from components.protocols import ActivationFactory

Width = Annotated[int, Ge(1)]
Stage = Literal["features", "svms", "boxes"]
HEADS = {"features": ["logits"], "svms": ["svms"], "boxes": ["svms", "offsets"]}
"""What each stage has on top of the CNN; the last of them learns."""


class Regarded(NamedTuple):
    """What the stages up to this one say of regions; None where a stage has no say.

    Attributes:
        logits: (R, K + 1), the background first; in the first stage only.
        margins: (R, K) distances from each class's hyperplane in units of its margin; from the second stage on.
        offsets: (R, K, 4); in the third stage.
    """

    logits: Tensor | None
    margins: Tensor | None
    offsets: Tensor | None

    def candidates(self, regions: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each picture boxes, (r, 4) or from the third stage (r, K, 4), and for each class a number in 0 … 1, (r, K).

        The number grows with the class's score. Of an SVM it is the sigmoid of the margin, no probability: 0.5 is where it decides.
        """
        counts = [len(of_one) for of_one in regions]
        every = torch.cat(regions)
        boxes = every if self.offsets is None else CODER.decode(self.offsets, every[:, None])
        if self.margins is not None:
            scores = self.margins.sigmoid()
        else:
            assert self.logits is not None
            scores = self.logits.softmax(dim=1)[:, 1:]
        return list(zip(torch.split(boxes, counts), torch.split(scores, counts), strict=True))


class Warp(nn.Module):
    """Cuts regions out of pictures, each with `context` pixels around it, at the size that all crops get.

    Args:
        size: S; a crop is S × S, whatever the region's proportions ("warped").
        context: so many of the crop's pixels on each side are from around the region; beyond the picture they are 0, the mean.
    """

    def __init__(self, size: int, context: int) -> None:
        super().__init__()
        self.size, self.context = size, context

    def forward(self, inputs: Tensor, regions: list[Tensor]) -> Tensor:
        """(B, channels, H, W), and for each picture (r, 4) regions in pixels → (R, channels, S, S)."""
        share = self.context / (self.size - 2 * self.context)
        around = [torch.cat([-(box[:, 2:] - box[:, :2]), box[:, 2:] - box[:, :2]], dim=1) * share for box in regions]
        wider = [box + more for box, more in zip(regions, around, strict=True)]
        crops: Tensor = roi_align(inputs, wider, self.size, sampling_ratio=-1, aligned=True)
        return crops


class RCNN(nn.Module):
    """A detector of what is in given regions.

    Args:
        input_shape: (channels, height, width) of one picture.
        classes: K, background not counted.
        stage: what is trained: `features`, then `svms`, then `boxes`; what earlier stages have learned stays as it is, and what a stage
            needs for the first time is in no earlier one's weights.
        crop: S, the size of a warped region in pixels.
        context: so many of the crop's pixels on each side are from around the region (16 of 227 in the paper).
        stages: of VGG's convolutions, each ending in a halving of the crop.
        batch_norm: whether each convolution is followed by batch normalization.
        head: widths of the linear layers between the convolutions and the classes; the last is F.
        dropout: probability of dropping a unit of these layers while they are trained.
        activation: makes every activation.

    Raises:
        ValueError: a crop that is all context, or used up before the last stage.
    """

    logits: nn.Linear
    svms: nn.Linear
    offsets: nn.Linear

    def __init__(
        self,
        *,
        input_shape: Annotated[Sequence[Width], Len(3, 3)],
        classes: Width,
        stage: Stage,
        crop: Width,
        stages: Annotated[Sequence[Annotated[Sequence[Width], Len(1)]], Len(1)],
        head: Annotated[Sequence[Width], Len(1)],
        activation: ActivationFactory,
        context: Annotated[int, Ge(0)] = 2,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        side = crop // 2 ** len(stages)
        if not side:
            raise ValueError(f"a crop of {crop}×{crop} is too small for {len(stages)} stages, each of which halves it")
        if 2 * context >= crop:
            raise ValueError(f"a crop of {crop} pixels with {context} of context on each side has none of the region")
        self.stage, self.classes = stage, classes
        self.warp = Warp(crop, context)
        self.features = vgg_features(input_shape[0], stages, activation=activation, batch_norm=batch_norm)
        convolved = stages[-1][-1] * side**2
        layers: list[nn.Module] = []
        before = convolved
        for width in head:
            layers += [nn.Linear(before, width), activation(), nn.Dropout(dropout)]
            before = width
        self.layers = nn.Sequential(*layers)
        heads = {"logits": (before, classes + 1), "svms": (before, classes), "offsets": (convolved, 4 * classes)}
        for name in HEADS[stage]:
            setattr(self, name, nn.Linear(*heads[name]))
        self.requires_grad_(False)
        for learning in self._learning():
            learning.requires_grad_(True)

    def _learning(self) -> list[nn.Module]:
        own = getattr(self, HEADS[self.stage][-1])
        return [self.features, self.layers, own] if self.stage == "features" else [own]

    def train(self, mode: bool = True) -> "RCNN":
        """As of any module; but what earlier stages have learned computes as it will be used, without dropout."""
        super().train(False)
        for learning in self._learning():
            learning.train(mode)
        self.training = mode
        return self

    def forward(self, inputs: Tensor, regions: list[Tensor]) -> Regarded:
        """(B, channels, H, W), and for each picture (r, 4) regions in pixels → what is in them, as far as the stages have come."""
        crops = self.warp(inputs, regions)  # (R, channels, S, S)
        convolved = self.features(channels_last(crops)).flatten(1)  # (R, C·S/2ˢ·S/2ˢ) after s stages
        hidden = self.layers(convolved)  # (R, F)
        if self.stage == "features":
            return Regarded(self.logits(hidden), None, None)
        offsets = self.offsets(convolved).view(-1, self.classes, 4) if self.stage == "boxes" else None
        return Regarded(None, self.svms(hidden), offsets)

    def candidates(self, inputs: Tensor, regions: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each picture what `Regarded.candidates` says of its regions."""
        regarded: Regarded = self(inputs, regions)
        return regarded.candidates(regions)

    def parts(self) -> dict[str, list[nn.Module]]:
        """What computes in which phase, for those who measure; cutting out belongs to the features, which are a region's own."""
        return {"features": [self.warp, self.features], "heads": [self.layers, *(getattr(self, name) for name in HEADS[self.stage])]}
