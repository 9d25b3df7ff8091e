"""What a report says, in text, markdown and JSON: the verdict first, true to the numbers, for any sweep at all."""

import json
import math
import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from sweep_results import ACCURACY, LOSS, initializers, lecture, messy, optimizer_tuning, results, tpe, trial

from flows.config.overrides import parse
from flows.search.quantity import Quantity
from flows.search.report import Report, command, figures, markdown, report, text
from flows.search.results import Range
from flows.search.statistics import TOO_CLOSE
from flows.search.tables import comparison_tables

SWEEPS = {
    "lecture": lecture,
    "initializers": initializers,
    "one seed": lambda: initializers(1),
    "two seeds": lambda: initializers(2),
    "tuning": optimizer_tuning,
    "tuning, not confirmed": lambda: optimizer_tuning(confirm=0),
    "search": tpe,
    "two objectives": lambda: tpe(60, objectives=(ACCURACY, LOSS)),
    "nothing": results,
    "one trial": lambda: results([trial(0, {"activation": "relu"}, 0.9)], factors={"activation": ("relu",)}),
}


def said(made, word):
    """The verdict's or caution's sentence with `word` in it."""
    (sentence,) = [each for each in (*made.verdict, *made.cautions) if word in each]
    return sentence


@pytest.mark.parametrize("make", SWEEPS.values(), ids=SWEEPS.keys())
def test_text_fits_a_terminal_and_begins_with_the_verdict(make):
    made = report(make())
    lines = text(made).split("\n")
    assert all(len(line) <= 100 for line in lines), [line for line in lines if len(line) > 100]
    assert lines[0].startswith(made.name)
    first = " ".join(lines).split("- ", 1)[1]
    assert " ".join(first.split()).startswith(made.verdict[0])
    assert "trial" in lines[0] and "seed" in lines[0]


def test_the_verdict_on_initializers_in_words():
    sweep = initializers()
    made = report(sweep)
    (factor,) = made.factors
    sentence = said(made, "initializer: He (normal) beats")
    won = next(each for each in factor.comparisons if (each.better, each.worse) == ("he_normal", "normalized_xavier"))
    low, high = (100 * end for end in won.interval)
    assert (
        f"from normalized Xavier by {100 * won.difference:.1f} points of accuracy [{low:.1f}, {high:.1f}] to random (normal) by "
        in sentence
    )
    assert sentence.endswith(f"against He (uniform), orthogonal and Xavier (normal): {TOO_CLOSE} (paired over 5 seeds).")
    assert made.verdict[0] == "Best of 8 configurations: initializer=he_normal; validation accuracy 93.1 % [90.8, 95.4] (5 seeds)."
    assert made.verdict[1] == f"Of the other 7, 3 are {TOO_CLOSE} against it."
    # Test metrics 0.92, 0.924 … 0.936: mean 0.928 ± 2.7764 · 0.0063246 / √5
    assert made.verdict[2] == "On the test split, looked at once: accuracy 92.8 % [92.0, 93.6] over 5 seeds."
    assert made.test[0].interval == pytest.approx((0.928 - 0.0078529, 0.928 + 0.0078529), abs=1e-6)
    assert text(made).startswith("initializers-1: 40 of 40 trials, 5 seeds; values are validation accuracy, higher is better\n")


def test_up_to_three_beaten_levels_are_named_one_by_one():
    values = {"relu": (0.90, 0.91, 0.92), "elu": (0.90, 0.911, 0.92), "tanh": (0.80, 0.81, 0.8201), "sigmoid": (0.5, 0.511, 0.521)}
    trials = [
        trial(i, {"activation": a}, v, s) for i, (a, s, v) in enumerate((a, s, v) for a, vs in values.items() for s, v in enumerate(vs))
    ]
    sweep = results(trials, factors={"activation": tuple(values)}, seeds=3)
    sentence = said(report(sweep), "activation: ")
    assert sentence.startswith("activation: ELU beats tanh by 10.03 points of accuracy [")
    assert "] and sigmoid by 39.97 [" in sentence and "against ReLU: too close to call" in sentence


