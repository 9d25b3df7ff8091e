"""A sweep's findings in sentences that a student understands: what to remember, and how far to believe it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from flows.config.words import one_line
from flows.search.findings import Cost, Failure, Tested
from flows.search.paired import SEEDS_FOR_T
from flows.search.quantity import Quantity, is_point
from flows.search.ranking import Configuration, Ranking
from flows.search.results import Results
from flows.search.statistics import NO_TEST, OVER_SEEDS, TOO_CLOSE, Comparison, Factor, Level
from flows.search.wording import count, in_words, listed, seeds, settings

LISTED = 3
"""Up to so many beaten levels are named one by one."""


def verdict(found: Sequence[Factor], ranking: Ranking, cost: Cost, test: tuple[Sequence[Tested], int], quantity: Quantity) -> list[str]:
    """What to remember, the most important first; `test` is what the test split says, and for how many configurations it was looked at."""
    if not cost.ended:
        return ["No trial has ended yet."]
    if ranking.chosen is None:
        return [_without_a_value(cost, ranking)]
    return [
        _chosen(ranking.chosen, ranking, quantity),
        *([_rivals(ranking)] if ranking.competing > 1 else []),
        *(_tested(each, test[1]) for each in test[0][:1]),
        *(factor_sentence(factor, quantity) for factor in found),
    ]


def factor_sentence(factor: Factor, quantity: Quantity) -> str:
    """What a factor's levels come to against each other."""
    levels = [level for level in factor.levels if level.mean is not None]
    if not levels:
        return f"{factor.key}: no level has a value."
    if len(levels) == 1:
        return f"{factor.key}: only {_called(levels[0])} has a value, so there is nothing to compare."
    if not any(comparison.pairs for comparison in factor.comparisons):
        return f"{factor.key}: {TOO_CLOSE}; no two trials differ in it alone."
    leader = next((level for level in levels if level.matched), levels[0])
    name = _called(leader)
    called = {level.name: _called(level) for level in levels}
    own = [comparison for comparison in factor.comparisons if leader.name in (comparison.better, comparison.worse)]
    if all(comparison.test == NO_TEST for comparison in own):
        return (
            f"{factor.key}: {TOO_CLOSE}; {name} has the best value ({quantity.value(leader.mean)}), "
            f"but {seeds(leader.seeds)} of one combination {'is' if leader.seeds == 1 else 'are'} nothing to test it by."
        )
    beaten = sorted((each for each in own if each.beats and each.better == leader.name), key=lambda each: each.difference or 0.0)
    ahead = [each for each in own if each.beats and each.worse == leader.name]
    close = [each.worse if each.better == leader.name else each.better for each in own if not each.beats]
    parts = [f"{name} beats {_beaten(beaten, len(own), quantity)}"] if beaten else []
    parts += [f"{called[each.better]} beats {name}, whose mean is the best, in most combinations" for each in ahead]
    if close and parts:
        parts.append(f"against {listed([in_words(other) for other in close])}: {TOO_CLOSE}")
    if not parts:
        parts = [f"{TOO_CLOSE}; {name} has the best mean ({quantity.value(leader.mean)}), but not clearly against any other level"]
    return f"{factor.key}: {'; '.join(parts)} ({_basis(own)})."


def cautions(results: Results, repeated: int, found: Sequence[Factor], ranking: Ranking, cost: Cost) -> list[str]:
    """What has to be known to believe the verdict no further than it goes; `repeated` trials were left out."""
    tested = [comparison for factor in found for comparison in factor.comparisons if comparison.test != NO_TEST]
    return [
        *_about_ending(cost, repeated),
        *_about_seeds(results, tested),
        *_about_optimizers(results, found),
        *_about_conditions(found),
        *(line for factor in found for line in _about_levels(factor)),
        *_about_choosing(results, ranking),
        *([_about_many(tested)] if len(tested) > 1 else []),
        *(_about_values(results) if cost.complete else []),
        *_about_training(results),
    ]


