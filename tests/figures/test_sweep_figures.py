"""What the figures of sweeps draw: every number where it belongs, all text inside the canvas and none on another."""

import itertools
import math

import numpy as np
import pytest
from test_figures import shown_texts

from components.figures.searches import Axis, Band, learning_bands, optimization_history, parallel_coordinates
from components.figures.style import VERMILION
from components.figures.sweeps import LevelMeans, Side, heat_maps, importance_chart, level_means

NAN = math.nan
NOISE = np.random.default_rng(0)
INITIALIZERS = ["he_normal", "he_uniform", "normalized_xavier", "orthogonal", "random_normal", "random_uniform", "xavier", "xavier_normal"]
ACTIVATIONS = ["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu"]
OPTIMIZERS = ["adadelta", "adagrad", "adam", "adamw", "gradient_descent", "momentum", "nesterov", "rmsprop"]
ACCURACY = {"quantity": "validation accuracy (%)", "largest": True}


def heat(shape, panels=True, largest=True, low=40.0, high=97.0, missing=0):
    values = np.random.default_rng(1).uniform(low, high, shape)
    values.flat[:missing] = NAN
    sides = [
        Side(name, [f"{name} {i}" for i in range(n)]) for name, n in zip(("optimizer", "initializer", "activation"), shape, strict=True)
    ]
    return heat_maps(
        values, rows=sides[1], columns=sides[2], panels=sides[0] if panels else None, quantity="value", largest=largest, note="one seed"
    )


def lecture_heat():
    values = np.random.default_rng(2).uniform(40, 97, (8, 8, 6))
    values[2, 1, 3] = 98.76
    values[0, 0, 0] = NAN
    return values, heat_maps(
        values,
        rows=Side("initializer", INITIALIZERS),
        columns=Side("activation", ACTIVATIONS),
        panels=Side("optimizer", OPTIMIZERS),
        note="one seed",
        **ACCURACY,
    )


def levels(names, seeds=True, spread=True):
    mean = np.sort(np.random.default_rng(len(names)).uniform(50, 95, len(names)))[::-1]
    nothing = np.full((len(names), 2), NAN)
    around = np.stack([mean - 3, mean + 2], axis=1)
    return LevelMeans(names, mean, around if seeds else nothing, around + np.array([-5, 4]) if spread else nothing)


def band(name, last, seeds=True, epochs=3):
    mean = last * (1 - 0.3 * 0.5 ** np.arange(1, epochs + 1))
    return Band(name, np.arange(1.0, epochs + 1), mean, mean - 1 if seeds else mean * NAN, mean + 1 if seeds else mean * NAN)


def search(trials, keys=4, absent=True):
    noise = np.random.default_rng(trials)
    value = noise.uniform(50, 97, trials)
    axes = [
        Axis("optimizer", noise.integers(0, 8, trials).astype(float), OPTIMIZERS),
        Axis("optimizer.learning_rate", 10 ** noise.uniform(-5, 0, trials), log=True),
        Axis("optimizer.momentum", np.where(noise.random(trials) < 0.5, NAN, noise.random(trials)) if absent else noise.random(trials)),
        Axis("model.hidden", noise.integers(0, 2, trials).astype(float), ["[256,128]", "[512]"]),
    ]
    return (axes * 3)[:keys], value


def history(states, values, **settings):
    return optimization_history(np.arange(len(states), dtype=float), np.array(values), states, **ACCURACY | settings)


