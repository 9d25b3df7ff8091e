"""What every figure promises: 900 pixels wide, all text inside the canvas and none on another, a title that says what is seen."""

import io
import itertools
import math
import re
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.text import Text

import components.figures
from components.figures.calibration import reliability_diagram
from components.figures.confusion import class_scores_chart, confusion_figure
from components.figures.curves import curves
from components.figures.gradients import activation_saturation, gradient_flow
from components.figures.pictures import mistakes
from components.figures.style import from_the_right, isolated, lines, longest, short_names, thin, times

NAN = math.nan


def matrix_of(classes, most_right=50):
    """Counts with some mistakes, the most (9) where class 0 is taken for the last one."""
    generator = torch.Generator().manual_seed(classes)
    matrix = (torch.rand(classes, classes, generator=generator) < 0.2) * torch.randint(1, 5, (classes, classes), generator=generator)
    matrix.fill_diagonal_(most_right)
    if classes > 1:
        matrix[0, -1] = 9
    return matrix


def scores(classes):
    generator = torch.Generator().manual_seed(0)
    precision, recall = torch.rand(2, classes, generator=generator).double()
    return precision, recall, 2 * precision * recall / (precision + recall)


def names(classes):
    return [f"class number {i} with a long name" for i in range(classes)]


def confusion(classes, **settings):
    return confusion_figure(matrix_of(classes, **settings), names(classes))


def chart(classes):
    return class_scores_chart(*scores(classes), given=torch.arange(classes) * 1000, class_names=names(classes))


def pictures(examples, classes, wrong):
    targets = torch.arange(examples) % classes
    predictions = torch.where(torch.arange(examples) < wrong, (targets + 1) % classes, targets)
    confidence = torch.linspace(0.4, 0.9, examples)
    return mistakes(
        lambda i: torch.full((3, 8, 8), i),
        index=torch.arange(examples),
        targets=targets,
        predictions=predictions,
        confidence=confidence,
        class_names=names(classes),
    )


def deep(layers, steps, value):
    return {f"gradients/layers.{i}.some_block.linear": [(step, value(i, step)) for step in steps] for i in range(layers)}


LEARNING = {
    "train/loss": [(i * 10, 2.0 / i) for i in range(1, 121)],
    "train/learning_rate": [(10, 0.1)],
    "gradients/0": [(1, 1.0)],
    "validation/accuracy": [(300, 0.5), (600, 0.9), (900, 0.9), (1200, 0.8)],
    "validation/f1": [(300, 0.4), (600, NAN), (900, 0.8), (1200, 0.7)],
    "validation/nll": [(300, 1.0), (600, math.inf), (900, 0.5), (1200, 0.7)],
}

FIGURES = {
    "confusion of 1": lambda: confusion(1),
    "confusion of 20, large counts": lambda: confusion(20, most_right=2500),
    "confusion of 100": lambda: confusion(100),
    "scores of 1": lambda: chart(1),
    "scores of 100": lambda: chart(100),
    "reliability": lambda: reliability_diagram(
        torch.tensor([0, 3, 100_000]), torch.tensor([NAN, 0.5, 1.0]).double(), torch.tensor([NAN, 1.0, 0.9]).double(), error=0.1
    ),
    "mistakes": lambda: pictures(40, 12, wrong=30),
    "one mistake": lambda: pictures(40, 12, wrong=1),
    "no mistake": lambda: pictures(40, 12, wrong=0),
    "curves": lambda: curves(LEARNING, monitor=("accuracy", "max"), steps_per_epoch=300),
    "curves of one point": lambda: curves({"validation/accuracy": [(1, 0.1)]}, monitor=("accuracy", "max")),
    "curves of NaN": lambda: curves(
        {"train/loss": [(1, NAN), (2, math.inf)], "validation/accuracy": [(2, NAN)]}, monitor=("accuracy", "max")
    ),
    "gradients": lambda: gradient_flow(deep(10, (1, 200, 400), lambda i, step: 10.0 ** (i - 9))),
    "gradients of 90 layers, late": lambda: gradient_flow(deep(90, range(1, 40_001, 100), lambda i, step: 1.0 + i)),
    "gradients, some dead": lambda: gradient_flow(deep(6, (1, 200, 400), lambda i, step: 0.0 if i < 2 and step > 1 else 0.5)),
    "gradients, all dead": lambda: gradient_flow(deep(2, (1, 2), lambda i, step: 0.0)),
    "gradients, some NaN": lambda: gradient_flow(deep(3, (1, 2), lambda i, step: NAN if i else 1.0)),
    "saturation": lambda: activation_saturation({f"saturation/act.{i}": [(1, i / 10), (200, i / 9)] for i in range(10)}),
    "saturation, once": lambda: activation_saturation({f"saturation/act.{i}": [(1, i / 4)] for i in range(5)}),
    "saturation of one layer, once": lambda: activation_saturation({"saturation/act": [(1, 0.0)]}),
}