def failures(results: Results) -> tuple[Failure, ...]:
    """Reasons of failed trials; those that differ in numbers only are one."""
    reasons = [one_line(trial.reason or "no reason was recorded") for trial in results.trials if trial.state == "failed"]
    kinds = [re.sub(r"\d[\d.,]*", "0", reason) for reason in reasons]
    first = dict(reversed(list(zip(kinds, reasons, strict=True))))
    return tuple(Failure(first[kind], count) for kind, count in Counter(kinds).most_common())


def _without_a_value(cost: Cost, ranking: Ranking) -> str:
    if ranking.infeasible:
        which = "the only configuration" if ranking.infeasible == 1 else f"each of the {ranking.infeasible} configurations"
        return f"Nothing was chosen: {which} that finished breaks a constraint."
    if cost.failed == cost.ended:
        more = f" ({cost.failures[0].trials} of {cost.failed})" if len(cost.failures) > 1 else ""
        which = "The only trial failed" if cost.failed == 1 else f"All {cost.failed} trials failed"
        return f"{which}{more}: {cost.failures[0].reason}"
    why = f"; most failures: {cost.failures[0].reason}" if cost.failures else ""
    return f"No trial ended with a value: {cost.pruned} pruned, {cost.failed} failed, {cost.lost} ended without a number{why}."


def _chosen(chosen: Configuration, ranking: Ranking, quantity: Quantity) -> str:
    fresh = "fresh " if chosen.phase == "confirm" else ""
    over = f"one {fresh}seed" if len(chosen.seeds) == 1 else f"{len(chosen.seeds)} {fresh}seeds"
    over += _alike(chosen.interval)
    selected = "" if chosen.selected_by is None else f"; selected by {quantity.value(chosen.selected_by)} in the search"
    what = f"{quantity.split} {quantity.name}".strip()
    of = f"Best of {ranking.competing:,} configurations" if ranking.competing > 1 else f"The only configuration {_only(ranking)}"
    mean = f"{quantity.value(chosen.mean)}{_interval(chosen.interval, quantity)}"
    return f"{of}: {settings(chosen.params) or 'as it is'}; {what} {mean} ({over}{selected})."


def _only(ranking: Ranking) -> str:
    """What the only competitor has before others that have values."""
    ahead = [*(["keeps the constraints"] if ranking.infeasible else []), *(["has all its seeds"] if ranking.incomplete else [])]
    return f"that {' and '.join(ahead)}" if ahead else "with a value"


def _interval(interval: tuple[float, float] | None, quantity: Quantity) -> str:
    return "" if interval is None or is_point(interval) else f" {quantity.interval(interval)}"


def _alike(interval: tuple[float, float] | None) -> str:
    return ", all with the same value" if interval is not None and is_point(interval) else ""


def _called(level: Level) -> str:
    """The level in words, with what has to be known where it has the best mean and still was not chosen."""
    return in_words(level.name) if level.allowed else f"{in_words(level.name)} (breaks a constraint)"


def _rivals(ranking: Ranking) -> str:
    others = ranking.competing - 1
    if not ranking.judged:
        none = "The other one cannot" if others == 1 else f"Of the other {others:,} none can"
        return f"{none} be called worse: with fewer than {SEEDS_FOR_T} seeds the order may be chance."
    number = "one" if ranking.judged == 1 else f"{ranking.judged:,}"
    those = f"the other {number}"
    if ranking.judged < others:
        those = f"the {number if ranking.judged == 1 else f'{number} others'} with three seeds or more in common with it"
    if not ranking.close:
        return f"It beats {those}."
    if ranking.judged == 1:
        return f"{those.capitalize()} is {TOO_CLOSE} against it."
    close = "all are" if ranking.close == ranking.judged else "one is" if ranking.close == 1 else f"{ranking.close:,} are"
    return f"Of {those}, {close} {TOO_CLOSE} against it."


def _tested(tested: Tested, configurations: int) -> str:
    """What the test split says, and how often it was asked."""
    quantity = Quantity(tested.metric, "max")
    looked = (
        f"looked at for {configurations} configurations by now, as more trials changed the choice, and therefore a little optimistic"
        if configurations > 1
        else "looked at once"
    )
    mean = f"{quantity.value(tested.mean)}{_interval(tested.interval, quantity)}"
    return f"On the test split, {looked}: {quantity.name} {mean} over {seeds(tested.seeds)}{_alike(tested.interval)}."


