import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

from components.errors import DataError, RunError
from components.objectives.classification import Classification
from components.protocols import Objective

OBJECTIVE = Classification(classes=3, class_names=["ant", "bee", "cat"])


def batch_of(logits, targets):
    return {"inputs": torch.tensor(logits), "targets": torch.tensor(targets), "index": torch.arange(len(targets)) + 10}


def identity(inputs):
    return inputs


class Split:
    lengths = None

    def __len__(self):
        return 3

    def batch(self, index, generator=None):
        raise AssertionError("figures need no batches")


class Pictures(Split):
    def picture(self, i):
        return torch.full((1, 4, 4), float(i))


def test_it_is_an_objective_that_watches_accuracy():
    objective: Objective = OBJECTIVE
    assert objective.monitor == ("accuracy", "max")
    with pytest.raises(dataclasses.FrozenInstanceError):
        OBJECTIVE.classes = 4


def test_loss_by_hand_and_with_smoothing():
    # Logits (ln 2, 0, 0) have probabilities 1/2, 1/4, 1/4.
    batch = batch_of([[math.log(2), 0.0, 0.0]], [0])
    assert OBJECTIVE.losses(identity, batch)["loss"].item() == pytest.approx(math.log(2))
    # Smoothing 0.3 leaves 0.7 + 0.1 on the given class and puts 0.1 on each of the others.
    smooth = Classification(classes=3, class_names=["a", "b", "c"], label_smoothing=0.3)
    assert smooth.losses(identity, batch)["loss"].item() == pytest.approx(0.8 * math.log(2) + 0.2 * math.log(4))
    assert smooth.outcomes(identity, batch)["nll"].item() == pytest.approx(math.log(2)), "NLL is without smoothing"


def test_losses_work_under_functional_call_grad_and_vmap():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batch = {"inputs": torch.randn(8, 4), "targets": torch.randint(3, (8,)), "index": torch.arange(8)}
    stacked = {name: torch.stack([parameter.detach(), 2 * parameter.detach()]) for name, parameter in model.named_parameters()}

    def loss(parameters):
        return OBJECTIVE.losses(lambda inputs: torch.func.functional_call(model, parameters, (inputs,)), batch)["loss"]

    gradients, values = torch.func.vmap(torch.func.grad_and_value(loss))(stacked)
    for copy, factor in enumerate((1, 2)):
        parameters = {name: (factor * parameter.detach()).requires_grad_() for name, parameter in model.named_parameters()}
        one = loss(parameters)
        one.backward()
        assert values[copy].item() == pytest.approx(one.item(), rel=1e-6)
        torch.testing.assert_close(gradients["weight"][copy], parameters["weight"].grad)


def test_outcomes_by_hand():
    outcomes = OBJECTIVE.outcomes(identity, batch_of([[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(6)]], [1, 2]))
    assert outcomes["index"].tolist() == [10, 11]
    assert outcomes["target"].tolist() == [1, 2]
    assert outcomes["prediction"].tolist() == [0, 2]
    assert outcomes["correct"].tolist() == [False, True]
    assert outcomes["probability"].flatten().tolist() == pytest.approx([0.5, 0.25, 0.25, 0.125, 0.125, 0.75])
    assert outcomes["nll"].tolist() == pytest.approx([math.log(4), math.log(4 / 3)])


def test_outcomes_have_no_gradient_and_are_exact_where_float32_is_not():
    model = nn.Linear(2, 3)
    outcomes = OBJECTIVE.outcomes(model, {"inputs": torch.randn(2, 2), "targets": torch.tensor([0, 1]), "index": torch.arange(2)})
    assert not any(value.requires_grad for value in outcomes.values())
    assert outcomes["probability"].dtype == outcomes["nll"].dtype == torch.float64
    # 1 − e^−30 is 1 in float32, and its NLL would be 0.
    sure = OBJECTIVE.outcomes(identity, batch_of([[30.0, 0.0, 0.0]], [0]))
    assert sure["nll"].item() == pytest.approx(2 * math.exp(-30), rel=1e-3)


