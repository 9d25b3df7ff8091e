import math

import pytest
import sklearn.metrics
import torch

from components.metrics.classification import accuracy, class_scores, confusion_matrix, macro_f1

GIVEN = torch.tensor([0, 0, 0, 1, 1, 2])
TAKEN = torch.tensor([0, 0, 1, 1, 2, 1])


def test_confusion_matrix_by_hand():
    assert confusion_matrix(GIVEN, TAKEN, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_scores_by_hand():
    scores = class_scores(confusion_matrix(GIVEN, TAKEN, 3))
    assert scores.precision.tolist() == pytest.approx([1.0, 1 / 3, 0.0])
    assert scores.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert scores.f1.tolist() == pytest.approx([4 / 5, 2 / 5, 0.0])
    assert macro_f1(confusion_matrix(GIVEN, TAKEN, 3)) == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)
    assert accuracy(GIVEN, TAKEN) == 0.5


@pytest.mark.parametrize(("classes", "used", "examples"), [(2, 2, 50), (10, 10, 400), (10, 6, 30), (100, 60, 300), (2, 1, 5)])
def test_agrees_with_scikit_learn(classes, used, examples):
    generator = torch.Generator().manual_seed(classes * 1000 + used)
    given = torch.randint(used, (examples,), generator=generator)
    taken = torch.where(torch.rand(examples, generator=generator) < 0.7, given, torch.randint(used, (examples,), generator=generator))
    matrix = confusion_matrix(given, taken, classes)
    labels = list(range(classes))
    assert matrix.tolist() == sklearn.metrics.confusion_matrix(given, taken, labels=labels).tolist()
    assert accuracy(given, taken) == pytest.approx(sklearn.metrics.accuracy_score(given, taken))
    assert macro_f1(matrix) == pytest.approx(sklearn.metrics.f1_score(given, taken, average="macro", zero_division=0))
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(given, taken, labels=labels, zero_division=0)
    scores = class_scores(matrix)
    assert scores.precision.tolist() == pytest.approx(precision.tolist())
    assert scores.recall.tolist() == pytest.approx(recall.tolist())
    assert scores.f1.tolist() == pytest.approx(f1.tolist())


def test_a_class_that_does_not_occur_is_left_out_of_the_mean_but_a_wrongly_predicted_one_counts_as_zero():
    perfect = torch.tensor([0, 1, 1])
    assert macro_f1(confusion_matrix(perfect, perfect, 10)) == 1.0
    assert macro_f1(confusion_matrix(torch.tensor([0, 0]), torch.tensor([0, 5]), 10)) == pytest.approx((2 / 3 + 0) / 2)


def test_no_examples_is_an_error_and_an_empty_matrix_is_not():
    nothing = torch.empty(0, dtype=torch.int64)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="no examples"):
        accuracy(nothing, nothing)
    with pytest.raises(ValueError, match="no examples"):
        macro_f1(torch.zeros(2, 2, dtype=torch.int64))


def test_a_class_number_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"a target is outside 0 … 2: they go from 0 to 3"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match=r"a prediction is outside 0 … 2: they go from -1 to 1"):
        confusion_matrix(torch.tensor([0, 2]), torch.tensor([-1, 1]), 3)


def test_results_are_plain_floats():
    assert type(accuracy(GIVEN, TAKEN)) is float
    assert type(macro_f1(confusion_matrix(GIVEN, TAKEN, 3))) is float
    assert math.isfinite(macro_f1(torch.tensor([[1, 0], [0, 0]])))