def test_one_seed_is_said_to_say_nothing_about_chance():
    made = report(lecture())
    assert "With one seed nothing here speaks about chance" in said(made, "“beats” means")
    assert all(
        "says nothing about chance" in each for each in made.verdict if each.startswith(("optimizer:", "activation:", "initializer:"))
    )
    assert made.verdict[1] == "Of the other 313 none can be called worse: with fewer than 3 seeds the order may be chance."
    assert "95 % over seeds" not in text(made) and "No interval: one seed says nothing about chance." in text(made)
    alone = report(initializers(1))
    assert (
        f"initializer: {TOO_CLOSE}; He (uniform) has the best value (95.5 %), but one seed of one combination is nothing to test it by."
        in (alone.verdict)
    )


def test_what_did_not_finish_is_counted():
    made = report(lecture(failed=6))
    assert "Without a value: 6 failed, of 320 trials." in said(made, "Without a value")
    assert "34 of 40 combinations (optimizer)" in said(made, "Means are over")
    shown = text(made)
    assert "38, 2 failed" in shown
    assert "6  failed: the loss is NaN at step 134; try a smaller rate" in " ".join(shown.split(" ")), "one reason, whatever the step"
    searched = report(tpe())
    assert "8 pruned, 5 failed and 1 ended without a number" in said(searched, "Without a value")
    assert "look better than they are" in said(searched, "What was pruned")
    assert [(failure.reason, failure.trials) for failure in searched.cost.failures] == [
        ("the loss is infinite at step 7", 3),
        ("out of memory", 2),
    ]
    assert (searched.cost.complete, searched.cost.lost) == (106, 1)
    assert searched.cost.seconds == 2.5 * 120 and searched.cost.samples == 15_000 * 120


def test_optimizers_at_one_rate_each_are_called_unfair_and_tuned_ones_are_not():
    unfair = said(report(lecture()), "unfair")
    assert "one default learning rate" in unfair and "search=optimizer_tuning" in unfair
    assert not any("unfair" in each for each in report(optimizer_tuning()).cautions)
    assert "rates that suit it and others that do not" in said(report(tpe()), "search=optimizer_tuning")
    assert not any("optimizer_tuning" in each for each in report(initializers()).cautions)


def test_tuned_levels_are_confirmed_or_called_optimistic():
    confirmed = report(optimizer_tuning())
    assert "(5 fresh seeds; selected by 94.0 % in the search)" in confirmed.verdict[0]
    assert confirmed.fresh_seeds == 5 and not any("optimistic" in each for each in confirmed.cautions)
    assert "one seed and 5 fresh ones to confirm" in text(confirmed)
    assert "The best of 8 values is partly luck" in said(confirmed, "luck"), "it was the best of the fresh values, too"
    searched = report(optimizer_tuning(confirm=0))
    assert "best of N=10 configurations tuned for it" in said(searched, "optimistic")
    assert not any(each.beats for factor in searched.factors for each in factor.comparisons)


def test_when_everything_failed_the_reason_comes_first():
    trials = [trial(i, {"a": i % 2}, 0.5, state="failed", reason=f"out of memory: {100 + i} MB") for i in range(4)]
    trials.append(trial(4, {"a": 0}, 0.5, state="failed", reason="no such file"))
    made = report(results(trials, factors={"a": (0, 1)}))
    assert made.verdict == ("All 5 trials failed (4 of 5): out of memory: 100 MB",)
    assert command(made) is None and "lab train" not in text(made)
    assert report(results(asked=7)).verdict == ("No trial has ended yet.",)
    pruned = report(results([trial(0, {"a": 0}, 0.5, state="pruned"), trial(1, {"a": 1}, float("nan"))], factors={"a": (0, 1)}))
    assert pruned.verdict == ("No trial ended with a value: 1 pruned, 0 failed, 1 ended without a number.",)


