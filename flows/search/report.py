"""The report of a sweep: `report` makes it of the results; `text`, `markdown`, `figures` and `command` show it.

Pure functions of `Results`. The page is in `flows.search.page`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.search import sentences
from flows.search.findings import Cost, Report, Tested
from flows.search.importance import importance
from flows.search.outcomes import gather, has_value
from flows.search.paired import t_interval
from flows.search.pictures import figures
from flows.search.quantity import Quantity
from flows.search.ranking import rank
from flows.search.results import Results
from flows.search.statistics import factors
from flows.search.tables import markdown, text

__all__ = ["Report", "command", "figures", "markdown", "report", "text"]


def report(results: Results) -> Report:
    """Everything that the sweep has come to, finished or not."""
    quantity = Quantity(results.objectives[0].metric, results.objectives[0].direction)
    outcomes = gather(results)
    found = factors(results, outcomes)
    ranking = rank(results, found, outcomes)
    cost, test = _cost(results), _tested(results) if ranking.chosen else ()
    return Report(
        name=results.name,
        description=results.description,
        overrides=results.overrides,
        sampler=results.sampler,
        pruner=results.pruner,
        balance=results.balance,
        metric=quantity.metric,
        direction=quantity.direction,
        objectives=tuple((objective.metric, objective.direction) for objective in results.objectives),
        configurations=len(outcomes.configurations),
        seeds=results.seeds,
        fresh_seeds=len({trial.seed for trial in results.trials if trial.phase == "confirm"}),
        verdict=tuple(sentences.verdict(found, ranking, cost, (test, results.tested), quantity)),
        cautions=tuple(sentences.cautions(results, outcomes.repeated, found, ranking, cost)),
        factors=found,
        ranking=ranking,
        importance=importance(results, outcomes),
        cost=cost,
        test=test,
        tested=results.tested,
        command=None if ranking.chosen is None else _command(results.overrides, ranking.chosen.params),
    )


def command(report: Report) -> str | None:
    """The line that trains the chosen configuration, for a shell; None when there is none."""
    return report.command


def _command(overrides: Sequence[str], params: Mapping[str, Any]) -> str:
    """What all trials have in common, with the chosen values put over it."""
    from flows.search.space import overrides as as_overrides

    common = [override for override in overrides if override.partition("=")[0] not in params]
    return " ".join(["lab", "train", *map(shlex.quote, [*common, *as_overrides(params)])])


def _cost(results: Results) -> Cost:
    trials = results.trials
    return Cost(
        asked=results.asked,
        ended=len(trials),
        complete=sum(map(has_value, trials)),
        pruned=sum(trial.state == "pruned" for trial in trials),
        failed=sum(trial.state == "failed" for trial in trials),
        lost=sum(trial.state == "complete" and not has_value(trial) for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        samples=sum(trial.samples for trial in trials),
        failures=sentences.failures(results),
    )


def _tested(results: Results) -> tuple[Tested, ...]:
    """Test metrics over seeds, that of the first objective first."""
    named = {
        metric: [found[metric] for found in results.test.values() if metric in found] for found in results.test.values() for metric in found
    }
    finite = {metric: np.array([value for value in values if np.isfinite(value)]) for metric, values in named.items()}
    last = results.objectives[0].metric.rpartition("/")[2]
    return tuple(
        Tested(metric, float(values.mean()), t_interval(values), len(values))
        for metric, values in sorted(finite.items(), key=lambda each: each[0].rpartition("/")[2] != last)
        if len(values)
    )
