"""Telling numbers: mean squared error.

Shapes: B examples, K numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import DataError
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A batch has `inputs`, which the model maps to numbers (B, K), and `targets` (B, K) float32."""

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the smallest squared error."""
        return "squared_error", "min"

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error."""
        return {"loss": F.mse_loss(model(batch["inputs"]), batch["targets"])}

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """For each example: `index`, `squared_error` and `absolute_error` (mean over its numbers), `variance` of its targets about 0."""
        with torch.no_grad():
            error = (model(batch["inputs"]).double() - batch["targets"].double()).cpu()
        return {
            "index": batch["index"].cpu(),
            "squared_error": error.square().mean(1),
            "absolute_error": error.abs().mean(1),
            "target": batch["targets"].double().cpu().mean(1),
        }

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`squared_error`, `absolute_error`, and `baseline_squared_error`: that of always saying the mean of these examples."""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        target: Tensor = outcomes["target"]
        return {
            "squared_error": outcomes["squared_error"].mean().item(),
            "absolute_error": outcomes["absolute_error"].mean().item(),
            "baseline_squared_error": (target - target.mean()).square().mean().item(),
        }

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`values`: what the model says of a batch of one."""
        with torch.no_grad():
            return {"values": model(batch["inputs"])[0].tolist()}

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """None that outcomes alone would make."""
        return {}

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> dict[str, Figure]:
        """`memory` of several recurrent models in one picture."""
        from components.figures.sequences import gradient_by_distance
        from components.objectives.language_modelling import gradient_back_in_time

        reaches = {name: gradient_back_in_time(model, split) for name, (model, _) in runs.items() if hasattr(model, "recurrent")}
        return {"memory": gradient_by_distance(reaches)} if reaches else {}

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`memory`, of a recurrent model: the gradient's size against the distance back in time."""
        if not hasattr(model, "recurrent"):
            return {}
        from components.figures.sequences import gradient_by_distance
        from components.objectives.language_modelling import gradient_back_in_time

        return {"memory": gradient_by_distance({type(model).__name__: gradient_back_in_time(model, split)})}
