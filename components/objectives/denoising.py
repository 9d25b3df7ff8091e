"""Writing a text whole that was damaged (Lewis et al. 2020): cross-entropy over all of it; what BART is pretrained with.

Most of a text is not damaged and can be copied, so `accuracy` begins high: it is measured in the same way on the same damage each time,
which is what it is for.

Shapes: B examples, T target tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.errors import DataError
from components.objectives.language_modelling import perplexity
from components.objectives.writing import Writing
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Denoising(Writing):
    """The text as it was for the text as it became.

    Args:
        vocabulary, target_vocabulary, label_smoothing, beams, length_penalty, no_repeat, shortest, limit: see `Writing`.
    """

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the lowest −log p a token."""
        return "nll", "min"

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What `told` returns."""
        return self.told(model, batch)

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`nll` (nats a token), `perplexity`, `accuracy` (share of right tokens, each told from the right ones before it)."""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        tokens = int(outcomes["tokens"].sum())
        nll = float(outcomes["nll"].sum()) / tokens
        return {"nll": nll, "perplexity": perplexity(nll), "accuracy": float(outcomes["right"].sum()) / tokens}

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """None that outcomes alone would make."""
        return {}