FIGURES = {
    "heat, lecture": lambda: lecture_heat()[1],
    "heat, one panel": lambda: heat((1, 3, 2), panels=False),
    "heat, 20 panels of 30 × 20": lambda: heat((20, 30, 20)),
    "heat, two panels, loss": lambda: heat((2, 4, 5), largest=False, low=0.01, high=3.0),
    "heat, nothing": lambda: heat((2, 2, 2), missing=8),
    "heat, huge": lambda: heat((1, 2, 2), panels=False, low=1e8, high=1e9),
    "levels, one factor": lambda: level_means({"initializer": levels(INITIALIZERS)}, quantity="accuracy (%)", note="5 seeds"),
    "levels, three factors": lambda: level_means(
        {
            "initializer": levels(INITIALIZERS),
            "activation": levels(ACTIVATIONS, seeds=False),
            "optimizer": levels(OPTIMIZERS, spread=False),
        },
        quantity="accuracy (%)",
        note="one seed",
    ),
    "levels, forty": lambda: level_means(
        {"trainer.batch_size": levels([f"{i} of many" for i in range(40)])}, quantity="a", note="one seed"
    ),
    "levels, one": lambda: level_means({"activation": levels(["relu"])}, quantity="accuracy (%)", note="one seed"),
    "bands": lambda: learning_bands(
        [band(name, 80 + i) for i, name in enumerate(INITIALIZERS)],
        factor="initializer",
        note="bands of 95 % for the mean over seeds, finished trials of the search",
        **ACCURACY,
    ),
    "bands, many, one epoch": lambda: learning_bands(
        [band(f"a level with a long name {i}", 80 + i, seeds=False, epochs=1) for i in range(12)],
        factor="some.key.with.a.very_long.name",
        note="no bands",
        **ACCURACY,
    ),
    "history": lambda: history(["complete", "pruned", "failed", "complete"] * 30, list(NOISE.uniform(50, 90, 120))),
    "history of one": lambda: history(["complete"], [50.0]),
    "history of failures": lambda: history(["failed"] * 3, [NAN] * 3),
    "parallel": lambda: parallel_coordinates(*search(100), **ACCURACY),
    "parallel, ten keys, 2000 trials": lambda: parallel_coordinates(*search(2000, keys=10), **ACCURACY),
    "parallel, one": lambda: parallel_coordinates(*search(1, keys=1), **ACCURACY),
    "importance": lambda: importance_chart(
        ["optimizer.learning_rate", "activation", "initializer"],
        np.array([0.7, 0.2, 0.05]),
        np.array([[0.5, 0.9], [0.1, 0.3], [0.0, 0.2]]),
        rest=0.05,
        note="share of the variance of all trials (ANOVA);\nintervals of 95 % from 200 bootstrap samples of the configurations",
    ),
    "importance, nothing certain": lambda: importance_chart(["a"], np.array([1.0]), np.array([[NAN, NAN]]), rest=None, note="PED-ANOVA"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_all_text_is_inside_the_canvas_and_no_label_lies_on_another(make):
    figure = make()
    texts = shown_texts(figure)
    width, height = figure.canvas.get_width_height()
    assert width == 900 and height < 1900
    assert len(texts) >= 4
    for text, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} leaves the canvas: {box}"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 1.5, f"{one!r} and {other!r} overlap by {overlap} pixels"


def test_every_cell_has_its_value_and_the_best_is_framed():
    values, figure = lecture_heat()
    panels = figure.axes[:8]
    assert [axes.get_title(loc="left") for axes in panels] == [f"optimizer: {name}" for name in OPTIMIZERS]
    for panel, axes in enumerate(panels):
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(c, r): "–" if np.isnan(v) else f"{v:.1f}" for (r, c), v in np.ndenumerate(values[panel])}
        assert axes.images[0].get_array().filled(NAN) == pytest.approx(values[panel], nan_ok=True)
        assert [patch.get_xy() for patch in axes.patches] == ([(2.5, 0.5)] if panel == 2 else [])
        assert min(text.get_fontsize() for text in axes.texts) >= 7
    assert figure.get_suptitle() == "The best cell is he_uniform × leaky_relu (optimizer: adam): 98.8"
    assert figure.axes[-1].get_xlabel() == "validation accuracy (%); one seed"
    assert [label.get_text() for label in panels[0].get_yticklabels()] == INITIALIZERS


def test_the_best_of_a_loss_is_the_smallest_and_darkest():
    values = np.array([[[0.5, 0.25], [2.0, 1.0]]])
    figure = heat_maps(
        values, rows=Side("a", ["x", "y"]), columns=Side("b", ["p", "q"]), panels=None, quantity="loss", largest=False, note="one seed"
    )
    axes = figure.axes[0]
    assert figure.get_suptitle() == "The best cell is x × q: 0.25"
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.25", "2.00", "1.00"]
    image = axes.images[0]
    shades = [sum(image.cmap(image.norm(value))[:3]) for value in (0.25, 0.5, 1.0, 2.0)]
    assert shades == sorted(shades), "the smaller, the darker"


def test_a_lost_tenth_does_not_take_the_colours_from_the_rest():
    values = np.full((1, 5, 8), 95.0) + np.arange(40).reshape(1, 5, 8) / 10
    values[0, 0, :3] = 10.0
    figure = heat_maps(
        values, rows=Side("a", list("vwxyz")), columns=Side("b", list("abcdefgh")), panels=None, quantity="a", largest=True, note=""
    )
    assert figure.axes[0].images[0].norm.vmin > 90
    assert figure.axes[-1].get_label() == "<colorbar>" and figure.axes[0].texts[0].get_text() == "10.0"