def _beaten(beaten: Sequence[Comparison], others: int, quantity: Quantity) -> str:
    """By how much whom: one by one, or from the closest to the farthest."""
    leads = [
        f"{in_words(each.worse)} by {quantity.lead(each.difference or 0.0, each.interval, unit=i == 0)}" for i, each in enumerate(beaten)
    ]
    if len(beaten) <= LISTED:
        return listed(leads)
    last = f"{in_words(beaten[-1].worse)} by {quantity.lead(beaten[-1].difference or 0.0, beaten[-1].interval, unit=False)}"
    whom = f"all {others} other levels" if len(beaten) == others else f"{len(beaten)} of the other {others} levels"
    return f"{whom}, from {leads[0]} to {last}"


def _basis(own: Sequence[Comparison]) -> str:
    """What the tests count."""
    tests = {comparison.test for comparison in own if comparison.test != NO_TEST}
    units = sorted({comparison.units for comparison in own if comparison.test != NO_TEST})
    span = f"{units[0]}" if len(units) == 1 else f"{units[0]} to {units[-1]}"
    if tests == {OVER_SEEDS}:
        return f"paired over {span} seeds"
    if OVER_SEEDS in tests:
        return f"paired over {span} seeds or combinations"
    return f"paired over {span} combinations, which says nothing about chance"


def _about_ending(cost: Cost, repeated: int) -> list[str]:
    lines = []
    if cost.ended < cost.asked:
        lines.append(f"Unfinished: {cost.ended:,} of {count(cost.asked, 'trial')} {'has' if cost.asked == 1 else 'have'} ended.")
    ends = ((cost.pruned, "pruned"), (cost.failed, "failed"), (cost.lost, "ended without a number"))
    without = [f"{number} {what}" for number, what in ends if number]
    if without and cost.complete:
        lines.append(
            f"Without a value: {listed(without)}, of {count(cost.ended, 'trial')}. Comparisons leave out these and their partners."
        )
    if cost.pruned and cost.complete:
        lines.append("What was pruned was worse than the rest, so levels that lost more trials this way look better than they are.")
    if repeated:
        lines.append(f"Left out, as their configuration had been run with that seed already: {count(repeated, 'trial')}.")
    return lines


def _about_training(results: Results) -> list[str]:
    match results.together:
        case None:
            return []
        case False:
            return [f"Trials were trained one by one: {results.why}."]
        case True:
            return [
                f"Trials were trained together: {results.why}. One that is trained again alone comes to the same numbers but for rounding; "
                "where there is dropout, other units are dropped."
            ]


def _about_seeds(results: Results, tested: Sequence[Comparison]) -> list[str]:
    combinations = [comparison for comparison in tested if comparison.test != OVER_SEEDS]
    if not combinations:
        return []
    if len(combinations) == len(tested):
        which = f"With {seeds(results.seeds)} nothing here speaks"
    else:
        which = f"Where combinations are what is counted ({len(combinations)} of {count(len(tested), 'comparison')}), nothing speaks"
    return [
        f"{which} about chance: “beats” means better in most combinations of everything else, and another seed may turn close ones round."
    ]


def _about_optimizers(results: Results, found: Sequence[Factor]) -> list[str]:
    optimizer = next((factor for factor in found if factor.key == "optimizer"), None)
    if optimizer is None or len(optimizer.levels) < 2 or results.balance == "optimizer":
        return []
    if any(key.endswith("learning_rate") for key in (*results.ranges, *results.factors)):
        return [
            "An optimizer's mean here is over learning rates that suit it and others that do not; "
            "search=optimizer_tuning compares each at its own best."
        ]
    return [
        "Optimizers are compared at the one default learning rate of each, which is unfair: the rate often matters more than the "
        "optimizer. search=optimizer_tuning tunes each for itself."
    ]


