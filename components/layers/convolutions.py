"""Stages of 3×3 convolutions, each halving the picture: the features that VGG and the detectors built on it share.

Simonyan and Zisserman 2015, arXiv 1409.1556. Places in the sequence, and so parameter names, are torchvision's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.protocols import ActivationFactory

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The 13 convolutions of the paper's configuration D, stage by stage."""


def vgg_features(
    channels: int, stages: Sequence[Sequence[int]], *, activation: ActivationFactory, batch_norm: bool, halve_last: bool = True
) -> nn.Sequential:
    """(B, channels, H, W) → (B, C, H/2ˢ, W/2ˢ) after s stages of C channels in the last; without `halve_last`, twice that height and width.

    Args:
        channels: of the picture.
        stages: for each stage, the output channels of its 3×3 convolutions; 2×2 max pooling ends the stage.
        activation: makes the activation after each convolution.
        batch_norm: whether each convolution is followed by batch normalization.
        halve_last: whether the last stage ends in its pooling, too; detectors leave it out, to keep small objects apart.
    """
    features: list[nn.Module] = []
    for stage in stages:
        for width in stage:
            features.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            if batch_norm:
                features.append(nn.BatchNorm2d(width))
            features.append(activation())
            channels = width
        features.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*(features if halve_last else features[:-1]))


def channels_last(pictures: Tensor) -> Tensor:
    """The same pictures (B, C, H, W) with a pixel's channels side by side in memory; convolutions keep that.

    On a CPU convolutions, poolings and norms of small maps take half as long in this order, forward; on other devices nothing is done.
    """
    return pictures.contiguous(memory_format=torch.channels_last) if pictures.device.type == "cpu" else pictures