def test_levels_stand_at_their_means_with_their_intervals():
    nothing = np.full((3, 2), NAN)
    interval = np.array([[88.0, 92.0], [78.0, 82.0], [NAN, NAN]])
    drawn = LevelMeans(["relu", "tanh", "elu"], np.array([90.0, 80.0, NAN]), interval, nothing)
    figure = level_means({"activation": drawn}, quantity="validation accuracy (%)", note="5 seeds")
    (axes,) = figure.axes
    assert figure.get_suptitle() == "Best mean: relu (activation); 5 seeds"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["relu", "tanh", "elu (no value)"]
    low, high, mean = (line.get_xdata()[:2].tolist() for line in axes.lines)
    assert (low, high, mean) == ([88, 78], [92, 82], [90, 80])
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the best is on top"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["95 % interval over seeds", "mean"]
    one_seed = level_means({"activation": levels(ACTIVATIONS, seeds=False)}, quantity="a", note="one seed")
    assert [text.get_text() for text in one_seed.legends[0].get_texts()] == [
        "middle half of the combinations (no interval)",
        "mean",
    ]


def test_only_the_best_of_many_levels_are_shown():
    figure = FIGURES["levels, forty"]()
    assert figure.axes[0].get_title(loc="left") == "trainer.batch_size (best 12 of 40 levels)"
    assert len(figure.axes[0].get_yticks()) == 12


def test_bands_are_ranked_by_their_end_and_drawn_where_there_are_seeds():
    figure = learning_bands([band("slow", 70.0), band("quick", 90.0)], factor="optimizer", note="over seeds", **ACCURACY)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "Learning curves by optimizer", "which is best is for the tests to say"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["quick", "slow"]
    assert axes.lines[0].get_ydata() == pytest.approx(90 * (1 - 0.3 * 0.5 ** np.arange(1, 4)))
    edge = axes.collections[0].get_paths()[0].vertices
    assert (edge[:, 1].min(), edge[:, 1].max()) == pytest.approx((90 * 0.85 - 1, 90 * (1 - 0.3 / 8) + 1))
    loss = learning_bands([band("slow", 0.7), band("quick", 0.2)], factor="optimizer", quantity="loss", largest=False, note="")
    assert [text.get_text() for text in loss.legends[0].get_texts()] == ["quick", "slow"]
    assert FIGURES["bands, many, one epoch"]().axes[0].get_title(loc="left").startswith("the best 8 of 12 levels; ")


def test_history_shows_each_trial_and_the_best_so_far():
    states = ["complete", "pruned", "complete", "failed", "complete", "complete"]
    figure = history(states, [80.0, 60.0, 70.0, NAN, 90.0, NAN])
    finished, best, pruned, lost = figure.axes[0].lines
    assert (finished.get_xdata().tolist(), finished.get_ydata().tolist()) == ([0, 2, 4], [80, 70, 90])
    assert best.get_ydata().tolist() == [80, 80, 80, 80, 90, 90]
    assert (pruned.get_xdata().tolist(), pruned.get_ydata().tolist()) == ([1], [60])
    assert lost.get_xdata().tolist() == [3, 5]
    assert figure.get_suptitle() == "The best single trial is number 4: 90"
    assert figure.axes[0].get_title(loc="left") == "6 trials: 3 finished, 1 pruned, 2 without a value"
    falling = history(states, [0.8, 0.6, 0.7, NAN, 0.9, NAN], largest=False, quantity="loss")
    assert falling.axes[0].lines[1].get_ydata().tolist() == [0.8, 0.8, 0.7, 0.7, 0.7, 0.7]
    assert history(["failed"], [NAN]).get_suptitle() == "No trial finished with a value"
    assert history(["complete"], [50.0]).axes[0].get_title(loc="left") == "1 trial: 1 finished, 0 pruned, 0 without a value"


