"""SQuAD's exact match and F1, and the relations' F1, by hand."""

import pytest
import torch

from components.metrics.classification import confusion_matrix
from components.metrics.question_answering import exact_match, plain, word_f1, words
from components.metrics.relations import relation_f1


def test_what_is_compared():
    assert plain("The  U.S. Army's, an (old) theory") == "us armys old theory"
    assert words("巴黎 2016 年") == ["巴", "黎", "2016", "年"]


@pytest.mark.parametrize(
    ("said", "given", "exact", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower!"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("Paris Paris", ["Paris in"], 0, 0.5),  # a word counts as often as both have it
        ("London", ["Paris"], 0, 0),
        ("Paris", ["the city of Paris", "Paris, France"], 0, 2 / 3),  # the better of both
        ("", ["Paris"], 0, 0),
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
    ],
)
def test_an_answer_beside_those_given(said: str, given: list[str], exact: float, f1: float):
    assert exact_match(said, given) == exact
    assert word_f1(said, given) == pytest.approx(f1)


NAMES = ["A(e1,e2)", "A(e2,e1)", "B", "Other"]


def f1_of(given: list[int], told: list[int], **settings: str) -> float:
    return relation_f1(confusion_matrix(torch.tensor(given), torch.tensor(told), 4), NAMES, **settings)


def test_a_relation_has_to_be_told_the_right_way_round():
    # A: 4 given, 4 told, 2 the right way round → 0.5; B: 1 given, 2 told, 1 right → 2/3; Other is no relation
    given, told = [0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 0, 2, 2, 3]
    assert f1_of(given, told) == pytest.approx((0.5 + 2 / 3) / 2)
    assert f1_of(given, told, other="none") == pytest.approx((0.5 + 2 / 3 + 2 / 3) / 3)


def test_other_counts_against_a_relation_but_has_no_score():
    # A: 2 given, 1 told, 1 right → 2/3; telling Other for it costs recall; a relation nobody gives or tells is left out
    assert f1_of([0, 0, 3], [0, 3, 3]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no relation to score"):
        f1_of([3], [3])
