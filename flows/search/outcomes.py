"""What a sweep's trials came to, as arrays: one row for each configuration and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.search.results import Trial

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int_]
Truths = npt.NDArray[np.bool_]

ABSENT = -1
"""The code of a key that a configuration does not have."""


@dataclass(frozen=True)
class Outcomes:
    """Trials of one phase, N rows of K configurations.

    Attributes:
        keys: the P keys that any configuration has.
        configurations: params of each.
        codes: (K, P) which value of the key a configuration has, ABSENT for none.
        tokens: for each key, what its codes stand for.
        seeds: all S seeds, ascending.
        configuration, seed: (N,) of each row.
        values: (N, objectives); NaN where the trial has not ended with a number.
        first: (K,) number of the configuration's first trial.
        feasible: (K,) whether all its trials that have a value keep the search's constraints.
        repeated: how many trials were left out because the same configuration had been run with the same seed.
    """

    keys: tuple[str, ...]
    configurations: tuple[Mapping[str, Any], ...]
    codes: Whole
    tokens: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    configuration: Whole
    seed: Whole
    values: Floats
    first: Whole
    feasible: Truths
    repeated: int

    def table(self, configurations: Sequence[int] | Whole, seeds: Sequence[int] | Whole, objective: int = 0) -> Floats:
        """(configurations, seeds) of one objective; NaN where there is no value."""
        row, column = np.full(len(self.configurations), -1), np.full(len(self.seeds), -1)
        row[configurations], column[seeds] = np.arange(len(configurations)), np.arange(len(seeds))
        found = np.full((len(configurations), len(seeds)), np.nan)
        kept = (row[self.configuration] >= 0) & (column[self.seed] >= 0)
        found[row[self.configuration[kept]], column[self.seed[kept]]] = self.values[kept, objective]
        return found

    def means(self, objective: int = 0) -> tuple[Floats, Whole]:
        """(K,) mean over the seeds that have a value, NaN where none has, and how many have."""
        value = self.values[:, objective]
        there = np.isfinite(value)
        count = np.bincount(self.configuration[there], minlength=len(self.configurations))
        with np.errstate(all="ignore"):
            total = np.bincount(self.configuration[there], value[there], minlength=len(self.configurations))
            return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def token(value: Any) -> str:
    """What tells a value from others of its key: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return repr(list(value) if isinstance(value, tuple) else value)


def has_value(trial: Trial) -> bool:
    """Whether the trial ended with a number for the first objective; one that diverged may be complete without."""
    return trial.state == "complete" and bool(trial.values) and math.isfinite(trial.values[0])


def gather(trials: Iterable[Trial], objectives: int) -> Outcomes:
    """The trials as rows. Of several with one configuration and seed the first that has a value counts, otherwise the first."""
    keys: dict[str, dict[str, int]] = {}
    places: dict[tuple[tuple[str, int], ...], int] = {}
    examples: list[Trial] = []
    feasible: list[bool] = []
    rows: dict[tuple[int, int], Trial] = {}
    several = 0
    for trial in sorted(trials, key=lambda each: each.number):
        codes = []
        for key, value in trial.params.items():
            known = keys.setdefault(key, {})
            codes.append((key, known.setdefault(token(value), len(known))))
        place = places.setdefault(tuple(sorted(codes)), len(places))
        if place == len(examples):
            examples.append(trial)
            feasible.append(True)
        feasible[place] &= trial.feasible or not has_value(trial)
        there = rows.get((place, trial.seed))
        several += there is not None
        if there is None or (has_value(trial) and not has_value(there)):
            rows[place, trial.seed] = trial
    seeds = sorted({seed for _, seed in rows})
    position = {seed: i for i, seed in enumerate(seeds)}
    values = np.array([trial.values if has_value(trial) else (math.nan,) * objectives for trial in rows.values()], dtype=float)
    names = {key: i for i, key in enumerate(keys)}
    table = np.full((len(places), len(keys)), ABSENT)
    for assignment, place in places.items():
        for key, code in assignment:
            table[place, names[key]] = code
    return Outcomes(
        keys=tuple(keys),
        configurations=tuple(trial.params for trial in examples),
        codes=table,
        tokens=tuple(tuple(known) for known in keys.values()),
        seeds=tuple(seeds),
        configuration=np.array([place for place, _ in rows], dtype=int),
        seed=np.array([position[seed] for _, seed in rows], dtype=int),
        values=np.where(np.isfinite(values), values, np.nan).reshape(-1, objectives),
        first=np.array([trial.number for trial in examples], dtype=int),
        feasible=np.array(feasible, dtype=bool),
        repeated=several,
    )
