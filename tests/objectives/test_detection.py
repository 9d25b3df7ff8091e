"""What all detectors share, on a detector that says what it is told."""

import json
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from components.errors import DataError, RunError
from components.objectives.detection import Detection, pieces


@dataclass(frozen=True, kw_only=True)
class Told(Detection):
    def losses(self, model, batch):
        return {"loss": batch["inputs"].sum() * 0}


class Slow(nn.Module):
    def forward(self, inputs):
        time.sleep(0.02)
        return inputs


class Model(nn.Module):
    """Says the same two boxes of every picture."""

    def __init__(self):
        super().__init__()
        self.features = Slow()

    def candidates(self, inputs):
        self.features(inputs)
        boxes, scores = (
            torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 40, 10]]),
            torch.tensor([[0.9, 0.0], [0.8, 0.05], [0.0, 0.6]]),
        )
        return [(boxes, scores) for _ in inputs]

    def parts(self):
        return {"features": [self.features]}


OBJECTIVE = Told(classes=2, class_names=["ant", "queen bee"], small=8, large=20)
BATCH = {
    "inputs": torch.zeros(2, 3, 16, 32),
    "boxes": [torch.tensor([[0.0, 0, 10, 10], [20, 0, 32, 10]]), torch.zeros(0, 4)],
    "labels": [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64)],
    "difficult": [torch.tensor([False, False]), torch.zeros(0, dtype=torch.bool)],
    "index": torch.tensor([3, 4]),
}


class Split:
    def batch(self, index, generator=None):
        return {key: [value[0]] if isinstance(value, list) else value[:1] for key, value in BATCH.items()}

    def __len__(self):
        return 1

    def picture(self, place):
        return torch.full((16, 32, 3), 200, dtype=torch.uint8)


def test_outcomes_by_hand_and_as_json():
    outcomes = OBJECTIVE.outcomes(Model(), BATCH)
    assert outcomes["boxes"][0] == [[0, 0, 10, 10], [20, 0, 32, 10]], (
        "the second box of the ant is suppressed, the bee's cut to the picture"
    )
    assert outcomes["labels"][0] == [0, 1]
    assert outcomes["true_boxes"][0] == [[0, 0, 10, 10], [20, 0, 32, 10]]
    assert outcomes["objects"].tolist() == [2, 0]
    assert outcomes["recall"].tolist() == [1, 1]
    assert outcomes["index"].tolist() == [3, 4]
    json.dumps({key: value for key, value in outcomes.items() if isinstance(value, list)})


def test_metrics_by_hand():
    metrics = OBJECTIVE.metrics(OBJECTIVE.outcomes(Model(), BATCH))
    # Of each class one object, found; and in the second picture a detection that is wrong, of the same score, behind it.
    assert metrics["map_50"] == pytest.approx(1)
    assert metrics["map_07"] == pytest.approx(1)
    assert metrics["ap_07_queen_bee"] == pytest.approx(1)
    assert metrics["map_medium"] == pytest.approx(1)
    assert "map_small" not in metrics
    assert OBJECTIVE.monitor == ("map_50", "max")


def test_no_objects_is_said():
    empty = {key: value[1:] for key, value in BATCH.items()}
    with pytest.raises(DataError, match="there are no objects to be found"):
        OBJECTIVE.metrics(OBJECTIVE.outcomes(Model(), empty))


def test_not_a_number_is_said():
    class Broken(Model):
        def candidates(self, inputs):
            return [(torch.zeros(1, 4), torch.tensor([[float("nan"), 0.0]]))]

    with pytest.raises(RunError, match="not a number"):
        OBJECTIVE.outcomes(Broken(), BATCH)


def test_an_answer_is_in_the_given_pictures_pixels():
    answer = OBJECTIVE.answer(Model(), {"inputs": torch.zeros(1, 3, 16, 32), "size": (160, 64)})
    assert answer == {
        "objects": [
            {"label": "ant", "probability": pytest.approx(0.9), "box": [0, 0, 20, 100]},
            {"label": "queen bee", "probability": pytest.approx(0.6), "box": [40, 0, 64, 100]},
        ],
        "threshold": 0.5,
    }


def test_pieces_cut_tensors_and_lists():
    parts = list(pieces({"inputs": torch.arange(5), "boxes": list("abcde"), "size": (1, 2)}, 2))
    assert [part["inputs"].tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert [part["boxes"] for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert parts[0]["size"] == (1, 2)


def test_times_are_where_the_time_goes():
    spent = OBJECTIVE.times(Model(), Split().batch(None))
    assert set(spent) == {"features", "decoding", "suppression"}
    assert spent["features"] >= 0.02
    assert spent["features"] > spent["decoding"]
    assert not Model().features._forward_hooks


def test_figures_show_what_was_found():
    outcomes = {key: value[:1] for key, value in OBJECTIVE.outcomes(Model(), BATCH).items()}
    figures = OBJECTIVE.figures(outcomes, Split()) | OBJECTIVE.explain(Model(), Split())
    assert set(figures) == {"detections", "precision_recall", "suppression"}
    texts = [text.get_text() for text in figures["detections"].axes[0].texts]
    assert texts == ["ant 0.90", "queen bee 0.60"]
    assert [axes.get_title() for axes in figures["suppression"].axes] == ["before: 3 boxes", "after: 2 boxes"]


@pytest.mark.parametrize(("wrong", "message"), [({"class_names": ["a"]}, "1 names for 2 classes"), ({"small": 30}, "must be below large")])
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        Told(**{"classes": 2, "class_names": ["a", "b"], "small": 8, "large": 20} | wrong)


@pytest.mark.parametrize(
    ("answers_above", "title", "before", "after"),
    [(0.5, "2 of 3 boxes above 0.5 for 2 objects", 3, 2), (0.95, "1 of 2 boxes above 0.6 for 2 objects", 2, 1)],
)
def test_suppression_is_shown_also_where_nothing_is_probable(answers_above, title, before, after):
    figure = replace(OBJECTIVE, answer_threshold=answers_above).explain(Model(), Split())["suppression"]
    assert figure.get_suptitle() == f"Non-maximum suppression leaves {title}"
    assert [len(axes.patches) for axes in figure.axes] == [before, after]


def test_a_box_of_two_likely_classes_is_two_boxes_before_and_after_suppression():
    class Torn(Model):
        def candidates(self, inputs):
            return [(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]), torch.tensor([[0.9, 0.7], [0.8, 0.0]]))]

    figure = OBJECTIVE.explain(Torn(), Split())["suppression"]
    assert figure.get_suptitle() == "Non-maximum suppression leaves 2 of 3 boxes above 0.5 for 2 objects"
    assert [len(axes.patches) for axes in figure.axes] == [3, 2]
