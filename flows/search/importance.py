"""How much each key of the space matters, and how sure that is.

Of a grid of choices: the share of the variance of all trials that goes with a factor, when the mean of each level may differ and effects
add up (analysis of variance; what is left is interaction and chance). Of any other search: PED-ANOVA (Watanabe et al. 2023), as Optuna
has it: how much a key has to do with being among the best tenth. Both are computed again for samples drawn with replacement
(bootstrap); their standard deviation gives the interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flows.search.outcomes import ABSENT, Floats, Outcomes, Truths, Whole, gather, token
from flows.search.paired import SEEDS_FOR_T
from flows.search.results import Range, Results

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

GRID = 0.8
"""A sweep of choices counts as a grid when at least this share of all combinations with all seeds has a value."""
FEWEST = 20
"""With fewer configurations nothing is said about the best tenth."""
IN_THE_BEST = 5
"""Of fewer than fifty configurations the best five stand for the best tenth."""
RESAMPLES, SEARCH_RESAMPLES, SEARCH_SAMPLE = 200, 20, 500
"""Samples drawn for the interval: of a grid; of another search, where each is of five hundred configurations at most, for PED-ANOVA takes
0.1 s for five thousand (fANOVA takes minutes)."""
LIMIT = 3e8
"""Operations that the samples of a grid may cost: below half a second."""


@dataclass(frozen=True)
class Share:
    """How much one key matters: `share` from 0 to 1, with its 95 % interval."""

    key: str
    share: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Importance:
    """How much each key matters, the most important first.

    Attributes:
        method: "ANOVA" or "PED-ANOVA".
        rest: of ANOVA, the share of interactions and chance.
        resampled: what was drawn with replacement for the intervals.
        samples: how often.
    """

    method: Literal["ANOVA", "PED-ANOVA"]
    shares: tuple[Share, ...]
    rest: float | None
    resampled: Literal["seeds", "trials", "configurations"]
    samples: int


def importance(results: Results, outcomes: Outcomes | None = None) -> Importance | None:
    """The importance of every key with something to choose; None where too little was run, or nothing differs."""
    outcomes = (outcomes or gather(results)).phase("search")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _of_grid(outcomes) if _is_grid(results, outcomes) else _of_search(results, outcomes)


def _is_grid(results: Results, outcomes: Outcomes) -> bool:
    if results.ranges or not results.factors or (outcomes.codes == ABSENT).any() or set(outcomes.keys) != set(results.factors):
        return False
    cells = math.prod(map(len, results.factors.values())) * max(len(outcomes.seeds), 1)
    return bool(np.isfinite(outcomes.values[:, 0]).sum() >= GRID * cells)


def _of_grid(outcomes: Outcomes) -> Importance | None:
    """Main effects by least squares, so that a missing trial does not matter; of a whole grid these are the usual sums of squares."""
    there = np.isfinite(outcomes.values[:, 0])
    value, codes = outcomes.values[there, 0], outcomes.codes[outcomes.configuration[there]]
    spread = value.std()
    free = len(value) - 1 - int((codes.max(0)).sum())
    if free < 1 or not 1e-12 * np.abs(value).max() < spread < np.inf:
        return None
    value = (value - value.mean()) / spread
    seeds, seed = np.unique(outcomes.seed[there], return_inverse=True)
    by_seed = len(seeds) >= SEEDS_FOR_T
    units, unit = (len(seeds), seed) if by_seed else (len(value), np.arange(len(value)))
    cost = codes.shape[1] ** 2 * len(value) + codes.shape[1] * int((codes.max(0) + 1).sum()) ** 3
    samples = int(np.clip(LIMIT / cost, 20, RESAMPLES))
    draw = np.random.default_rng(0)
    drawn = [_variance_shares(codes, value, np.bincount(draw.integers(units, size=units), minlength=units)[unit]) for _ in range(samples)]
    error = np.nanstd(drawn, axis=0, ddof=1)
    *shares, rest = _variance_shares(codes, value, np.ones(len(value)))
    return Importance(
        "ANOVA",
        _sorted(dict(zip(outcomes.keys, shares, strict=True)), dict(zip(outcomes.keys, error, strict=False))),
        float(rest),
        "seeds" if by_seed else "trials",
        samples,
    )


def _variance_shares(codes: Whole, value: Floats, weight: Floats | Whole) -> Floats:
    """(factors + 1,) share of the variance that each factor explains beyond all others, and what all leave together.

    Args:
        codes: (N, factors) levels.
        value: (N,); `weight`: (N,) how often each counts.
    """
    levels = codes.max(0) + 1
    start = np.concatenate([[0], np.cumsum(levels)])
    size = int(start[-1])
    normal, right = np.zeros((size, size)), np.zeros(size)  # normal equations; counts of pairs of levels are all there is to them
    weighted = weight * (value - weight @ value / weight.sum())
    for one, width in enumerate(levels):
        rows = slice(start[one], start[one + 1])
        right[rows] = np.bincount(codes[:, one], weighted, minlength=width)
        for other in range(one, len(levels)):
            columns = slice(start[other], start[other + 1])
            pairs = np.bincount(codes[:, one] * levels[other] + codes[:, other], weight, minlength=width * levels[other])
            normal[rows, columns] = pairs.reshape(width, -1)
            normal[columns, rows] = normal[rows, columns].T
    normal[np.diag_indices(size)] += 1e-9 * weight.sum()  # levels of one factor add up to those of another: any of the solutions will do
    owner = np.repeat(np.arange(len(levels)), levels)

    def explained(kept: Truths) -> float:
        return float(right[kept] @ np.linalg.solve(normal[np.ix_(kept, kept)], right[kept]))

    total, together = float(weighted @ value), explained(owner >= 0)
    beyond = [together - explained(owner != place) for place in range(len(levels))]
    shares: Floats = np.clip(np.array([*beyond, total - together]) / total, 0.0, 1.0)
    return shares


def _of_search(results: Results, outcomes: Outcomes) -> Importance | None:
    """PED-ANOVA over configurations, each with its mean over seeds."""
    import optuna

    mean, count = outcomes.means()
    trials = _frozen(results, outcomes, mean, np.nonzero(count)[0])
    values: dict[str, set[Any]] = {}
    for trial in trials:
        for key, value in trial.params.items():
            values.setdefault(key, set()).add(value)
    varied = sorted(key for key, different in values.items() if len(different) > 1)
    if len(trials) < FEWEST or not varied or len({trial.value for trial in trials}) < 2:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if results.objectives[0].direction == "max" else "minimize")

    def shares(drawn: list[FrozenTrial]) -> dict[str, float]:
        study.get_trials = lambda **_: drawn  # type: ignore[method-assign] # instead of copying them all into the storage for each sample, ten times the work
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(IN_THE_BEST / len(drawn), 0.5)))
        there = [key for key in varied if any(key in trial.params for trial in drawn)]
        found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator, params=there)
        return {key: found.get(key, 0.0) for key in varied}

    draw = np.random.default_rng(0)
    size = min(len(trials), SEARCH_SAMPLE)
    drawn = [shares([trials[i] for i in draw.integers(len(trials), size=size)]) for _ in range(SEARCH_RESAMPLES)]
    # The fewer are drawn, the more their importance varies: as one over the square root.
    error = {key: float(np.std([each[key] for each in drawn], ddof=1)) * math.sqrt(size / len(trials)) for key in varied}
    return Importance("PED-ANOVA", _sorted(shares(trials), error), None, "configurations", SEARCH_RESAMPLES)


def _frozen(results: Results, outcomes: Outcomes, mean: Floats, places: Whole) -> list[FrozenTrial]:
    """The configurations as Optuna's finished trials."""
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import FrozenTrial, TrialState

    known = {key: dict.fromkeys(map(token, levels)) for key, levels in results.factors.items()}
    numbers: dict[str, list[float]] = {key: [] for key in results.ranges}
    for place in places:
        for key, value in outcomes.configurations[place].items():
            if key in numbers:
                numbers[key].append(value)
            elif key in known:
                known[key].setdefault(token(value))
    kinds: dict[str, Any] = {key: CategoricalDistribution(list(tokens)) for key, tokens in known.items() if tokens}
    kinds |= {key: _distribution(results.ranges[key], values) for key, values in numbers.items() if values}
    made = []
    for number, place in enumerate(places):
        params = {key: value if key in numbers else token(value) for key, value in outcomes.configurations[place].items() if key in kinds}
        made.append(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState.COMPLETE,
                value=float(mean[place]),
                params=params,
                distributions={key: kinds[key] for key in params},
                datetime_start=None,
                datetime_complete=None,
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
        )
    return made


def _distribution(given: Range, values: list[float]) -> Any:
    """The range, widened to what was really run."""
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high = min(given.low, *values), max(given.high, *values)
    log = given.log and low > 0
    return IntDistribution(int(low), int(high), log=log) if given.whole else FloatDistribution(float(low), float(high), log=log)


def _sorted(shares: Mapping[str, float], error: Mapping[str, float]) -> tuple[Share, ...]:
    """The most important first; intervals of 1.96 standard errors within 0 … 1."""
    found = []
    for key, share in sorted(shares.items(), key=lambda each: (-each[1], each[0])):
        reach = 1.96 * error[key]
        interval = (max(float(share - reach), 0.0), min(float(share + reach), 1.0)) if math.isfinite(reach) else None
        found.append(Share(key, float(share), interval))
    return tuple(found)
