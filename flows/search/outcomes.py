"""What a sweep's trials came to, as arrays: one row for each configuration and seed of a phase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.search.results import Phase, Results, Trial

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int_]
Truths = npt.NDArray[np.bool_]

ABSENT = -1
"""The code of a key that a configuration does not have."""


@dataclass(frozen=True)
class Outcomes:
    """N rows of K configurations; P keys, S seeds.

    Attributes:
        keys: that any configuration has.
        configurations: params of each.
        codes: (K, P) which value of the key a configuration has, ABSENT for none.
        first: (K,) number of the configuration's first trial.
        feasible: (K,) whether all its trials that have a value keep the search's constraints.
        seeds: ascending.
        configuration, seed: (N,) of each row, as places in `configurations` and `seeds`.
        confirming: (N,) whether the trial was of the phase `confirm`.
        values: (N, objectives); NaN where the trial has not ended with a number.
        repeated: how many trials were left out because the same configuration had been run with the same seed.
    """

    keys: tuple[str, ...]
    configurations: tuple[Mapping[str, Any], ...]
    codes: Whole
    first: Whole
    feasible: Truths
    seeds: tuple[int, ...]
    configuration: Whole
    seed: Whole
    confirming: Truths
    values: Floats
    repeated: int

    def phase(self, phase: Phase) -> Outcomes:
        """The rows of one phase; configurations and seeds keep their places."""
        kept = self.confirming == (phase == "confirm")
        return replace(
            self,
            configuration=self.configuration[kept],
            seed=self.seed[kept],
            confirming=self.confirming[kept],
            values=self.values[kept],
        )

    def means(self, objective: int = 0) -> tuple[Floats, Whole]:
        """(K,) mean over the seeds that have a value, NaN where none has; and how many have."""
        value = self.values[:, objective]
        there = np.isfinite(value)
        count = np.bincount(self.configuration[there], minlength=len(self.configurations))
        total = np.bincount(self.configuration[there], value[there], minlength=len(self.configurations))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan), count

    def levels(self, key: str, levels: Sequence[Any]) -> Whole:
        """(K,) which of the levels a configuration has, ABSENT for none."""
        place = {token(level): code for code, level in enumerate(levels)}
        return np.array([place.get(token(each[key]), ABSENT) if key in each else ABSENT for each in self.configurations], dtype=int)


def token(value: Any) -> str:
    """What tells a value from others of its key: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return repr(list(value) if isinstance(value, tuple) else value)


def has_value(trial: Trial) -> bool:
    """Whether the trial ended with a number for the first objective; one that diverged may be complete without."""
    return trial.state == "complete" and trial.values is not None and math.isfinite(trial.values[0])


def gather(results: Results) -> Outcomes:
    """The trials as rows. Of several with one configuration, seed and phase the first that has a value counts, otherwise the first."""
    keys: dict[str, dict[str, int]] = {}
    places: dict[tuple[tuple[str, int], ...], int] = {}
    examples: list[Trial] = []
    feasible: list[bool] = []
    rows: dict[tuple[int, int, Phase], Trial] = {}
    for trial in sorted(results.trials, key=lambda each: each.number):
        codes = []
        for key, value in trial.params.items():
            known = keys.setdefault(key, {})
            codes.append((key, known.setdefault(token(value), len(known))))
        place = places.setdefault(tuple(sorted(codes)), len(places))
        if place == len(examples):
            examples.append(trial)
            feasible.append(True)
        feasible[place] &= trial.feasible or not has_value(trial)
        row = (place, trial.seed, trial.phase)
        if row not in rows or (has_value(trial) and not has_value(rows[row])):
            rows[row] = trial
    seeds = {seed: i for i, seed in enumerate(sorted({seed for _, seed, _ in rows}))}
    names = {key: i for i, key in enumerate(keys)}
    table = np.full((len(places), len(keys)), ABSENT)
    for assignment, place in places.items():
        for key, code in assignment:
            table[place, names[key]] = code
    none = (math.nan,) * len(results.objectives)
    values = np.array([trial.values if has_value(trial) else none for trial in rows.values()], dtype=float).reshape(-1, len(none))
    return Outcomes(
        keys=tuple(keys),
        configurations=tuple(trial.params for trial in examples),
        codes=table,
        first=np.array([trial.number for trial in examples], dtype=int),
        feasible=np.array(feasible, dtype=bool),
        seeds=tuple(seeds),
        configuration=np.array([place for place, _, _ in rows], dtype=int),
        seed=np.array([seeds[seed] for _, seed, _ in rows], dtype=int),
        confirming=np.array([phase == "confirm" for _, _, phase in rows], dtype=bool),
        values=np.where(np.isfinite(values), values, np.nan),
        repeated=len(results.trials) - len(rows),
    )
