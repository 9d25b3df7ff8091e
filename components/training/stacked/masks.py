"""Dropout's masks for T trials: each trial's a pure function of its own seed and step, whoever its neighbours are.

torch's dropout draws from one generator for the whole process, in the order in which models ask. In a stack that order would be everybody's, so a
trial's result would depend on who else is in the stack, and change when one is pruned. Here a mask is drawn from (seed, place, step): the
same trial gives the same result in any stack, and going on from a checkpoint needs no generator's state. The price: the masks
are other ones than the ordinary loop's, so with dropout a trial agrees with the trial alone in distribution, not number by number.

Masks of several steps are drawn at once, because a call costs more than the numbers of a small one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.data.batches import derived_seed

AHEAD = 64
"""Steps' masks that are drawn at once, at most."""
NUMBERS = 2**17
"""Numbers of one trial and place that are drawn at once, at most, if that is more than one step's."""


class Masks:
    """The masks of one place of the model.

    Args:
        place: which dropout, in the order of their calls.
        shape: of its input, without T.
        seeds, rates: for each trial, its seed and the probability of dropping.
        ahead: whether masks of several steps are worth drawing.
        dtype, device: of what is masked.
    """

    def __init__(
        self, place: int, shape: torch.Size, seeds: Sequence[int], rates: Sequence[float], *, ahead: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.place, self.seeds, self.rates = place, seeds, rates
        self.steps = max(1, min(AHEAD, NUMBERS // shape.numel())) if ahead else 1
        self.now = torch.empty(len(seeds), *shape, dtype=dtype, device=device)
        """(T, …): 0 where a unit is dropped, 1 / (1 − rate) elsewhere."""
        self._drawn = torch.empty(len(seeds), self.steps, *shape, dtype=dtype, device=device)
        self._which = [-1] * len(seeds)
        self._generator = torch.Generator(device)

    def load(self, steps: Sequence[int]) -> None:
        """Put the masks of these steps (one for each trial, from 0) into `now`."""
        for trial, step in enumerate(steps):
            if self._which[trial] != step // self.steps:
                self._draw(trial, step // self.steps)
        offsets = [step % self.steps for step in steps]
        if len(set(offsets)) == 1:
            self.now.copy_(self._drawn[:, offsets[0]])
        else:
            for trial, offset in enumerate(offsets):
                self.now[trial].copy_(self._drawn[trial, offset])

    def _draw(self, trial: int, which: int) -> None:
        self._generator.manual_seed(derived_seed("dropout", self.seeds[trial], self.place, self.steps, which))
        kept = 1 - self.rates[trial]
        self._drawn[trial].bernoulli_(kept, generator=self._generator).div_(kept)
        self._which[trial] = which

    @property
    def bytes(self) -> int:
        """Memory of what is drawn."""
        return self.now.nbytes + self._drawn.nbytes