def _about_conditions(found: Sequence[Factor]) -> list[str]:
    lines = []
    several = [factor for factor in found if sum(level.mean is not None for level in factor.levels) > 1]
    apart = [factor.key for factor in several if factor.basis == "own conditions"]
    if apart:
        lines.append(
            f"{listed(apart)}: levels share no conditions (same seed, everything else the same), so their means differ by the company "
            "they keep, too."
        )
    partial = []
    for factor in several:
        most = max((level.combinations for level in factor.levels if level.matched), default=0)
        if factor.basis == "same conditions" and most < factor.combinations:
            partial.append(f"{most} of {factor.combinations} combinations ({factor.key})")
    if partial:
        lines.append(f"Means are over {listed(partial)}: those that all levels finished.")
    return lines


def _about_levels(factor: Factor) -> list[str]:
    lines = []
    levels = [level for level in factor.levels if level.mean is not None]
    if factor.basis == "best of tuned" and levels:
        tried = sorted({level.configurations for level in levels})
        many = f"{tried[0]}" if len(tried) == 1 else f"{tried[0]} to {tried[-1]}"
        lines.append(
            f"{factor.key}: each level stands with the best of N={many} configurations tuned for it. The best of N tuned values is "
            "optimistic, since luck selected it, too; search.confirm=5 runs the best again with fresh seeds."
        )
    aside = [in_words(level.name) for level in levels if not level.matched]
    if factor.basis != "own conditions" and aside and len(aside) < len(levels):
        lines.append(f"{factor.key}: {listed(aside)} finished too little of what the others did and stands with its own trials.")
    missing = [in_words(level.name) for level in factor.levels if level.mean is None]
    if missing and levels:
        lines.append(f"{factor.key}: no value for {listed(missing)}.")
    return lines


def _about_choosing(results: Results, ranking: Ranking) -> list[str]:
    lines: list[str] = []
    if ranking.chosen is None:
        return lines
    if not ranking.chosen.complete:
        lines.append("No configuration has all its seeds yet; incomplete ones compete.")
    elif ranking.incomplete:
        lines.append(f"Not competing, for lack of a seed: {count(ranking.incomplete, 'configuration')}.")
    if ranking.competing > 1 and ranking.best[0].phase == ranking.chosen.phase:
        lines.append(f"The best of {ranking.competing} values is partly luck: expect a little less of it with another seed.")
    if ranking.tied > 1:
        lines.append(f"{ranking.tied:,} configurations share the best mean{_how_decided(results, ranking)}.")
    if ranking.infeasible:
        who = "as it breaks" if ranking.infeasible == 1 else "as they break"
        lines.append(
            f"Not competing, {who} a constraint: {count(ranking.infeasible, 'configuration')}. Means of levels count such trials, too."
        )
    if len(results.objectives) > 1:
        lines.append(
            f"Of {len(results.objectives)} objectives the first, {results.objectives[0].metric}, decides; see the Pareto front for all."
        )
    return lines


def _how_decided(results: Results, ranking: Ranking) -> str:
    """How the tie was broken."""
    if ranking.alike == ranking.tied:
        of = " of every objective" if len(results.objectives) > 1 else ""
        return f"{of}; the one that was run first was chosen"
    others = results.objectives[1:]
    decided = f"; {listed([each.metric for each in others])} decided between them"
    return decided if ranking.alike == 1 else f"{decided}, and of the {ranking.alike} alike in all the one that was run first was chosen"


def _about_values(results: Results) -> list[str]:
    """Which value of a run with many epochs is the trial's."""
    if not any(objective.metric.startswith("validation/") for objective in results.objectives):
        return []
    return ["The value of a trial is that of its best epoch by the metric that training monitors; learning curves show every epoch."]


def _about_many(tested: Sequence[Comparison]) -> str:
    """What the correction promises. It is about chance, so only where seeds are what is tested."""
    over_seeds = sum(comparison.test == OVER_SEEDS for comparison in tested)
    at_most = "at most one report in twenty has a “beats” where there is no difference"
    promise = "" if not over_seeds else f": {at_most}" if over_seeds == len(tested) else f"; of those over seeds, {at_most}"
    return f"Verdicts allow for all {len(tested):,} comparisons together (Holm){promise}. Intervals are of 95 % for one comparison alone."
