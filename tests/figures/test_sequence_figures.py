"""Pictures of sequences: what stands in them, read back from the drawn figure."""

import numpy as np
import pytest
import torch

from components.figures.sequences import gate_traces, gradient_by_distance, moving_words, reach
from components.figures.translation import alignment, score_by_length


def title(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def test_gates_are_drawn_with_the_busiest_units_on_top():
    state = torch.zeros(3, 4)
    state[:, 2] = torch.tensor([-1.0, 0.0, 1.0])
    figure = gate_traces(["a", "$b", "\n"], {"forget": torch.full((3, 4), 0.25), "state": state})
    assert title(figure).startswith("The forget gate keeps 25 %")
    top = figure.axes[1].images[0].get_array()
    assert top[0].tolist() == [-1, 0, 1]
    assert np.abs(top[1:]).max() == 0
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["a", r"\$b", "↵"]


def test_how_far_a_gradient_reaches():
    assert reach(torch.tensor([1.0, 0.5, 0.02, 0.001, 0.0001])) == 3
    assert reach(torch.tensor([1.0, 0.5])) is None
    assert reach(torch.tensor([1.0, 0.001, 0.5, 0.001])) == 3
    figure = gradient_by_distance({"RNN": 0.1 ** torch.arange(6.0), "LSTM": torch.ones(6)})
    assert title(figure) == "RNN feels 3 steps back; LSTM feels all 6 steps"
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx((0.1 ** torch.arange(6.0)).numpy(), rel=1e-6)


def test_words_that_moved_a_decision():
    figure = moving_words([("positive 90 %", ["not", "bad"], [-1.0, 4.0]), ("negative 60 %", ["dull"] * 40, [0.5] * 40)])
    assert title(figure).startswith("“bad” moved a decision most")
    words = [text for text in figure.axes[0].texts if text.get_text() == "dull"]
    assert len(words) == 40
    assert len({round(text.get_position()[1], 3) for text in words}) > 1  # broken into lines
    colours = {text.get_text(): text.get_bbox_patch().get_facecolor() for text in figure.axes[0].texts if text.get_bbox_patch()}
    assert colours["bad"][2] > colours["bad"][0]  # blue
    assert colours["not"][0] > colours["not"][2]  # orange


def test_alignment_says_what_was_looked_at():
    figure = alignment(["▁ein", "한국"], ["a", "man", "[END]"], torch.tensor([[0.9, 0.1], [0.05, 0.95], [0.5, 0.5]]))
    assert title(figure) == "It wrote “man” looking at “한국” (95 % of the weight)"
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(np.array([[0.9, 0.1], [0.05, 0.95], [0.5, 0.5]]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "man", "[END]"]


def test_scores_by_length():
    groups = [(1, 1, 20, 40.0), (2, 9, 30, 10.0)]
    figure = score_by_length({"with attention": groups, "without": [(1, 1, 20, 30.0), (2, 9, 30, 5.0)]})
    assert title(figure) == "with attention 40.0 on the shortest, 10.0 on the longest; without 30.0 on the shortest, 5.0 on the longest"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1\n(20)", "2–9\n(30)"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[40, 10], [30, 5]]
