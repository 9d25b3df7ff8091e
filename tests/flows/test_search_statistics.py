"""What is said about levels, configurations and keys: numbers worked by hand, agreement with SciPy, and how often it is wrong."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sweep_results import (
    ACCURACY,
    INITIALIZERS,
    LOSS,
    grid,
    initializers,
    large,
    large_search,
    lecture,
    optimizer_tuning,
    results,
    tpe,
    trial,
)

from flows.search.importance import importance
from flows.search.outcomes import gather
from flows.search.paired import holm, paired_t, signed_rank, t_interval
from flows.search.ranking import chosen, rank
from flows.search.results import Range
from flows.search.statistics import NO_TEST, OVER_COMBINATIONS, OVER_SEEDS, TOO_CLOSE, factors


def table(values, key="activation", block=None):
    """A sweep from level → block → values of seed 0, 1, …; None is a failed trial, "pruned" a pruned one."""
    trials = []
    for level, of_block in values.items():
        for name, of_seed in of_block.items():
            for seed, value in enumerate(of_seed):
                params = {key: level} | ({block: name} if block else {})
                if value is None or value == "pruned":
                    trials.append(
                        trial(len(trials), params, 0.5, seed, state="failed" if value is None else "pruned", reason="out of memory")
                    )
                else:
                    trials.append(trial(len(trials), params, value, seed))
    blocks = {block: tuple(dict.fromkeys(itertools.chain(*values.values())))} if block else {}
    return results(trials, factors={key: tuple(values), **blocks}, seeds=max(len(each) for of in values.values() for each in of.values()))


def level(factor, name):
    return next(each for each in factor.levels if each.name == name)


def pair(factor, *names):
    return next(each for each in factor.comparisons if {each.better, each.worse} == set(names))


# ---------------------------------------------------------------- tests and intervals


def test_the_paired_t_is_scipys():
    noise = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        one, other = noise.normal(0.3, 1, count), noise.normal(0, 1, count)
        theirs = stats.ttest_rel(one, other)
        ours = paired_t(one - other)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
        assert ours.estimate == pytest.approx((one - other).mean())


def test_an_interval_by_hand():
    # mean 2, standard deviation 1, three values: 2 ± 4.3027 / √3
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert t_interval(np.array([1.0])) is None


def test_differences_that_are_all_the_same_are_judged_by_their_signs():
    # Three seeds whose accuracy differs by one example each: t would be infinite and p 0.
    assert paired_t(np.array([0.01, 0.01, 0.01])).p == 0.25
    assert paired_t(np.full(6, -0.01)).p == pytest.approx(2 / 64)
    assert paired_t(np.zeros(4)).p == 1.0


@pytest.mark.parametrize("count", [1, 2, 5, 6, 13, 30, 50, 51, 200])
def test_the_signed_rank_test_is_scipys(count):
    differences = np.random.default_rng(count).normal(0.2, 1, count)
    method = "exact" if count <= 50 else "asymptotic"
    assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method=method).pvalue)


@pytest.mark.parametrize("count", [3, 6, 8, 9])
def test_tied_differences_are_counted_exactly_as_scipy_does_by_trying_all_signs(count):
    differences = np.round(np.random.default_rng(count).normal(0.5, 1, count), 0)
    differences[0] = 1.0
    known = differences[differences != 0]
    theirs = stats.wilcoxon(known, method=stats.PermutationMethod(n_resamples=10_000)).pvalue
    assert signed_rank(differences).p == pytest.approx(min(theirs, 1.0))


@pytest.mark.parametrize("count", [6, 7, 12, 40, 60, 101])
def test_the_estimate_is_the_median_of_averages_and_the_interval_agrees_with_the_test(count):
    differences = np.random.default_rng(count).normal(0.25, 1, count)
    averages = np.sort([(differences[i] + differences[j]) / 2 for i in range(count) for j in range(i, count)])
    ours = signed_rank(differences)
    assert ours.estimate == pytest.approx(np.median(averages))
    low, high = ours.interval
    assert np.isclose(averages, low).any() and np.isclose(averages, high).any()
    for shift, refused in ((low - 1e-6, True), (low + 1e-6, False), (high - 1e-6, False), (high + 1e-6, True)):
        assert (signed_rank(differences - shift).p <= 0.05) == refused


def test_five_combinations_have_no_interval_and_cannot_decide():
    ours = signed_rank(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (ours.estimate, ours.interval, ours.p) == (3.0, None, 0.0625)
    assert signed_rank(np.arange(1.0, 7.0)).interval == (1.0, 6.0)
    assert signed_rank(np.zeros(8)).p == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02], family=10) == pytest.approx([0.1, 0.18])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# ---------------------------------------------------------------- levels


def test_means_and_intervals_of_levels_by_hand():
    sweep = table(
        {"relu": {"b": [0.90, 0.92, 0.94], "c": [0.80, 0.82, 0.84]}, "tanh": {"b": [0.7, 0.7, 0.7], "c": [0.6, 0.6, 0.6]}}, block="x"
    )
    factor = factors(sweep)[0]
    relu = level(factor, "relu")
    # Seeds: 0.85, 0.87, 0.89: mean 0.87 ± 4.3027 · 0.02 / √3
    assert relu.mean == pytest.approx(0.87)
    assert relu.interval == pytest.approx((0.87 - 0.049683, 0.87 + 0.049683), abs=1e-5)
    assert relu.spread == pytest.approx((0.845, 0.895))
    assert (relu.seeds, relu.combinations, relu.complete, relu.matched) == (3, 2, 6, True)
    assert [each.name for each in factor.levels] == ["relu", "tanh"]
    assert factor.basis == "same conditions" and factor.combinations == 2


def test_one_seed_has_no_interval_but_a_spread():
    factor = factors(table({"relu": {"b": [0.9], "c": [0.8]}, "tanh": {"b": [0.7], "c": [0.6]}}, block="x"))[0]
    assert level(factor, "relu").interval is None
    assert level(factor, "relu").spread == pytest.approx((0.825, 0.875))
    only = factors(table({"relu": {"": [0.9]}, "tanh": {"": [0.7]}}))[0]
    assert (only.levels[0].interval, only.levels[0].spread) == (None, None)
    assert (only.comparisons[0].test, only.comparisons[0].p, only.comparisons[0].verdict) == (NO_TEST, None, TOO_CLOSE)


def test_a_level_is_compared_only_in_combinations_that_both_finished():
    sweep = table(
        {
            "relu": {"b": [0.9, 0.9, 0.9], "c": [0.5, 0.5, 0.5], "d": [None, 0.8, 0.8]},
            "tanh": {"b": [0.8, 0.81, 0.79], "c": ["pruned", None, None], "d": [0.7, 0.7, 0.72]},
        },
        block="x",
    )
    factor = factors(sweep)[0]
    # c would make relu look bad: tanh never finished there.
    assert level(factor, "relu").mean == pytest.approx(0.9)
    assert (level(factor, "relu").combinations, factor.combinations) == (1, 3)
    tanh = level(factor, "tanh")
    assert (tanh.complete, tanh.pruned, tanh.failed, tanh.lost) == (6, 1, 2, 0)
    compared = pair(factor, "relu", "tanh")
    assert (compared.pairs, compared.left_out, compared.test, compared.units) == (5, 4, OVER_SEEDS, 3)
    # Seed 0: only b, 0.1; seed 1: (0.09 + 0.1) / 2; seed 2: (0.11 + 0.08) / 2
    expected = stats.ttest_1samp([0.1, 0.095, 0.095], 0)
    assert compared.p == pytest.approx(expected.pvalue)
    assert compared.difference == pytest.approx(0.29 / 3)


def test_a_comparison_is_scipys_over_seeds_and_over_combinations():
    noise = np.random.default_rng(8)
    values = {name: {block: list(noise.normal(0.5 + shift, 0.1, 4)) for block in "pqrstuvw"} for name, shift in (("a", 0.1), ("b", 0.0))}
    one, other = (np.array(list(values[name].values())) for name in "ab")
    over_seeds = factors(table(values, block="x"))[0].comparisons[0]
    assert (over_seeds.test, over_seeds.units, over_seeds.pairs) == (OVER_SEEDS, 4, 32)
    assert over_seeds.p == pytest.approx(stats.ttest_rel(one.mean(0), other.mean(0)).pvalue)
    two = {name: {block: of[:2] for block, of in blocks.items()} for name, blocks in values.items()}
    over_combinations = factors(table(two, block="x"))[0].comparisons[0]
    assert (over_combinations.test, over_combinations.units) == (OVER_COMBINATIONS, 8)
    assert over_combinations.p == pytest.approx(stats.wilcoxon(one[:, :2].mean(1), other[:, :2].mean(1)).pvalue)


def test_a_verdict_names_winner_and_interval_and_everything_else_is_too_close_to_call():
    noise = np.random.default_rng(0)
    sweep = table(
        {name: {"": list(mean + noise.normal(0, 0.001, 5))} for name, mean in (("relu", 0.90), ("elu", 0.9002), ("sigmoid", 0.80))}
    )
    factor = factors(sweep)[0]
    verdicts = {frozenset((each.better, each.worse)): each.verdict for each in factor.comparisons}
    assert verdicts[frozenset(("relu", "elu"))] == TOO_CLOSE == "too close to call"
    won = pair(factor, "relu", "sigmoid")
    low, high = (100 * end for end in won.interval)
    assert won.verdict == f"relu beats sigmoid by {100 * won.difference:.2f} points of accuracy [{low:.2f}, {high:.2f}]"
    assert won.p < won.adjusted < 0.001


def test_less_is_better_where_the_objective_says_so():
    sweep = replace(table({"a": {"": [0.2, 0.21, 0.19]}, "b": {"": [0.5, 0.52, 0.49]}}), objectives=(LOSS,))
    (factor,) = factors(sweep)
    assert [each.name for each in factor.levels] == ["a", "b"]
    assert level(factor, "a").interval == pytest.approx((0.2 - 0.024841, 0.2 + 0.024841), abs=1e-5)
    (compared,) = factor.comparisons
    assert (compared.better, compared.difference) == ("a", pytest.approx(0.91 / 3))
    assert compared.interval[0] > 0
    assert compared.verdict.startswith("a beats b by 0.303 of loss [0.2")


def test_corrected_for_all_comparisons_of_all_factors():
    found = factors(lecture())
    compared = [each for factor in found for each in factor.comparisons]
    assert len(compared) == 28 + 10 + 28
    assert [each.adjusted for each in compared] == pytest.approx(holm([each.p for each in compared]))


def test_what_is_no_number_is_left_out_and_counted():
    sweep = table({"a": {"": [0.9, math.nan, 0.9, 0.91]}, "b": {"": [0.8, 0.8, math.inf, 0.82]}})
    factor = factors(sweep)[0]
    assert (level(factor, "a").complete, level(factor, "a").lost) == (3, 1)
    assert (factor.comparisons[0].pairs, factor.comparisons[0].left_out) == (2, 2)
    assert level(factor, "a").mean == pytest.approx(0.905), "the seeds that both have"


def test_a_level_that_hardly_finished_is_set_aside_instead_of_spoiling_the_others():
    values = {name: {block: [0.8] for block in "pqrstu"} for name in ("a", "b")}
    values["c"] = {block: [0.95 if block == "p" else None] for block in "pqrstu"}
    factor = factors(table(values, block="x"))[0]
    assert [(each.name, each.matched, each.combinations) for each in factor.levels] == [("c", False, 1), ("a", True, 6), ("b", True, 6)]


def test_levels_that_never_met_are_not_compared():
    sweep = tpe()
    factor = factors(sweep)[0]
    assert factor.basis == "own conditions"
    assert {each.test for each in factor.comparisons} == {NO_TEST}
    assert all(each.pairs == 0 and each.verdict == TOO_CLOSE for each in factor.comparisons)
    ran = [each for each in sweep.trials if each.params["optimizer"] == "adam"]
    values = [each.values[0] for each in ran if each.state == "complete" and math.isfinite(each.values[0])]
    assert level(factor, "adam").mean == pytest.approx(np.mean(values))
    assert all(len(ran) == each.complete + each.pruned + each.failed + each.lost for each in factor.levels if each.name == "adam")


def test_choices_that_only_one_level_has_are_averaged_within_it():
    trials = []
    for block in "pqrstuv":
        trials += [trial(len(trials), {"optimizer": "adam", "x": block}, 0.8)]
        trials += [trial(len(trials) + i, {"optimizer": "momentum", "x": block, "m": m}, 0.7 + m / 10) for i, m in enumerate((0.5, 0.9))]
    sweep = results(trials, factors={"optimizer": ("adam", "momentum"), "x": tuple("pqrstuv"), "m": (0.5, 0.9)})
    factor = factors(sweep)[0]
    assert level(factor, "momentum").mean == pytest.approx(0.77)
    assert factor.comparisons[0].difference == pytest.approx(0.03)


def test_tuned_levels_are_compared_on_fresh_seeds_of_their_best():
    sweep = optimizer_tuning()
    (factor,) = factors(sweep)
    assert factor.basis == "confirmed"
    adam = level(factor, "adam")
    best = max(
        (each for each in sweep.trials if each.params["optimizer"] == "adam" and each.phase == "search"), key=lambda each: each.values
    )
    fresh = [each.values[0] for each in sweep.trials if each.params == best.params and each.phase == "confirm"]
    assert (len(fresh), adam.seeds) == (5, 5)
    assert adam.mean == pytest.approx(np.mean(fresh))
    assert adam.settings == {"optimizer.learning_rate": best.params["optimizer.learning_rate"]}
    assert (adam.configurations, adam.complete) == (10, 15)
    adagrad = next(each for each in factor.comparisons if {each.better, each.worse} == {"adam", "adagrad"})
    assert (adagrad.test, adagrad.units) == (OVER_SEEDS, 5)


def test_without_fresh_seeds_each_level_stands_with_its_best_and_nothing_is_claimed():
    sweep = optimizer_tuning(confirm=0)
    (factor,) = factors(sweep)
    assert factor.basis == "best of tuned"
    values = [each.values[0] for each in sweep.trials if each.params["optimizer"] == "adam"]
    assert level(factor, "adam").mean == pytest.approx(max(values))
    assert {each.test for each in factor.comparisons} == {NO_TEST}


# ---------------------------------------------------------------- configurations


def test_only_configurations_with_all_their_seeds_compete():
    sweep = table({"a": {"": [0.9, 0.9]}, "b": {"": [0.99, None]}, "c": {"": [0.8, 0.8]}})
    ranking = rank(sweep)
    assert ranking.chosen.params == {"activation": "a"}
    assert (ranking.competing, ranking.incomplete) == (2, 1)
    none = rank(table({"a": {"": [0.9, None]}, "b": {"": [None, 0.95]}}))
    assert (none.chosen.params, none.chosen.complete, none.competing) == ({"activation": "b"}, False, 2)


def test_equal_means_are_decided_by_the_first_trial():
    ranking = rank(table({"a": {"": [0.8, 0.8]}, "b": {"": [0.9, 0.9]}, "c": {"": [0.9, 0.9]}}))
    assert (ranking.chosen.params, ranking.tied) == ({"activation": "b"}, 2)


def test_equal_means_are_decided_by_the_following_objectives_before_the_first_trial():
    objectives = (ACCURACY, replace(LOSS, metric="seconds"), LOSS)
    values = [(0.9, 5.0, 0.3), (0.9, 3.0, 0.4), (0.9, 3.0, 0.2), (0.9, 3.0, 0.2), (0.8, 1.0, 0.1), (0.9, math.nan, 0.1)]
    sweep = results([trial(i, {"a": i}, each) for i, each in enumerate(values)], factors={"a": tuple(range(6))}, objectives=objectives)
    ranking = rank(sweep)
    assert [each.params["a"] for each in ranking.best] == [2, 3, 1, 0, 5, 4]
    assert (ranking.chosen.params, ranking.tied, ranking.alike) == ({"a": 2}, 5, 2)
    assert ranking.chosen in ranking.front, "nothing is chosen that another beats in every objective"
    assert [each.params["a"] for each in ranking.front] == [2, 3, 4]


def test_a_level_breaks_a_constraint_where_all_its_configurations_do():
    trials = [
        trial(i, {"a": a, "b": b}, 0.5 + i / 10, feasible=(a, b) != (1, 2) and a != 3)
        for i, (a, b) in enumerate(itertools.product((1, 2, 3), (1, 2)))
    ]
    (factor, _) = factors(results(trials, factors={"a": (1, 2, 3), "b": (1, 2)}))
    assert {each.value: each.allowed for each in factor.levels} == {1: True, 2: True, 3: False}


def test_what_breaks_a_constraint_is_never_chosen():
    trials = [trial(0, {"a": 1}, 0.9, feasible=False), trial(1, {"a": 2}, 0.8), trial(2, {"a": 3}, 0.7, state="failed", feasible=False)]
    ranking = rank(results(trials, factors={"a": (1, 2, 3)}))
    assert (ranking.chosen.params, ranking.infeasible) == ({"a": 2}, 1)
    assert chosen(results(trials[:1], factors={"a": (1, 2)})) is None


def test_the_smallest_is_chosen_where_less_is_better():
    sweep = replace(table({"a": {"": [0.9, 0.9]}, "b": {"": [0.2, 0.3]}}), objectives=(LOSS,))
    assert chosen(sweep).params == {"activation": "b"}
    assert chosen(sweep).mean == pytest.approx(0.25)


def test_rivals_of_a_sweep_of_one_factor_have_the_verdicts_of_its_levels():
    sweep = initializers()
    found = factors(sweep)
    ranking = rank(sweep, found)
    assert ranking.chosen.params == {"initializer": found[0].levels[0].name}
    by_level = {rival.params["initializer"]: rival for rival in ranking.rivals}
    assert len(by_level) == ranking.judged == 7
    for other, rival in by_level.items():
        compared = pair(found[0], ranking.chosen.params["initializer"], other)
        assert (rival.close, rival.adjusted, rival.lead) == (not compared.beats, compared.adjusted, compared.difference)
    assert ranking.close == sum(rival.close for rival in ranking.rivals)


def test_rivals_are_corrected_for_every_pair_that_might_have_come_first():
    noise = np.random.default_rng(3)
    means = {("a", "p"): 0.9, ("a", "q"): 0.899, ("b", "p"): 0.7, ("b", "q"): 0.5}
    sweep = grid({"x": ("a", "b"), "y": ("p", "q")}, lambda params, seed: means[params["x"], params["y"]] + noise.normal(0, 0.002), 5)
    ranking = rank(sweep, factors(sweep))
    by_params = {tuple(rival.params.values()): rival for rival in ranking.rivals}
    rows = {key: [each.values[0] for each in sweep.trials if tuple(each.params.values()) == key] for key in means}
    best = tuple(ranking.chosen.params.values())
    p = {key: stats.ttest_rel(rows[best], values).pvalue for key, values in rows.items() if key != best}
    assert [by_params[key].adjusted for key in p] == pytest.approx(holm(list(p.values()), family=6))
    assert by_params["a", "q" if best == ("a", "p") else "p"].close and not by_params["b", "q"].close


def test_one_seed_makes_no_rival_worse():
    ranking = rank(lecture())
    assert (ranking.rivals, ranking.judged, ranking.competing) == ((), 0, 314)


def test_a_confirmed_configuration_has_the_value_of_its_fresh_seeds():
    trials = [trial(0, {"a": 1.5}, 0.95), trial(1, {"a": 2.5}, 0.9)]
    trials += [trial(2 + i, {"a": 1.5}, value, seed=1 + i, phase="confirm") for i, value in enumerate((0.88, 0.9, 0.92))]
    best = chosen(results(trials, ranges={"a": Range(1, 3)}))
    assert (best.params, best.mean, best.selected_by) == ({"a": 1.5}, pytest.approx(0.9), 0.95)
    assert (best.phase, best.seeds) == ("confirm", (1, 2, 3))


def test_the_pareto_front_of_two_objectives():
    values = [(0.9, 10.0), (0.8, 5.0), (0.85, 12.0), (0.7, 5.0), (0.6, 1.0), (0.95, math.nan)]
    sweep = results(
        [trial(i, {"a": i}, each) for i, each in enumerate(values)],
        factors={"a": tuple(range(6))},
        objectives=(ACCURACY, replace(LOSS, metric="seconds")),
    )
    ranking = rank(sweep)
    assert [each.params["a"] for each in ranking.front] == [0, 1, 4]
    assert ranking.chosen.params == {"a": 5}, "the first objective decides"
    assert ranking.front[0].means == (0.9, 10.0)


def test_a_repeated_trial_counts_once():
    trials = [trial(0, {"a": 1}, 0.5, state="failed"), trial(1, {"a": 1}, 0.7), trial(2, {"a": 1.0}, 0.9)]
    outcomes = gather(results(trials))
    assert (len(outcomes.configurations), outcomes.values.tolist(), outcomes.repeated) == (1, [[0.7]], 2)


# ---------------------------------------------------------------- importance


def test_importance_of_a_whole_grid_is_the_share_of_the_sums_of_squares():
    effect = {"a": {"p": 0.0, "q": 0.3}, "b": {"r": 0.0, "s": 0.1, "t": 0.2}}
    noise = np.random.default_rng(0)
    sweep = grid(
        {"a": ("p", "q"), "b": ("r", "s", "t")},
        lambda params, seed: sum(effect[k][v] for k, v in params.items()) + noise.normal(0, 0.02),
        4,
    )
    values = np.array([each.values[0] for each in sweep.trials]).reshape(4, 2, 3)
    total = ((values - values.mean()) ** 2).sum()
    of_a = 12 * ((values.mean((0, 2)) - values.mean()) ** 2).sum() / total
    of_b = 8 * ((values.mean((0, 1)) - values.mean()) ** 2).sum() / total
    found = importance(sweep)
    assert (found.method, found.resampled) == ("ANOVA", "seeds")
    assert {share.key: share.share for share in found.shares} == pytest.approx({"a": of_a, "b": of_b}, abs=1e-6)
    assert found.rest == pytest.approx(1 - of_a - of_b, abs=1e-6)
    assert all(share.interval[0] <= share.share <= share.interval[1] for share in found.shares)


def test_the_interval_of_importance_covers_what_is_true():
    # Two levels that differ by 2 with noise of variance 1: half of the variance in the long run.
    hits = []
    for run in range(40):
        noise = np.random.default_rng(run)
        sweep = grid(
            {"a": ("p", "q"), "b": tuple(range(15))}, lambda params, seed, noise=noise: 2.0 * (params["a"] == "q") + noise.normal(), 2
        )
        (share,) = (each for each in importance(sweep).shares if each.key == "a")
        hits.append(share.interval[0] <= 0.5 <= share.interval[1])
    assert 0.85 <= np.mean(hits) <= 1.0


def test_importance_survives_missing_trials_and_says_nothing_without_any_difference():
    found = importance(lecture(failed=40))
    assert found.method == "ANOVA" and [share.key for share in found.shares] == ["activation", "initializer", "optimizer"]
    assert importance(grid({"a": (1, 2)}, lambda params, seed: 0.5, 3)) is None
    assert importance(grid({"a": (1, 2, 3)}, lambda params, seed: params["a"], 1)) is None, "nothing is left to tell chance by"
    assert importance(results()) is None


def test_importance_of_a_search_is_optunas_and_finds_the_key_that_matters():
    found = importance(tpe())
    assert (found.method, found.resampled, found.rest) == ("PED-ANOVA", "configurations", None)
    assert found.shares[0].key == "optimizer.learning_rate"
    assert found.shares[0].share > 0.5 and found.shares[0].interval[0] > 0.3
    assert sum(share.share for share in found.shares) == pytest.approx(1)
    lowest = importance(replace(tpe(), objectives=(replace(ACCURACY, direction="min"),)))
    assert lowest.shares[0].key == "optimizer.learning_rate", "the worst rates are at the ends"
    assert importance(tpe(trials=15)) is None


# ---------------------------------------------------------------- how often it is wrong, and how fast it is


def share_of_reports_with_a_winner(make, runs):
    return np.mean(
        [any(each.beats for factor in factors(make(np.random.default_rng(run))) for each in factor.comparisons) for run in range(runs)]
    )


@pytest.mark.parametrize(("blocks", "seeds"), [(1, 5), (3, 3), (12, 1), (9, 2)])
def test_without_any_difference_at_most_one_report_in_twenty_says_beats(blocks, seeds):
    def make(noise):
        # Seeds and combinations matter, levels don't.
        of_seed, of_block = noise.normal(0, 0.05, seeds), noise.normal(0, 0.1, blocks)
        values = {
            name: {str(block): list(0.5 + of_block[block] + of_seed + noise.normal(0, 0.02, seeds)) for block in range(blocks)}
            for name in "abcd"
        }
        return replace(table(values, block="x"), factors={"activation": tuple("abcd")})

    runs = 200
    wrong = share_of_reports_with_a_winner(make, runs)
    assert wrong <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / runs)


def test_a_true_difference_is_found():
    def make(noise):
        of_seed = noise.normal(0, 0.05, 5)
        return table(
            {name: {"": list(0.5 + shift + of_seed + noise.normal(0, 0.005, 5))} for name, shift in (("a", 0.05), ("b", 0), ("c", 0))}
        )

    assert share_of_reports_with_a_winner(make, 50) > 0.95
    assert all(pair(factors(make(np.random.default_rng(run)))[0], "a", "b").better == "a" for run in range(20))


def test_the_chosen_configuration_beats_none_of_its_equals():
    def beaten(run):
        noise = np.random.default_rng(run)
        of_seed = noise.normal(0, 0.05, 5)
        sweep = grid({"x": ("a", "b", "c"), "y": ("p", "q")}, lambda params, seed: of_seed[seed] + noise.normal(0, 0.02), 5)
        ranking = rank(sweep, factors(sweep))
        return ranking.close < ranking.judged

    assert np.mean([beaten(run) for run in range(150)]) <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("make", [large, large_search])
def test_five_thousand_trials_take_no_second_a_step(make):
    sweep = make()
    assert len(sweep.trials) == 5000
    importance(tpe(30))  # Optuna's import is no step of a report
    outcomes = gather(sweep)
    found = factors(sweep, outcomes)
    took = {}
    for name, step in {
        "gather": lambda: gather(sweep),
        "factors": lambda: factors(sweep, outcomes),
        "rank": lambda: rank(sweep, found, outcomes),
        "importance": lambda: importance(sweep, outcomes),
    }.items():
        before = time.process_time()  # this process's own time: other work on the machine does not count
        step()
        took[name] = time.process_time() - before
    assert max(took.values()) < 1.0, took


def test_the_synthetic_truth_is_found():
    found = {factor.key: factor for factor in factors(lecture())}
    assert pair(found["activation"], "relu", "sigmoid").verdict.startswith("relu beats sigmoid by ")
    assert pair(found["activation"], "relu", "leaky_relu").verdict == TOO_CLOSE
    assert {each.name for each in found["initializer"].levels} == set(INITIALIZERS)
