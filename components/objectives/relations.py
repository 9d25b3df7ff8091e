"""Telling how two marked things of a sentence are related: as `classification`, scored as SemEval-2010 task 8 is.

`f1` is the task's: the mean over relations, both directions of one counting as one relation that has to be told the right way round, and
`Other`, which is no relation, left out (see `components/metrics/relations.py`). Beside it stands that of TF-IDF with logistic regression.

Shapes: B sentences, T tokens, C relations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from components.metrics.classification import confusion_matrix
from components.metrics.relations import relation_f1
from components.objectives.sequence_classification import SequenceClassification
from components.protocols import Batch, Model, Outcomes


@dataclass(frozen=True, kw_only=True)
class Relations(SequenceClassification):
    """A batch has `inputs` (B, T), `lengths` (B,), `places` (B, 2) of the marks before the two things, and `targets` (B,).

    Args:
        other: the class that is no relation.
    """

    other: str = "Other"

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the highest `f1`."""
        return "f1", "max"

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, C)."""
        logits: Tensor = model(batch["inputs"], batch["lengths"], None, batch["places"])
        return logits

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """As sequence classification's, with `baseline` (B,), what TF-IDF says."""
        found = super().outcomes(model, batch)
        return found | {"baseline": batch["baseline"].cpu()}

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """As sequence classification's; `f1` is the task's own (0 … 1), and `baseline_f1` TF-IDF's."""
        found = super().metrics(outcomes)
        for name, told in (("f1", "prediction"), ("baseline_f1", "baseline")):
            found[name] = relation_f1(
                confusion_matrix(outcomes["target"], outcomes[told], self.classes), self.class_names, other=self.other
            )
        return found

    def explain(self, model: Any, split: Any) -> dict[str, Any]:  # noqa: ARG002 — every objective's signature
        """None: what moved a decision is drawn for whole texts only."""
        return {}
