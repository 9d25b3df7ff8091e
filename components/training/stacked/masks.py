"""Dropout's masks for T trials: each trial's a pure function of its own seed and step, whoever its neighbours are.

torch's dropout draws from one generator for the whole process, in the order in which models ask. In a stack that order would be
everybody's, so a trial's result would depend on who else is there, and change when one is pruned. Here a mask is drawn from (seed, place,
step): the same trial gives the same result in any stack, and going on from a checkpoint needs no generator's state. The price: the
masks are other ones than the ordinary loop's, so with dropout a trial agrees with the trial alone in distribution, not number by number.

Numbers for several steps are drawn at once, because a call costs more than the numbers of a small mask; 16 random bits decide about a
unit, so that a probability of dropping is kept to 1/65,536. Measured on one CPU core with torch 2.14, nanoseconds a unit: `bernoulli_` (and
so torch's dropout) 11.7; 64-bit integers cut in four 0.8, with comparison and scaling 1.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.data.batches import derived_seed

AHEAD = 64
"""Steps' masks that are drawn at once, at most."""
NUMBERS = 2**17
"""Numbers of one trial and place that are drawn at once, at most, if that is more than one step's."""
LEVELS = 2**16


class Masks:
    """The masks of one place of the model.

    Args:
        place: which dropout, in the order of their calls.
        shape: of its input, without T.
        seeds, rates: for each trial, its seed and the probability of dropping, in (0, 1).
        ahead: whether masks of several steps are worth drawing.
        dtype, device: of what is masked.
    """

    def __init__(
        self,
        place: int,
        shape: torch.Size,
        seeds: Sequence[int],
        rates: Sequence[float],
        *,
        ahead: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        trials, units = len(seeds), shape.numel()
        self.place, self.seeds = place, seeds
        self.steps = max(1, min(AHEAD, NUMBERS // units)) if ahead else 1
        self.now = torch.empty(trials, *shape, dtype=dtype, device=device)
        """(T, …): 0 where a unit is dropped, 1 / (1 − rate) elsewhere."""
        self._words = torch.empty(trials, -(-self.steps * units // 4), dtype=torch.int64, device=device)
        self._levels = self._words.view(torch.int16)[:, : self.steps * units].view(trials, self.steps, *shape)
        beside = (-1, *(1,) * len(shape))
        kept = [min(LEVELS - 1, max(1, round((1 - rate) * LEVELS))) - LEVELS // 2 for rate in rates]
        self._below = torch.tensor(kept, dtype=torch.int16, device=device).view(beside)
        self._scale = torch.tensor([1 / (1 - rate) for rate in rates], dtype=dtype, device=device).view(beside)
        self._keeps = torch.empty(trials, *shape, dtype=torch.bool, device=device)
        self._drawn = [-1] * trials
        self._generator = torch.Generator(device)

    def load(self, steps: Sequence[int]) -> None:
        """Put the masks of these steps (one for each trial, from 0) into `now`."""
        for trial, step in enumerate(steps):
            if self._drawn[trial] != step // self.steps:
                self._draw(trial, step // self.steps)
        offsets = [step % self.steps for step in steps]
        if len(set(offsets)) == 1:
            torch.lt(self._levels[:, offsets[0]], self._below, out=self._keeps)
        else:
            for trial, offset in enumerate(offsets):
                torch.lt(self._levels[trial, offset], self._below[trial], out=self._keeps[trial])
        torch.mul(self._keeps, self._scale, out=self.now)

    def _draw(self, trial: int, which: int) -> None:
        self._generator.manual_seed(derived_seed("dropout", self.seeds[trial], self.place, self.steps, which))
        self._words[trial].random_(-(2**63), None, generator=self._generator)
        self._drawn[trial] = which

    @property
    def bytes(self) -> int:
        """Memory of what is drawn."""
        return self.now.nbytes + self._words.nbytes + self._keeps.nbytes
