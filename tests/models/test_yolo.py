"""YOLO: the paper's network by its numbers, places and loss by hand, and that it can learn a batch by heart."""

import math

import pytest
import torch
from torch import nn

from components.initializers import HeNormal
from components.models.yolo import YOLO
from components.objectives.grid import Grid
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.config.names import CONF

SMALL = {
    "input_shape": [3, 32, 48],
    "classes": 3,
    "stages": [[[8, 3, 1]], [[16, 3, 1]], [[16, 3, 1]], [[32, 3, 2]]],
    "head": [],
    "boxes": 2,
    "activation": nn.LeakyReLU,
}


def test_the_papers_network():
    """What the YAML's header says makes the paper's: 24 convolutions, 2 linear layers, 7×7×30 outputs of 448×448 for VOC's 20 classes."""
    text = (CONF / "model" / "yolo.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "model.stages=" in line)
    config = validate(compose(["model=yolo", "objective=grid", *line.removeprefix("#").split()]))
    with torch.device("meta"):
        model = build(config["model"], activation=nn.LeakyReLU, input_shape=[3, 448, 448], classes=20)
        places, confidences, classes = model(torch.zeros(1, 3, 448, 448))
    assert model.cells == (7, 7)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 24
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(7 * 7 * 1024, 4096), (4096, 7 * 7 * 30)]
    assert (places.shape, confidences.shape, classes.shape) == ((1, 7, 7, 2, 4), (1, 7, 7, 2), (1, 7, 7, 20))


def test_places_by_hand():
    model = YOLO(**SMALL)
    assert model.cells == (2, 3)
    places = torch.zeros(1, 2, 3, 2, 4)
    places[0, 1, 2, 0] = torch.tensor([0.5, 0.25, 0.5, 1.0])
    # The cell's left upper corner is (32, 16); half a cell right, a quarter down; a quarter of 48 wide, all of 32 high.
    assert model.corners(places)[0, 1, 2, 0].tolist() == [40 - 6, 20 - 16, 40 + 6, 20 + 16]


class Told:
    """A model that says what it is told of the small grid."""

    def __init__(self, *said):
        model = YOLO(**SMALL)
        self.cells, self.picture, self.corners, self.said = model.cells, model.picture, model.corners, said

    def __call__(self, inputs):
        return self.said


def test_loss_by_hand():
    places, confidences, classes = torch.zeros(1, 2, 3, 2, 4), torch.full((1, 2, 3, 2), 0.2), torch.full((1, 2, 3, 3), 0.1)
    # The object: centre (24, 8) in the middle of cell (0, 1), 12 wide and 8 high, so its place is (0.5, 0.5, √(1/4), √(1/4)).
    places[0, 0, 1, 1] = torch.tensor([0.5, 0.5, math.sqrt(0.125), 0.5])  # half as wide: IoU 1/2, so this box is responsible
    model = Told(places, confidences, classes)
    batch = {"inputs": torch.zeros(1, 3, 32, 48), "boxes": [torch.tensor([[18.0, 4, 30, 12]])], "labels": [torch.tensor([2])]}
    losses = Grid(classes=3, class_names=["a", "b", "c"]).losses(model, batch)
    assert losses["place_loss"].item() == pytest.approx(5 * (0.5 - math.sqrt(0.125)) ** 2, rel=1e-5)
    assert losses["confidence_loss"].item() == pytest.approx((0.2 - 0.5) ** 2 + 0.5 * 11 * 0.2**2, rel=1e-5)
    assert losses["class_loss"].item() == pytest.approx(0.1**2 + 0.1**2 + 0.9**2, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(sum(losses[f"{part}_loss"].item() for part in ("place", "confidence", "class")))


def test_of_two_objects_in_a_cell_the_first_counts():
    batch = {
        "inputs": torch.zeros(2, 3, 32, 48),
        "boxes": [torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10], [2, 2, 12, 12], [40, 20, 48, 32]])],
        "labels": [torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1, 2])],
    }
    picture, row, column, _, which = Grid._cells(YOLO(**SMALL), batch, torch.cat(batch["boxes"]))
    assert which.tolist() == [0, 2]
    assert (picture.tolist(), row.tolist(), column.tolist()) == ([1, 1], [0, 1], [0, 2])


def test_scores_are_confidence_times_class():
    model = YOLO(**SMALL)
    said = torch.zeros(1, 2, 3, 2, 4), torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 3, 3)
    said[1][0, 0, 1, 1], said[2][0, 0, 1, 2], said[2][0, 0, 1, 0] = 0.5, 0.8, -1.0
    model.forward = lambda _: said
    ((boxes, scores),) = model.candidates(torch.zeros(1, 3, 32, 48))
    assert boxes.shape == (12, 4)
    assert scores.nonzero().tolist() == [[3, 2]]
    assert scores[3, 2].item() == pytest.approx(0.4)


@pytest.mark.parametrize("head", [[], [32]])
def test_overfits_one_batch(head):
    torch.manual_seed(0)
    model, objective = YOLO(**SMALL | {"head": head, "batch_norm": not head}), Grid(classes=3, class_names=["a", "b", "c"])
    HeNormal().initialize(model, activation=nn.LeakyReLU(), generator=torch.Generator().manual_seed(0))
    batch = {
        "inputs": torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)),
        "boxes": [torch.tensor([[2.0, 2, 12, 14], [30, 10, 46, 30]]), torch.tensor([[18.0, 4, 28, 30]])],
        "labels": [torch.tensor([0, 2]), torch.tensor([1])],
        "difficult": [torch.zeros(2, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)],
        "index": torch.arange(2),
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = objective.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert objective.metrics(objective.outcomes(model, batch))["map_50"] > 0.99


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"stages": [[[8, 2, 1]]]}, "side must be odd, not 2"), ({"stages": [[[8, 3, 1]]] * 7}, "32×48 is too small for 7 stages")],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        YOLO(**SMALL | wrong)
