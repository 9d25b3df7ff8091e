"""Who chooses the next configuration and who stops a hopeless trial: the plan's words as Optuna's samplers and pruners.

A sampler is made anew for every trial, with a seed that follows from the plan's and from how many trials there are: so what it chooses is
a function of the sweep's history, and a sweep that is stopped and resumed by one worker searches as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from flows.search.plan import Plan

if TYPE_CHECKING:
    import optuna

WARMUP_EPOCHS = 2
"""The median and Wilcoxon rules judge nothing before so many epochs, or seeds."""


def sampler(plan: Plan, seen: int) -> optuna.samplers.BaseSampler:
    """The sampler for the next trial of a study that has `seen` trials."""
    from optuna import samplers

    seed = (plan.seed * 1_000_003 + seen) % 2**32
    match plan.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":  # one sequence for all workers, whose place is kept in the study
            return samplers.QMCSampler(seed=plan.seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        case "grid" | "random":  # the grid is enqueued; nothing is left to choose
            return samplers.RandomSampler(seed=seed)


def pruner(plan: Plan, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner; its steps are epochs, of which a trial has at most `epochs`."""
    from optuna import pruners

    match plan.pruner:
        case "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=WARMUP_EPOCHS)
        case "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs), reduction_factor=3)
        case "none" | "wilcoxon":  # Wilcoxon's test compares configurations over seeds: `clearly_worse`
            return pruners.NopPruner()


def clearly_worse(
    values: Mapping[int, float], others: Sequence[Mapping[int, float]], direction: Literal["max", "min"], *, seeds: int
) -> bool:
    """Whether a configuration is worse than the best other one beyond doubt, by Optuna's Wilcoxon pruner with seeds as its instances.

    Args:
        values: seed → value, of the configuration in question.
        others: the same for each other configuration; only those with all `seeds` can be the best one.
    """
    import optuna

    whole = [each for each in others if len(each) >= seeds]
    if not whole:
        return False
    study = optuna.create_study(
        direction="maximize" if direction == "max" else "minimize",
        pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=WARMUP_EPOCHS),
    )
    for each in whole:
        mean = math.fsum(each.values()) / len(each)
        study.add_trial(optuna.create_trial(value=mean, intermediate_values=dict(each)))
    trial = study.ask()
    for seed, value in values.items():
        trial.report(value, seed)
    return trial.should_prune()
