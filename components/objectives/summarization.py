"""Writing a summary: cross-entropy under teacher forcing; ROUGE of what the model writes by itself, beside that of the lead sentence.

The lead baseline takes the text's first sentence for its summary, which is hard to beat where authors say first what matters most. Both
are measured on the same examples, and both are always among the metrics.

Shapes: B examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.data.tokens import Vocabulary
from components.errors import DataError
from components.metrics.summaries import lead_sentence, rouge
from components.objectives.language_modelling import perplexity
from components.objectives.writing import Writing
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Summarization(Writing):
    """A short text for a long one; a batch also has `originals`, the long ones as they were written.

    Args:
        vocabulary, target_vocabulary, label_smoothing, beams, length_penalty, no_repeat, shortest, limit: see `Writing`.
        best_by: the validation metric that decides which weights are kept.
    """

    best_by: Literal["rouge1", "rouge2", "rougeL", "nll"] = "rougeL"

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """What `best_by` says."""
        return self.best_by, "min" if self.best_by == "nll" else "max"

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What `told` returns; and, as texts, `hypothesis` (what the model writes by itself), `lead` and `reference`."""
        vocabulary = Vocabulary.load(self.target_vocabulary)
        return self.told(model, batch) | {
            "hypothesis": [vocabulary.decode(ids) for ids in self.write(model, batch).tolist()],
            "lead": [lead_sentence(text) for text in batch["originals"]],
            "reference": list(batch["references"]),
        }

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`nll` (nats a target token), `perplexity`; `rouge1`, `rouge2`, `rougeL` (0 … 100), and of the lead sentence `lead_rouge1` …"""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        nll = float(outcomes["nll"].sum()) / int(outcomes["tokens"].sum())
        lead = rouge(outcomes["lead"], outcomes["reference"])
        return {
            "nll": nll,
            "perplexity": perplexity(nll),
            **rouge(outcomes["hypothesis"], outcomes["reference"]),
            **{f"lead_{name}": value for name, value in lead.items()},
        }

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """`rouge`: the model beside the lead sentence."""
        from components.figures.writing import rouge_beside_lead

        return {"rouge": rouge_beside_lead(self.metrics(outcomes))}