def test_ties_and_missing_seeds_are_said():
    trials = [
        trial(0, {"a": 1}, 0.9),
        trial(1, {"a": 2}, 0.9),
        trial(2, {"a": 1}, 0.9, 1),
        trial(3, {"a": 2}, 0.9, 1),
        trial(4, {"a": 3}, 0.99),
    ]
    made = report(results(trials, factors={"a": (1, 2, 3)}, seeds=2, asked=6))
    assert "a=1" in made.verdict[0]
    assert "2 configurations share the best mean" in said(made, "share the best")
    assert said(made, "lack of a seed") == "Not competing, for lack of a seed: 1 configuration."
    assert said(made, "Unfinished") == "Unfinished: 5 of 6 trials have ended."


def test_the_command_is_ready_for_a_shell_and_means_the_chosen_configuration():
    params = {
        "optimizer": "adam",
        "optimizer.learning_rate": 0.1 + 0.2,
        "model.hidden": [256, 128],
        "data.note": "it's, [a] $HOME",
        "trainer.clip_norm": None,
        "x.flag": True,
    }
    sweep = results([trial(0, params, 0.9)], overrides=("experiment=mlp_mnist", "optimizer=sgd", "model.dropout=0.5"))
    line = command(report(sweep))
    words = shlex.split(line)
    assert words[:4] == ["lab", "train", "experiment=mlp_mnist", "model.dropout=0.5"]
    assert dict(parse(word) for word in words[4:]) == params
    assert "'model.hidden=[256,128]'" in line and "trainer.clip_norm=null" in line and "optimizer.learning_rate=0.30000000000000004" in line
    shown = text(report(sweep))
    printed = shown.split("Train the best configuration:")[1].split("Before")[0].split("What")[0].split("Best")[0].replace("\\\n", " ")
    assert shlex.split(printed) == words, "line by line it is the same command"


