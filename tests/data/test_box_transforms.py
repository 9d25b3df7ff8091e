"""Augmentation: boxes go where their pixels go."""

import numpy as np
import pytest
import torch

from components.data.box_transforms import Augmentation, flipped, kept, recoloured, windowed
from components.data.objects import Objects

BLACK, WHITE = 0, 255


def scene():
    """Black, with a white object from (8, 4) to (24, 12) in a picture 48 wide and 32 high."""
    pixels = torch.zeros(3, 32, 48, dtype=torch.uint8)
    pixels[:, 4:12, 8:24] = WHITE
    return pixels, Objects(torch.tensor([[8.0, 4, 24, 12]]), torch.tensor([2]), torch.tensor([False]))


def seen(pixels):
    """The box around what is white."""
    (rows,), (columns,) = ((pixels[0].numpy() > 150).any(axis=axis).nonzero() for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_mirrored():
    pixels, objects = flipped(*scene())
    assert objects.boxes[0].tolist() == seen(pixels) == [24, 4, 40, 12]
    again, back = flipped(pixels, objects)
    assert torch.equal(again, scene()[0])
    assert torch.equal(back.boxes, scene()[1].boxes)


@pytest.mark.parametrize("window", [(0, 0, 24, 16), (4, 2, 40, 26), (-24, -16, 72, 48), (-10, 0, 38, 32)])
def test_a_window_by_its_pixels(window):
    pixels, objects = windowed(*scene(), window)
    assert pixels.shape == (3, 32, 48)
    assert objects.boxes[0].tolist() == pytest.approx(seen(pixels), abs=1.01)


def test_a_window_cuts_and_leaves_out():
    objects = Objects(
        torch.tensor([[0.0, 0, 10, 10], [30, 0, 50, 10], [90, 90, 99, 99]]), torch.arange(3), torch.zeros(3, dtype=torch.bool)
    )
    assert kept(objects, (0, 0, 42, 50)).tolist() == [True, True, False], "the second one's centre, 40, is inside"
    assert kept(objects, (0, 0, 39, 50)).tolist() == [True, False, False]
    _, remaining = windowed(torch.zeros(3, 100, 100, dtype=torch.uint8), objects, (0, 0, 50, 50))
    assert remaining.labels.tolist() == [0, 1]
    assert remaining.boxes.tolist() == [[0, 0, 20, 20], [60, 0, 100, 20]]


def test_colours_by_hand():
    pixels = torch.tensor([[[100]], [[100]], [[40]]], dtype=torch.uint8)
    assert recoloured(pixels, brightness=1.5, contrast=1, saturation=1).flatten().tolist() == [150, 150, 60]
    assert recoloured(pixels, brightness=1, contrast=0.5, saturation=1).flatten().tolist() == [90, 90, 60], "the mean is 80"
    grey = round(0.886 * 100 + 0.114 * 40)
    assert recoloured(pixels, brightness=1, contrast=1, saturation=0).flatten().tolist() == [grey] * 3
    assert recoloured(pixels, brightness=9, contrast=1, saturation=1).flatten().tolist() == [255, 255, 255]


def test_all_together_keeps_pixels_and_boxes_together():
    augmentation, generator, sizes = Augmentation(flip=0.5, crop=0.8, expand=2, colour=0.2), torch.Generator().manual_seed(0), []
    for _ in range(60):
        pixels, objects = augmentation(*scene(), generator)
        assert pixels.shape == (3, 32, 48)
        if len(objects):
            assert np.abs(np.array(objects.boxes[0].tolist()) - seen(pixels)).max() <= 3
            sizes.append(float(objects.boxes[0, 2] - objects.boxes[0, 0]))
    assert len(sizes) > 50, "an object is rarely lost"
    assert min(sizes) < 12
    assert max(sizes) > 20


def test_nothing_asked_is_nothing_done():
    assert not Augmentation()
    pixels, objects = Augmentation()(*scene(), torch.Generator())
    assert torch.equal(pixels, scene()[0])
    assert torch.equal(objects.boxes, scene()[1].boxes)