def test_what_breaks_a_constraint_is_drawn_and_is_not_the_best():
    barred = np.array([False, True, False])
    figure = history(["complete"] * 3, [70.0, 90.0, 80.0], barred=barred)
    finished, best, forbidden = figure.axes[0].lines
    assert (finished.get_ydata().tolist(), forbidden.get_ydata().tolist()) == ([70, 80], [90])
    assert best.get_ydata().tolist() == [70, 70, 80]
    assert figure.get_suptitle() == "The best single trial that keeps the constraints is number 2: 80"
    none = history(["complete"], [50.0], barred=np.array([True]))
    assert none.get_suptitle() == "No trial that keeps the constraints finished with a value"
    values = np.array([[[50.0, 90.0], [80.0, 70.0]]])
    sides = {"rows": Side("a", ["x", "y"]), "columns": Side("b", ["p", "q"]), "panels": None}
    cells = heat_maps(values, **sides, **ACCURACY, note="one seed", barred=values == 90)
    assert cells.get_suptitle() == "The best cell that keeps the constraints is y × p: 80.0"
    assert [patch.get_xy() for patch in cells.axes[0].patches] == [(-0.5, 0.5)]
    ways = parallel_coordinates([Axis("rate", np.array([1.0, 2.0, 3.0]))], np.array([70.0, 90.0, 80.0]), **ACCURACY, barred=barred)
    (line,) = [line for line in ways.axes[0].lines if line.get_color() == VERMILION]
    assert line.get_ydata() == pytest.approx([1.0, 0.5])
    assert ways.get_suptitle() == "The way of the best of 2 trials that keep the constraints through the space"
    assert len(ways.axes[0].collections[0].get_segments()) == 3


def test_parallel_lines_go_through_what_was_chosen():
    axes_of = [
        Axis("optimizer", np.array([0.0, 1.0, 2.0]), ["adam", "sgd", "rms"]),
        Axis("rate", np.array([1e-4, 1e-2, 1e-3]), log=True),
        Axis("momentum", np.array([NAN, 0.5, 0.9])),
    ]
    figure = parallel_coordinates(axes_of, np.array([50.0, 90.0, 70.0]), **ACCURACY)
    axes = figure.axes[0]
    (best,) = [line for line in axes.lines if line.get_color() == VERMILION]
    assert best.get_ydata() == pytest.approx([0.5 + 0.05, 1.0, 0.0, 1.0]), "the second trial: sgd, the highest rate, the lowest momentum"
    lines = axes.collections[0].get_segments()
    assert len(lines) == 3
    assert lines[0][:, 1] == pytest.approx([1.0 - 0.05, 0.0, -0.13, 0.0]), "the worst is drawn first; it has no momentum"
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["adam", "sgd", "rms", "0.0001", "0.001", "0.01", "none", "0.5", "0.7", "0.9", "50", "70", "90"]
    assert figure.get_suptitle() == "The way of the best of 3 trials through the space"


def test_of_many_trials_the_best_and_an_even_choice_are_drawn():
    axes_of, value = search(2000)
    figure = parallel_coordinates(axes_of, value, **ACCURACY)
    lines = figure.axes[0].collections[0].get_segments()
    assert len(lines) == 500
    ends = np.array([line[-1, 1] for line in lines])
    scaled = (value - value.min()) / (value.max() - value.min())
    assert ends[::-1][:100] == pytest.approx(np.sort(scaled)[::-1][:100])
    assert ends.min() == 0.0, "the worst is there, too"
    assert "500 in all" in figure.axes[0].get_title(loc="left")


def test_importance_is_in_percent_with_what_is_left_over():
    figure = FIGURES["importance"]()
    axes = figure.axes[0]
    assert figure.get_suptitle() == "The largest share: “optimizer.learning_rate”, 70.0 %"
    chance = importance_chart(["activation"], np.array([0.056]), np.array([[0.0, 0.1]]), rest=0.887, note="ANOVA")
    assert chance.get_suptitle() == "The largest share: interactions and chance, 88.7 %"
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([70, 20, 5, 5])
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "interactions and chance"
    assert [text.get_text() for text in axes.texts] == ["70.0 %", "20.0 %", "5.0 %", "5.0 %"]
    low, high = axes.lines
    assert (low.get_xdata().tolist(), high.get_xdata().tolist()) == (pytest.approx([50, 10, 0]), pytest.approx([90, 30, 20]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: level_means({"a": LevelMeans(["x"], np.array([NAN]), *[np.full((1, 2), NAN)] * 2)}, quantity="", note=""),
        lambda: learning_bands([], factor="a", note="", **ACCURACY),
        lambda: optimization_history(np.zeros(0), np.zeros(0), [], **ACCURACY),
        lambda: parallel_coordinates([Axis("a", np.array([1.0]))], np.array([NAN]), **ACCURACY),
    ],
)
def test_nothing_to_draw_is_an_error(make):
    with pytest.raises(ValueError, match="to draw"):
        make()
