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
    figure = gate_traces(["a", "$b", "\n"], [{"forget": torch.full((3, 4), 0.25), "state": state}])
    assert title(figure).startswith("The forget gate keeps 25 %")
    top = figure.axes[1].images[0].get_array()
    assert top[0].tolist() == [-1, 0, 1]
    assert np.abs(top[1:]).max() == 0
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["a", r"\$b", "↵"]


def test_both_directions_of_a_layer_are_drawn_and_named():
    generator = torch.Generator().manual_seed(0)
    forwards, backwards = torch.randn(2, 3, 4, generator=generator)
    sides = [{"forget": torch.full((3, 4), share), "state": state} for share, state in ((0.25, forwards), (0.75, backwards))]
    figure = gate_traces(["a", "b", "c"], sides, layers=2)
    assert title(figure) == "The forget gate keeps 25 % forwards and 75 % backwards, in the mean"
    assert figure.axes[0].get_title(loc="left").startswith("layer 1 of 2; 4 of 4 units in each direction")
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_xlabel()}
    assert list(panels) == ["reads forwards", "reads backwards"]
    for axes, state in zip(panels.values(), (forwards, backwards), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        drawn = axes.images[0]
        assert np.asarray(drawn.get_array()) == pytest.approx(state[:, state.std(0).argsort(descending=True)].T.numpy())
        assert drawn.norm.vmax == pytest.approx(float(torch.stack([forwards, backwards]).abs().max())), "both by one scale"
    alone = gate_traces(["a", "b", "c"], sides[:1])
    assert alone.axes[0].get_title(loc="left").startswith("4 of 4 units, a row each")
    assert not any(axes.get_xlabel() for axes in alone.axes)


def test_a_gradient_at_one_input_can_be_seen():
    assert gradient_by_distance({"RNN": torch.ones(1)}).axes[0].lines[0].get_marker() == "o"
    assert gradient_by_distance({"RNN": torch.ones(50)}).axes[0].lines[0].get_marker() == ""


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


def test_words_that_are_read_from_the_right_stand_from_the_right():
    words = ["סרט", "טוב", "2"]
    figure = moving_words([("a 90 %", words, [1.0, 3.0, 0.5]), ("b 90 %", ["film", "טוב"], [1.0, 0.5])])
    assert title(figure).startswith("“\u2067טוב\u2069” moved a decision most")
    boxes = [text for text in figure.axes[0].texts if text.get_bbox_patch()]
    first, second = boxes[:3], boxes[3:]
    assert [text.get_text().strip("\u2067\u2069") for text in first] == words
    places = [text.get_position()[0] for text in first]
    assert places == sorted(places, reverse=True) and places[0] > 6.5
    assert {text.get_ha() for text in first} == {"right"} and {text.get_ha() for text in second} == {"left"}
    assert second[0].get_position()[0] < second[1].get_position()[0]


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
