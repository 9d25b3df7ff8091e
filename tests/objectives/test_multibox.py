"""SSD's loss by hand; its agreement with torchvision's is in test_ssd."""

import math

import pytest
import torch

from components.layers.boxes import BoxCoder
from components.objectives.multibox import MultiBox


class Told:
    def __init__(self, logits, offsets, default_boxes):
        self.logits, self.offsets, self.default_boxes, self.coder = logits, offsets, default_boxes, BoxCoder()

    def __call__(self, inputs):
        return self.logits, self.offsets


def test_loss_by_hand():
    default_boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]])
    logits = torch.zeros(1, 5, 3)
    logits[0, 2, 0], logits[0, 3, 0], logits[0, 4, 0] = -2.0, -1.0, 3.0  # background is least believed at 2, then 3, then 1
    offsets = torch.zeros(1, 5, 4)
    offsets[0, 0] = torch.tensor([0.5, 0.0, 0.0, 3.0])
    objective = MultiBox(classes=2, class_names=["a", "b"], negatives=2, place_weight=0.5)
    batch = {"inputs": torch.zeros(1, 3, 100, 100), "boxes": [torch.tensor([[0.0, 0, 10, 10]])], "labels": [torch.tensor([1])]}
    losses = objective.losses(Told(logits, offsets, default_boxes), batch)
    # Exactly matched, so all offsets should be 0: smooth L1 of 0.5 and of 3.
    assert losses["place_loss"].item() == pytest.approx(0.5 * 0.5**2 + (3 - 0.5))
    hard = [math.log(2 + math.exp(value)) - value for value in (-2, -1)]
    assert losses["class_loss"].item() == pytest.approx(math.log(3) + sum(hard), rel=1e-5)
    assert losses["loss"].item() == pytest.approx(losses["class_loss"].item() + 0.5 * losses["place_loss"].item())
