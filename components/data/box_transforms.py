"""Augmentation of pictures with boxes: mirrored, cut out, put on a larger ground, in other colours (Liu et al. 2016, section 2.2).

Cutting and enlarging the ground are one thing: a window of the picture, perhaps reaching beyond it, is brought to the picture's size. So
every picture keeps its size, and a batch is one tensor.

Shapes: C channels, H × W picture, n objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from components.data.objects import Objects
from components.layers.boxes import area, clip

Chance = Callable[..., float]
"""Draws a number between two, 0 and 1 if not said."""

OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of at least one object a cut-out shows this share; one of these is drawn. (The paper asks for this IoU with the cut-out.)"""
TRIES = 25
GREY = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""
KEPT = 0.25
"""An object stays if its centre is in the window and at least this share of it."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training example, drawn anew each time.

    Attributes:
        flip: probability of mirroring left and right.
        crop: probability of cutting out a part that keeps objects.
        expand: the picture is put somewhere on a grey ground of up to this many times its height and width, half of the time; 1: never.
        colour: by how much at most brightness, contrast and saturation change; 0.3 means factors 0.7 … 1.3.
    """

    flip: float = 0.0
    crop: float = 0.0
    expand: float = 1.0
    colour: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.flip or self.crop or self.colour or self.expand > 1)

    def __call__(self, pixels: Tensor, objects: Objects, generator: Generator) -> tuple[Tensor, Objects]:
        """(C, H, W) uint8 and its objects → the same of an augmented example; a picture with objects keeps at least one."""

        def chance(low: float = 0.0, high: float = 1.0) -> float:
            return low + (high - low) * torch.rand((), generator=generator).item()

        if self.colour:
            factors = [chance(1 - self.colour, 1 + self.colour) for _ in range(3)]
            pixels = recoloured(pixels, brightness=factors[0], contrast=factors[1], saturation=factors[2])
        if self.expand > 1 and chance() < 0.5:
            scale = chance(1, self.expand)
            height, width = pixels.shape[1:]
            left, top = chance(0, scale - 1) * width, chance(0, scale - 1) * height
            pixels, objects = windowed(pixels, objects, (-left, -top, scale * width - left, scale * height - top))
        if self.crop and chance() < self.crop:
            window = self._window(pixels, objects, chance)
            if window is not None:
                pixels, objects = windowed(pixels, objects, window)
        if self.flip and chance() < self.flip:
            pixels, objects = flipped(pixels, objects)
        return pixels, objects

    @staticmethod
    def _window(pixels: Tensor, objects: Objects, chance: Chance) -> tuple[float, float, float, float] | None:
        """A part of 0.3 to all of each side that keeps as much of an object as was drawn; None if there is none to be found."""
        height, width = pixels.shape[1:]
        least = OVERLAPS[int(chance(0, len(OVERLAPS) - 1e-6))]
        for _ in range(TRIES):
            share, ratio = chance(0.3, 1), chance(0.5, 2) ** 0.5
            wide, high = width * min(share * ratio, 1), height * min(share / ratio, 1)
            left, top = chance(0, width - wide), chance(0, height - high)
            window = (left, top, left + wide, top + high)
            if not len(objects):
                return window
            if bool((seen_share(objects, window)[kept(objects, window)] >= least).any()):
                return window
        return None


def flipped(pixels: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Left for right."""
    width = pixels.shape[2]
    boxes = objects.boxes
    mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return pixels.flip(2), Objects(mirrored, objects.labels, objects.difficult)


def recoloured(pixels: Tensor, *, brightness: float, contrast: float, saturation: float) -> Tensor:
    """(C, H, W) uint8 brighter by a factor, further from its mean grey by one, and (with three channels) from its own grey by one."""
    now = pixels.float() * brightness
    now = (now - now.mean()) * contrast + now.mean()
    if len(pixels) == 3:
        grey = (now * torch.tensor(GREY)[:, None, None]).sum(dim=0, keepdim=True)
        now = (now - grey) * saturation + grey
    return now.round().clamp(0, 255).to(torch.uint8)


def kept(objects: Objects, window: tuple[float, float, float, float]) -> Tensor:
    """(n,) bool: the objects that are still there in a window."""
    left, top, right, bottom = window
    boxes = objects.boxes
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centre >= torch.tensor([left, top])).all(dim=1) & (centre < torch.tensor([right, bottom])).all(dim=1)
    return inside & (seen_share(objects, window) >= KEPT)


def seen_share(objects: Objects, window: tuple[float, float, float, float]) -> Tensor:
    """(n,) the share of each object's box that a window shows."""
    left, top, right, bottom = window
    seen = clip(objects.boxes - torch.tensor([left, top, left, top]), (bottom - top, right - left))
    return area(seen) / area(objects.boxes)


def windowed(pixels: Tensor, objects: Objects, window: tuple[float, float, float, float]) -> tuple[Tensor, Objects]:
    """A window (left, top, right, bottom) in pixels, brought to the picture's size; what is beyond the picture is mean grey.

    Objects are cut to the window; those that are no longer there (see `kept`) are left out.
    """
    channels, height, width = pixels.shape
    left, top, right, bottom = (round(side) for side in window)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    ground = pixels.float().mean()
    canvas = torch.full((channels, bottom - top, right - left), ground.item())
    x, y, end, low = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    canvas[:, y - top : low - top, x - left : end - left] = pixels[:, y:low, x:end].float()
    resized = F.interpolate(canvas[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]

    remain = objects.at(kept(objects, (left, top, right, bottom)))
    scale = torch.tensor([width / (right - left), height / (bottom - top)] * 2)
    boxes = clip((remain.boxes - torch.tensor([left, top, left, top])) * scale, (height, width))
    return resized.round().clamp(0, 255).to(torch.uint8), Objects(boxes, remain.labels, remain.difficult)