def test_markdown_has_tables_with_as_many_cells_as_heads():
    shown = markdown(report(lecture()))
    assert shown.startswith("# lecture-1: 320 of 320 trials")
    assert shown.index("- Best of 314") < shown.index("| ")
    assert "```sh\nlab train experiment=mlp\\_mnist" not in shown and "```sh\nlab train experiment=mlp_mnist" in shown
    tables = [block.split("\n") for block in shown.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 8
    for head, rule, *rows in tables:
        assert set(rule) <= set("|-: ")
        assert rows and all(row.replace(r"\|", "").count("|") == head.count("|") for row in rows)
    assert "too close to call" in shown


def test_json_holds_everything_and_no_nan():
    made = report(tpe(60, objectives=(ACCURACY, LOSS)))
    found = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert found["ranking"]["chosen"]["params"] == dict(made.ranking.chosen.params)
    assert found["factors"][0]["levels"][0]["mean"] == made.factors[0].levels[0].mean
    assert found["command"] == made.command and found["cost"]["complete"] == made.cost.complete
    assert found["ranking"]["front_size"] == made.ranking.front_size >= 1
    assert "Pareto front" in text(made)


def test_the_same_results_give_the_same_report():
    assert report(tpe()) == report(tpe())
    assert report(lecture()) == report(lecture())


def test_figures_are_named_and_only_those_there_is_something_for():
    sweep = lecture()
    drawn = figures(sweep, report(sweep))
    curves = {f"sweep/curves_{key}" for key in ("optimizer", "activation", "initializer")}
    assert set(drawn) == {"sweep/levels", "sweep/heatmap", "sweep/importance", "sweep/history", "sweep/parallel"} | curves
    assert [axes.get_title(loc="left") for axes in drawn["sweep/heatmap"].axes[:2]] == ["optimizer: adadelta", "optimizer: adagrad"]
    cell = drawn["sweep/heatmap"].axes[0].texts[0].get_text()
    first = next(each for each in sweep.trials if list(each.params.values()) == ["adadelta", "sigmoid", "he_normal"])
    assert cell == f"{100 * first.values[0]:.1f}"
    assert figures(results(), report(results())) == {}
    alone = initializers()
    assert "sweep/heatmap" not in figures(alone, report(alone))


def test_quantities_are_read_as_people_read_them():
    accuracy, loss = Quantity("validation/accuracy", "max"), Quantity("validation/loss", "min")
    assert (accuracy.name, accuracy.split, accuracy.axis, accuracy.value(0.96234)) == (
        "accuracy",
        "validation",
        "validation accuracy (%)",
        "96.2 %",
    )
    assert accuracy.lead(0.021, (0.012, 0.03)) == "2.1 points of accuracy [1.2, 3.0]"
    assert accuracy.lead(0.21, (0.12, 0.3)) == "21 points of accuracy [12, 30]"
    assert loss.lead(0.12, (0.05, 0.19)) == "0.12 of loss [0.05, 0.19]"
    assert Quantity("seconds", "min").lead(3.0, None) == "3.0 s"
    assert Quantity("validation/top5_accuracy", "max").value(0.5) == "50.0 %"
    assert (loss.value(None), loss.span(None), loss.value(0.123456)) == ("–", "–", "0.1235")
    assert loss.span((-0.0001, 0.5)) == "[0.00, 0.50]"
    assert accuracy.span((0.525, 1.231)) == "[52.5, 100.0]"
    assert accuracy.lead(0.5, (-0.3, 1.3)) == "50 points of accuracy [-30, 100]"
    assert [Quantity(name, "min").possible((-1.0, 3.0)) for name in ("nll", "validation/perplexity", "seconds", "score")] == [
        *((0.0, 3.0), (1.0, 3.0), (0.0, 3.0), (-1.0, 3.0))
    ]
    assert loss.possible((-3.0, 1.0)) == (-3.0, 1.0), "values that should not be are not hidden"
    assert (accuracy.interval((0.953, 0.953)), accuracy.lead(0.01, (0.01, 0.01), unit=False)) == ("–", "1.0")


def test_how_often_the_test_split_was_looked_at_is_said():
    for tested in (0, 1):
        once = report(replace(initializers(), tested=tested))
        assert said(once, "test split").startswith("On the test split, looked at once: accuracy 92.8 %")
        assert "looked at for the chosen configuration only, after it was chosen." in " ".join(text(once).split())
    often = report(replace(initializers(), tested=3))
    assert said(often, "test split") == (
        "On the test split, looked at for 3 configurations by now, as more trials changed the choice, and therefore a little optimistic: "
        "accuracy 92.8 % [92.0, 93.6] over 5 seeds."
    )
    shown = " ".join(text(often).split())
    assert "has been looked at for 3 configurations by now" in shown and "these numbers are therefore a little optimistic" in shown
    assert "looked at once" not in shown and "only, after it was chosen" not in shown


def test_how_a_tie_was_broken_is_said():
    def tie(*values):
        trials = [trial(i, {"a": i}, each) for i, each in enumerate(values)]
        return said(report(results(trials, factors={"a": tuple(range(len(values)))}, objectives=(ACCURACY, LOSS))), "share the best")

    assert tie((0.9, 0.3), (0.9, 0.2)) == "2 configurations share the best mean; validation/loss decided between them."
    assert tie((0.9, 0.2), (0.9, 0.2)) == (
        "2 configurations share the best mean of every objective; the one that was run first was chosen."
    )
    assert tie((0.9, 0.3), (0.9, 0.2), (0.9, 0.2)) == (
        "3 configurations share the best mean; validation/loss decided between them, "
        "and of the 2 alike in all the one that was run first was chosen."
    )


def test_what_breaks_a_constraint_is_said_to():
    trials = [trial(0, {"activation": "relu"}, 0.8), trial(1, {"activation": "tanh"}, 0.97, feasible=False)]
    sweep = results(trials, factors={"activation": ("relu", "tanh")})
    made = report(sweep)
    assert made.verdict[0] == ("The only configuration that keeps the constraints: activation=relu; validation accuracy 80.0 % (one seed).")
    assert "tanh (breaks a constraint) has the best value (97.0 %)" in said(made, "activation: ")
    assert said(made, "Not competing") == (
        "Not competing, as it breaks a constraint: 1 configuration. Means of levels count such trials, too."
    )
    assert "Breaking a constraint: tanh." in text(made)
    drawn = figures(sweep, made)
    assert drawn["sweep/levels"].get_suptitle() == "Best mean: tanh (activation); one seed; breaking a constraint: tanh"
    assert drawn["sweep/history"].get_suptitle() == "The best single trial that keeps the constraints is number 0: 80"
    short = [*trials, trial(2, {"activation": "elu"}, 0.9), trial(3, {"activation": "relu"}, 0.8, 1)]
    assert (
        report(results(short, factors={"activation": ("relu", "tanh", "elu")}, seeds=2))
        .verdict[0]
        .startswith("The only configuration that keeps the constraints and has all its seeds: activation=relu;")
    )
    assert report(results(trials[:1], factors={"activation": ("relu",)})).verdict[0].startswith("The only configuration with a value: ")
    assert report(results(trials[1:], factors={"activation": ("tanh",)})).verdict == (
        "Nothing was chosen: the only configuration that finished breaks a constraint.",
    )


def test_no_promise_about_chance_where_seeds_are_not_what_is_tested():
    values = {level: 0.5 + i / 10 for i, level in enumerate("pqr")}
    trials = [
        trial(0, {"x": level, "y": block}, values[level] + block / 100 + seed / 1000, seed)
        for level in "pqr"
        for block in range(8)
        for seed in range(3)
    ]
    trials = [replace(each, number=i) for i, each in enumerate(trials)]
    factors = {"x": tuple("pqr"), "y": tuple(range(8))}
    over_seeds = report(results(trials, factors=factors, seeds=3)).cautions
    assert any("at most one report in twenty" in each for each in over_seeds)
    assert not any("about chance" in each for each in over_seeds)
    two = report(results([each for each in trials if each.seed < 2], factors=factors, seeds=2)).cautions
    assert any(each.startswith("With 2 seeds nothing here speaks about chance") for each in two)
    assert not any("one report in twenty" in each for each in two)
    assert any(each.startswith("Verdicts allow for all 31 comparisons together (Holm). Intervals") for each in two)
    mixed = report(results([each for each in trials if each.params["x"] != "r" or each.seed < 2], factors=factors, seeds=3))
    (about,) = [each for each in mixed.cautions if "about chance" in each]
    assert about.startswith("Where combinations are what is counted (")
    assert "; of those over seeds, at most one report in twenty" in said(mixed, "Holm")


def test_what_is_shown_stays_within_what_the_quantity_can_be():
    # 0.99, 0.80: mean 0.895 ± 12.7062 · 0.19 / 2, and 0.7, 0.9: 0.8 ± 1.27: the statistics go beyond 1, what is shown does not.
    trials = [trial(i, {"a": a}, value, i % 2) for i, (a, value) in enumerate([("x", 0.99), ("x", 0.80), ("y", 0.7), ("y", 0.9)])]
    sweep = results(trials, factors={"a": ("x", "y")}, seeds=2, test={0: {"test/nll": 0.1}, 1: {"test/nll": 0.5}})
    made = report(sweep)
    assert made.ranking.chosen.interval == pytest.approx((0.895 - 12.7062 * 0.095, 0.895 + 12.7062 * 0.095), abs=1e-4)
    assert made.verdict[0] == "Best of 2 configurations: a=x; validation accuracy 89.5 % [0.0, 100.0] (2 seeds)."
    assert "NLL 0.3 [0.0, 2.8] over 2 seeds" in made.verdict[2]
    drawn = figures(sweep, made)
    low, high, _ = drawn["sweep/levels"].axes[0].lines
    assert (low.get_xdata().tolist(), high.get_xdata().tolist()) == ([0, 0], [100, 100])
    for collection in drawn["sweep/curves_a"].axes[0].collections:
        heights = collection.get_paths()[0].vertices[:, 1]
        assert heights.min() >= 0 and heights.max() <= 100


def test_equal_values_are_no_certainty():
    trials = [trial(i, {"a": a}, value, i % 3) for i, (a, value) in enumerate([("x", 0.953)] * 3 + [("y", 0.943)] * 3)]
    sweep = results(trials, factors={"a": ("x", "y")}, seeds=3, test={seed: {"test/accuracy": 0.9} for seed in range(3)})
    made = report(sweep)
    assert made.verdict[0] == "Best of 2 configurations: a=x; validation accuracy 95.3 % (3 seeds, all with the same value)."
    assert made.verdict[2] == "On the test split, looked at once: accuracy 90.0 % over 3 seeds, all with the same value."
    for shown in (text(made), markdown(made)):
        assert "[95" not in shown and "[90" not in shown and "one seed says" not in shown
        assert " ".join(shown.split()).count("all seeds gave the same value, which makes it no more certain") == 3
    assert all("[" not in row[2] for table in comparison_tables(made) for row in table.rows)
    ends = [line.get_xdata() for line in figures(sweep, made)["sweep/levels"].axes[0].lines[:2]]
    assert all(math.isnan(end) for line in ends for end in line)


def test_one_is_not_many():
    def sweep(*levels):
        trials = [trial(0, {"a": a}, value, seed) for a, values in enumerate(levels) for seed, value in enumerate(values)]
        trials = [replace(each, number=i) for i, each in enumerate(trials)]
        return report(results(trials, factors={"a": tuple(range(len(levels)))}, seeds=len(levels[0])))

    good, close, bad = (0.9, 0.91, 0.92), (0.9, 0.911, 0.919), (0.3, 0.311, 0.321)
    assert sweep(good, bad).verdict[1] == "It beats the other one."
    assert sweep(good, close).verdict[1] == f"The other one is {TOO_CLOSE} against it."
    assert sweep(good, close, bad).verdict[1] == f"Of the other 2, one is {TOO_CLOSE} against it."
    assert sweep((0.9,), (0.8,)).verdict[1].startswith("The other one cannot be called worse: ")
    alone = text(sweep((0.9,)))
    assert "1 configuration competed." in alone and "1 of 1 trial, one seed" in alone and "1  trial that finished" in alone
    for made in (sweep(good, bad), sweep(good, close), sweep(good, close, bad), sweep((0.9,), (0.8,)), sweep((0.9,))):
        assert not re.search(r"\b1 (trials|configurations|seeds|are|others)\b", text(made) + markdown(made))


def test_which_value_of_a_trial_counts_is_said_once():
    assert said(report(initializers()), "best epoch") == (
        "The value of a trial is that of its best epoch by the metric that training monitors; learning curves show every epoch."
    )
    assert not any("epoch" in each for each in report(results(asked=3)).cautions)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(messy())
def test_no_sweep_is_too_messy(sweep):
    made = report(sweep)
    assert isinstance(made, Report) and made.verdict
    json.dumps(made.as_json(), allow_nan=False)
    lines = text(made).split("\n")
    start = next((i for i, line in enumerate(lines) if line == "Train the best configuration:"), None)
    assert all(len(line) <= 100 for line in (lines if start is None else lines[:start])), [line for line in lines if len(line) > 100]
    assert markdown(made).startswith("# ")
    for factor in made.factors:
        for each in factor.comparisons:
            assert each.beats == (each.verdict != TOO_CLOSE)
            assert not each.beats or (each.adjusted <= 0.05 and each.interval[0] > 0)
        assert sum(level.complete + level.pruned + level.failed + level.lost for level in factor.levels) == sum(
            factor.key in each.params for each in sweep.trials
        )
    assert made.cost.complete + made.cost.pruned + made.cost.failed + made.cost.lost == len(sweep.trials)
    if made.ranking.chosen is not None:
        assert shlex.split(made.command)[:2] == ["lab", "train"]


def test_a_range_that_was_left_behind_does_not_matter():
    sweep = replace(tpe(60), ranges={"optimizer.learning_rate": Range(0.01, 0.02, log=True), "never.run": Range(0, 1)})
    assert report(sweep).importance.shares[0].key == "optimizer.learning_rate"


def test_how_trials_were_trained_is_said_where_somebody_chose():
    why = "stacked 32 at a time takes 87 µs a step and trial, one by one 1422 µs"
    (together,) = [each for each in report(results(together=True, why=why, asked=3)).cautions if "trained" in each]
    assert together.startswith(f"Trials were trained together: {why}. One that is trained again alone comes to the same numbers but for")
    (alone,) = [each for each in report(results(together=False, why="why not", asked=3)).cautions if "trained" in each]
    assert alone == "Trials were trained one by one: why not."
    assert not any("trained" in each for each in report(results(asked=3)).cautions)