def test_metrics_by_hand_and_as_scikit_learn_computes_them():
    logits = [[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(6)], [math.log(2), 0.0, 0.0]]
    outcomes = OBJECTIVE.outcomes(identity, batch_of(logits, [1, 2, 0]))
    metrics = OBJECTIVE.metrics(outcomes)
    assert list(metrics) == ["accuracy", "f1", "nll", "calibration_error"]
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)  # ant: 1 of 2 taken, 1 of 1 found; bee: never; cat: always
    assert metrics["nll"] == pytest.approx((math.log(4) + math.log(4 / 3) + math.log(2)) / 3)
    assert metrics["nll"] == pytest.approx(log_loss([1, 2, 0], outcomes["probability"], labels=[0, 1, 2]))
    # At confidence 1/2 one of two is right (gap 0), at 3/4 one of one (gap 1/4).
    assert metrics["calibration_error"] == pytest.approx(1 / 3 * 0.25)
    assert all(type(value) is float for value in metrics.values())


def test_of_equally_probable_classes_the_first_is_predicted():
    assert OBJECTIVE.outcomes(identity, batch_of([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]], [2, 2]))["prediction"].tolist() == [1, 0]


def test_a_single_class_is_always_right():
    only = Classification(classes=1, class_names=["only"])
    outcomes = only.outcomes(identity, batch_of([[3.0], [-3.0]], [0, 0]))
    assert only.metrics(outcomes) == {"accuracy": 1.0, "f1": 1.0, "nll": 0.0, "calibration_error": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_an_error_that_names_the_example(value):
    with pytest.raises(RunError, match=r"1 of 2 examples of a batch \(the first is example 11\)"):
        OBJECTIVE.outcomes(identity, batch_of([[0.0, 1.0, 2.0], [0.0, value, 0.0]], [0, 1]))


def test_a_class_that_is_ruled_out_has_probability_zero_and_infinite_nll():
    outcomes = OBJECTIVE.outcomes(identity, batch_of([[0.0, -math.inf, 0.0]], [1]))
    assert outcomes["probability"].tolist() == [[0.5, 0.0, 0.5]]
    assert outcomes["nll"].tolist() == [math.inf]
    assert OBJECTIVE.metrics(outcomes)["nll"] == math.inf


@pytest.mark.parametrize("outcomes", [{}, {"index": torch.empty(0, dtype=torch.int64)}])
def test_no_examples_is_a_clear_error(outcomes):
    with pytest.raises(DataError, match="the split is empty"):
        OBJECTIVE.metrics(outcomes)
    with pytest.raises(DataError, match="the split is empty"):
        OBJECTIVE.figures(outcomes, Split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0, "class_names": []}, "classes must be at least 1"),
        ({"classes": 3, "class_names": ["a", "b"]}, "2 names for 3 classes"),
        ({"classes": 1, "class_names": ["a"], "label_smoothing": 1.0}, "label_smoothing"),
        ({"classes": 1, "class_names": ["a"], "label_smoothing": math.nan}, "label_smoothing"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classification(**arguments)


def test_figures_say_what_is_seen_and_pictures_only_where_there_are_some():
    outcomes = OBJECTIVE.outcomes(identity, batch_of([[0.0, 2.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]], [0, 0, 2]))
    figures = OBJECTIVE.figures(outcomes, Split())
    assert list(figures) == ["confusion", "classes", "calibration"]
    assert figures["confusion"].get_suptitle() == "“ant” is taken for “bee” twice"
    with_pictures = OBJECTIVE.figures(outcomes, Pictures())
    assert list(with_pictures) == ["confusion", "classes", "calibration", "mistakes"]
    confident = with_pictures["mistakes"].axes[0].get_title()
    assert confident.startswith("given ant\nseen as bee\n") and confident.endswith(
        f"{100 * F.softmax(torch.tensor([0.0, 3, 0]), 0)[1]:.1f} %"
    )


def test_the_objective_alone_imports_no_plotting_library():
    code = (
        "import sys, components.objectives.classification; print([m for m in ('matplotlib', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_answer_names_the_likeliest_classes_with_their_probabilities() -> None:
    objective = Classification(classes=4, class_names=["a", "b", "c", "d"])
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]])
    answers = objective.answer(lambda _: logits, {"inputs": torch.zeros(1, 1)})["answers"]
    assert [answer["label"] for answer in answers] == ["b", "c", "a"]
    total = sum(math.exp(value) for value in (1, 3, 2, -1))
    assert [answer["probability"] for answer in answers] == pytest.approx([math.exp(value) / total for value in (3, 2, 1)])
