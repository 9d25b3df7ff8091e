"""Telling how two marked things of a sentence are related: as `classification`, scored as SemEval-2010 task 8 is.

`f1` is the task's: the mean over relations, both directions of one counting as one relation that has to be told the right way round, and
`Other`, which is no relation, left out (see `components/metrics/relations.py`). Beside it stands that of TF-IDF with logistic regression.

Shapes: B sentences, T tokens, C relations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from components.data.relations import places_of
from components.data.tokens import Vocabulary
from components.metrics.classification import confusion_matrix
from components.metrics.relations import relation_f1
from components.objectives.classification import Classification
from components.objectives.sequence_classification import SequenceClassification
from components.objectives.transformer_pictures import pictures_of
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:
        """As classification's; a direction stands before its relation, `1→2 Cause-Effect`, so that it is read where names are cut."""
        names = [_direction_first(name) for name in self.class_names]
        plain = Classification(classes=self.classes, class_names=names)
        return plain.figures(outcomes, split)

    def served(self, model: Model, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, C) of tokens (B, T) alone, the marks among them."""
        assert self.vocabulary is not None
        return self.logits(model, {"inputs": tokens, "lengths": lengths, "places": places_of(tokens, Vocabulary.load(self.vocabulary))})

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """Of a transformer `attention` over one sentence, and `positions`; what moved a decision is drawn for whole texts only."""
        assert self.vocabulary is not None
        return pictures_of(model, split, Vocabulary.load(self.vocabulary))


def _direction_first(name: str) -> str:
    for written, shown in (("(e1,e2)", "1→2"), ("(e2,e1)", "2→1")):
        if name.endswith(written):
            return f"{shown} {name.removesuffix(written)}"
    return name
