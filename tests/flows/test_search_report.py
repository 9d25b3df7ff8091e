"""What a report says, in text, markdown and JSON: the verdict first, true to the numbers, for any sweep at all."""

import json
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
    assert "trials" in lines[0] and "seed" in lines[0]


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