def shown_texts(figure):
    """Every text that is really drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    not_drawn = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for label in axis.get_ticklabels(which="both"):
                where = label.get_position()[0 if axis.axis_name == "x" else 1]
                if not axes.axison or not low * (1 - 1e-9) - 1e-9 <= where <= high * (1 + 1e-9) + 1e-9:
                    not_drawn.add(label)
            if not axes.axison:
                not_drawn.add(axis.label)
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text not in not_drawn and text.get_visible() and text.get_text().strip()
    ]


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_all_text_is_inside_the_canvas_and_none_lies_on_another(make):
    figure = make()
    texts = shown_texts(figure)
    width, height = figure.canvas.get_width_height()
    assert width == 900
    assert len(texts) >= 2
    for text, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} leaves the canvas: {box}"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 1.5, f"{one!r} and {other!r} overlap by {overlap} pixels"


def test_confusion_names_the_most_frequent_mistake_and_shows_counts_or_a_scale():
    small = confusion_figure(torch.tensor([[5, 0, 1], [0, 4, 0], [0, 2, 7]]), ["4", "5", "9"])
    assert small.get_suptitle() == "“9” is taken for “5” twice"
    assert small.axes[0].get_title(loc="left") == "19 examples, 3 mistakes (15.8 %)"
    assert [(text.get_position(), text.get_text()) for text in small.axes[0].texts] == [
        ((0, 0), "5"),
        ((2, 0), "1"),
        ((1, 1), "4"),
        ((1, 2), "2"),
        ((2, 2), "7"),
    ]
    assert len(small.axes) == 1
    large = confusion(100)
    assert not large.axes[0].texts
    assert [axes.get_ylabel() for axes in large.axes[1:]] == ["right answers (count)", "mistakes (count)"]
    longest = confusion_figure(torch.eye(2, dtype=torch.int64), ["1→2 Entity-Destination", "2→1 Instrument-Agency"]).axes[0]
    assert [label.get_text() for label in longest.get_yticklabels()] == ["1→2 Entity-Destination", "2→1 Instrument-Agency"]
    assert confusion_figure(torch.eye(3, dtype=torch.int64), ["a", "b", "c"]).get_suptitle() == "No class is taken for another"


def test_the_hardest_class_stands_on_top_and_a_score_is_where_it_belongs():
    f1 = torch.tensor([0.9, 0.5, 0.7], dtype=torch.float64)
    figure = class_scores_chart(f1, f1, f1, given=torch.tensor([1, 2, 3]), class_names=["a", "b", "c"])
    assert figure.get_suptitle() == "“b” is the hardest class: F1 0.500"
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b (2)", "c (3)", "a (1)"]
    assert axes.get_ylim() == (2.5, -0.5)
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0.5, 0.7, 0.9]] * 3
    assert len(chart(100).axes[0].get_yticks()) == 20
    zero = torch.zeros(3).double()
    assert (
        class_scores_chart(zero, zero, zero, given=torch.ones(3), class_names=["a", "b", "c"]).get_suptitle()
        == "3 of 3 classes are never recognised"
    )


def test_reliability_shows_accuracy_counts_and_the_verdict():
    counts, confidence, accuracy = torch.tensor([0, 1, 3]), torch.tensor([NAN, 0.5, 0.9]).double(), torch.tensor([NAN, 0.0, 2 / 3]).double()
    figure = reliability_diagram(counts, confidence, accuracy, error=0.3)
    assert figure.get_suptitle() == "Calibration error 30.0 %: surer than it is right"
    assert figure.axes[0].get_title(loc="left") == "4 examples; mean confidence 80.0 %, accuracy 50.0 %"
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([0.0, 2 / 3])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, 1, 3]


def test_mistakes_come_most_confident_first_and_without_any_the_least_sure_answers():
    drawn = []
    figure = mistakes(
        lambda i: drawn.append(i) or torch.zeros(4, 4),
        index=torch.tensor([10, 11, 12, 13]),
        targets=torch.tensor([0, 0, 1, 1]),
        predictions=torch.tensor([0, 1, 0, 0]),
        confidence=torch.tensor([0.99, 0.6, 0.9, 0.9]),
        class_names=["four", "nine"],
    )
    assert drawn == [12, 13, 11]
    assert figure.get_suptitle() == "3 of 4 examples are wrong; the most confident mistakes"
    assert figure.axes[0].get_title() == "given nine\nseen as four\n90.0 %"
    assert sum(len(axes.images) for axes in figure.axes) == 3
    assert pictures(40, 3, wrong=0).get_suptitle() == "No mistake among 40 examples; the least confident answers"
    assert pictures(40, 3, wrong=0).axes[0].get_title().endswith("40.0 %")


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6), (4, 6, 3), (4, 6, 1)])
def test_pictures_of_every_layout_are_drawn_upright_over_their_own_range(shape):
    picture = torch.arange(math.prod(shape)).reshape(shape) - 5.0
    one = torch.zeros(1, dtype=torch.int64)
    figure = mistakes(lambda i: picture, index=one, targets=one, predictions=one + 1, confidence=torch.ones(1), class_names=["a", "b"])
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape[:2] == (4, 6)
    assert (float(drawn.min()), float(drawn.max())) == (0.0, 1.0)


def test_bytes_are_drawn_as_they_are():
    one = torch.zeros(1, dtype=torch.int64)
    picture = torch.tensor([[51, 102]], dtype=torch.uint8)
    figure = mistakes(lambda i: picture, index=one, targets=one, predictions=one + 1, confidence=torch.ones(1), class_names=["a", "b"])
    assert figure.axes[0].images[0].get_array().flatten().tolist() == pytest.approx([0.2, 0.4])


def test_curves_put_one_quantity_in_one_panel_and_mark_the_best_epoch():
    figure = curves(LEARNING, monitor=("accuracy", "max"), steps_per_epoch=300)
    assert figure.get_suptitle() == "Validation accuracy is best at epoch 2: 0.9"
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_ylabel() for axes in panels] == ["loss", "validation accuracy", "F1 (macro)"]
    labels = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert labels == ["train loss (running mean)", "validation NLL", "validation NLL is not a number"]
    accuracy = panels[1].lines[0]
    assert accuracy.get_xdata().tolist() == [1, 2, 3, 4]
    assert accuracy.get_ydata().tolist() == [0.5, 0.9, 0.9, 0.8]
    assert all(any(list(line.get_xdata()) == [2.0, 2.0] and line.get_linestyle() == "--" for line in axes.lines) for axes in panels)
    assert panels[0].get_yscale() == "log"


def test_curves_leave_a_gap_where_a_value_is_no_number():
    f1, crosses, _ = [axes for axes in curves(LEARNING, monitor=("accuracy", "max")).axes if axes.axison][2].lines
    assert [math.isnan(value) for value in f1.get_ydata()] == [False, True, False, False]
    assert crosses.get_xdata().tolist() == [600]


def test_curves_without_series_or_monitor():
    with pytest.raises(ValueError, match="no train/"):
        curves({"gradients/0": [(1, 1.0)]})
    assert curves({"validation/loss": [(1, 2.0)]}).get_suptitle() == "Learning curves"
    assert curves({"validation/nll": [(1, 2.0), (2, 1.0)]}, monitor=("nll", "min")).get_suptitle().endswith("is best at step 2: 1")


def test_gradient_flow_says_how_far_the_gradient_shrinks():
    figure = gradient_flow(deep(10, (1, 200, 400), lambda i, step: 10.0 ** (i - 9)) | {"saturation/x": [(1, 0.5)]})
    assert figure.get_suptitle() == "Step 400: the gradient shrinks 10^9-fold from the last layer to the first"
    lines, heat = figure.axes[0], figure.axes[1]
    assert lines.get_xscale() == "log"
    assert [line.get_label() for line in lines.lines] == ["step 1", "step 200", "step 400"]
    assert lines.lines[0].get_xdata().tolist() == pytest.approx([10.0 ** (i - 9) for i in range(10)])
    assert lines.get_ylim()[0] > lines.get_ylim()[1], "the input is on top"
    assert heat.images[0].get_array().shape == (10, 3)
    even = gradient_flow(deep(4, (1,), lambda i, step: 1.0))
    assert even.get_suptitle() == "Step 1: the gradient is about as large in the first layer as in the last"
    assert len(even.axes) == 1
    growing = gradient_flow(deep(2, (1,), lambda i, step: 300.0 if i == 0 else 1.0))
    assert growing.get_suptitle() == "Step 1: the gradient grows 300-fold from the last layer to the first"


def test_dead_layers_are_crossed_and_left_out_of_the_lines():
    figure = gradient_flow(deep(6, (1, 200, 400), lambda i, step: 0.0 if i < 2 and step > 1 else 0.5))
    assert figure.get_suptitle() == "Step 400: no gradient at all reaches 2 of 6 layers"
    *stages, crosses = figure.axes[0].lines
    assert crosses.get_label() == "exactly 0"
    assert crosses.get_ydata().tolist() == [0, 1]
    assert stages[0].get_xdata().count() == 6 and stages[2].get_xdata().count() == 4
    assert figure.axes[1].images[1].get_array().filled(False).tolist() == [[False, True, True]] * 2 + [[False] * 3] * 4


def test_saturation_is_in_percent_and_names_the_worst():
    figure = activation_saturation({"saturation/a": [(1, 0.1), (2, 0.93)], "saturation/b": [(1, 0.2), (2, 0.5)]})
    assert figure.get_suptitle() == "Step 2: “a” is saturated most: 93 % of its outputs"
    assert figure.axes[0].lines[-1].get_xdata().tolist() == pytest.approx([93.0, 50.0])
    assert not figure.axes[0].texts
    once = activation_saturation({"saturation/a": [(1, 0.0)], "saturation/b": [(1, 0.125)]})
    assert [(text.get_text(), *text.xy) for text in once.axes[0].texts] == [("0", 0.0, 0), ("12.5", 12.5, 1)]
    assert not activation_saturation({f"saturation/{i}": [(1, 0.1)] for i in range(13)}).axes[0].texts
    same = activation_saturation({"saturation/a": [(1, 0.0), (2, 0.0), (3, 0.0)]}).axes[0].lines
    assert [line.get_markersize() for line in same] == [12, 9, 6], "one is seen in the other"
    calm = activation_saturation({"saturation/a": [(1, 0.0)], "saturation/b": [(1, 0.001)]})
    assert calm.get_suptitle() == "Step 1: hardly any output is saturated (at most 0.1 %)"


@pytest.mark.parametrize("figure", [gradient_flow, activation_saturation])
def test_nothing_to_draw_is_an_error(figure):
    with pytest.raises(ValueError, match="to draw"):
        figure({"train/loss": [(1, 1.0)]})


def test_short_names_stay_different_and_carry_no_mathematics():
    assert short_names(["cat", "dog"]) == ["cat", "dog"]
    assert short_names(["a photograph of a cat", "a photograph of a dog"], 10) == ["a photog…t", "a photog…g"]
    assert short_names(["$x$", "two\nlines"]) == [r"\$x\$", "two lines"]
    many = short_names([f"encoder.layers.{i}.self_attention.query_projection" for i in range(99)], 20)
    assert len(set(many)) == 99 and max(map(len, many)) == 20


FILM, SONG = "סרט", "أغنية"


def test_a_text_from_the_right_does_not_turn_what_is_around_it():
    figure = confusion_figure(torch.tensor([[5, 6], [1, 5]]), [FILM, SONG])
    assert figure.get_suptitle() == f"“\u2067{FILM}\u2069” is taken for “\u2067{SONG}\u2069” six times"
    assert glyphs(figure.get_suptitle()) == glyphs(f"\u200e“{FILM}” is taken for “{SONG}” six times")
    assert glyphs(f"“{FILM}” is taken for “{SONG}” six times") != glyphs(figure.get_suptitle()), "what it was without marks"
    scores = torch.tensor([0.5, 0.9]).double()
    chart = class_scores_chart(scores, scores, scores, given=torch.tensor([12, 3]), class_names=[FILM, "song"])
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == [f"\u2067{FILM}\u2069 (12)", "song (3)"]


def glyphs(text):
    """What is drawn of a text, from left to right; marks that are not seen are left out."""
    font = get_font(findfont("DejaVu Sans"))
    marks = {font.get_char_index(ord(mark)) for mark in "\u200e\u2067\u2069"}
    return [
        glyph.glyph_index for glyph in font._layout(text, LoadFlags.DEFAULT) if glyph.glyph_index not in marks | {font.get_char_index(32)}
    ]


def test_isolated_texts_keep_their_direction_in_every_line():
    assert isolated("a film") == "a film"
    assert isolated(f"{FILM} film") == f"\u2067{FILM} film\u2069"
    assert isolated(f"film {FILM}") == f"\u2066film {FILM}\u2069"
    assert isolated(f"\u202e{FILM}\u2069") == f"\u2067{FILM}\u2069", "no mark of the text's own ends ours"
    assert lines(f"of “{isolated(f'{FILM} {SONG}')}” and", 11) == [f"of “\u2067{FILM}\u2069", f"\u2067{SONG}\u2069” and"]
    assert lines(isolated(f"{FILM} 1 {SONG}"), 7, most=1) == [f"\u2067{FILM} …\u2069"]
    assert [from_the_right(text) for text in (FILM, f"1. {FILM} film", "film", "12", "")] == [True, True, False, False, False]
    assert longest(short_names([FILM, "of"])) == 3


def test_names_in_other_scripts_are_drawn_without_a_warning():
    confusion_figure(torch.eye(2, dtype=torch.int64), ["고양이", "개"]).savefig(io.BytesIO(), format="png")


def test_words_for_counts_and_ticks():
    assert [times(count) for count in (1, 2, 6, 12, 13, 1234)] == ["once", "twice", "six times", "twelve times", "13 times", "1,234 times"]
    assert thin(10, 10) == list(range(10))
    assert thin(100, 30) == list(range(0, 100, 4))


def test_figures_leave_matplotlibs_settings_alone_and_never_use_pyplot():
    before = dict(mpl.rcParams)
    confusion(3)
    assert dict(mpl.rcParams) == before
    sources = [path.read_text("utf-8") for path in Path(components.figures.__path__[0]).glob("*.py")]
    assert len(sources) > 5
    assert not any(re.search(r"import.*pyplot", source) for source in sources)
