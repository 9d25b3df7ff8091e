"""Writing one text for another: cross-entropy under teacher forcing; BLEU, chrF and exact match of what the model writes by itself.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacreBLEU's (Post 2018) on the texts as they were written: cased, detokenized,
one reference; signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp. `loss` and perplexity are by target token, end mark included, so
perplexities compare only between models of one vocabulary.

Shapes: B examples, S source tokens, T target tokens, V target tokens known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from components.data.tokens import Vocabulary
from components.errors import DataError
from components.objectives.language_modelling import perplexity
from components.objectives.writing import Writing
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Translation(Writing):
    """A text in one language for one in another.

    Args:
        vocabulary, target_vocabulary, label_smoothing, beams, length_penalty, no_repeat, shortest, limit: see `Writing`.
        best_by: the validation metric that decides which weights are kept.
    """

    best_by: Literal["bleu", "chrf", "exact_match", "nll"] = "bleu"

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """What `best_by` says."""
        return self.best_by, "min" if self.best_by == "nll" else "max"

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What became of each example.

        Returns:
            What `told` returns, `source_length`, `exact` (bool); and, as texts, `hypothesis` (what the model writes by itself) and
            `reference`.
        """
        vocabulary = Vocabulary.load(self.target_vocabulary)
        written = [vocabulary.decode(ids) for ids in self.write(model, batch).tolist()]
        exact = [hypothesis == " ".join(reference.split()) for hypothesis, reference in zip(written, batch["references"], strict=True)]
        return self.told(model, batch) | {
            "source_length": batch["lengths"].cpu(),
            "exact": torch.tensor(exact),
            "hypothesis": written,
            "reference": list(batch["references"]),
        }

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`nll` (nats a target token), `perplexity`, `bleu` and `chrf` (0 … 100), `exact_match` (0 … 1)."""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        nll = float(outcomes["nll"].sum()) / int(outcomes["tokens"].sum())
        return {
            "nll": nll,
            "perplexity": perplexity(nll),
            "bleu": bleu(outcomes["hypothesis"], outcomes["reference"]),
            "chrf": chrf(outcomes["hypothesis"], outcomes["reference"]),
            "exact_match": outcomes["exact"].double().mean().item(),
        }

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """`bleu_by_length`: BLEU of sentences of like length."""
        from components.figures.translation import score_by_length

        return {"bleu_by_length": score_by_length({"BLEU": bleu_by_length(outcomes)})}

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> dict[str, Figure]:  # noqa: ARG002 — as others
        """`bleu_by_length` of several runs on the same sentences."""
        from components.figures.translation import score_by_length

        first = next(iter(runs.values()))[1]
        same = {name: outcomes | {"source_length": _in_order(first, outcomes)} for name, (_, outcomes) in runs.items()}
        return {"bleu_by_length": score_by_length({name: bleu_by_length(outcomes) for name, outcomes in same.items()})}


def _in_order(first: Outcomes, outcomes: Outcomes) -> Tensor:
    """The first run's source lengths in the order of another's outcomes: groups are then of the same sentences, whatever the tokens."""
    length = dict(zip(first["index"].tolist(), first["source_length"].tolist(), strict=True))
    return torch.tensor([length[place] for place in outcomes["index"].tolist()])


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 … 100."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU().corpus_score(list(hypotheses), [list(references)]).score)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF (β = 2, characters only), 0 … 100."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(hypotheses), [list(references)]).score)


def bleu_by_length(outcomes: Outcomes, *, groups: int = 6) -> list[tuple[int, int, int, float]]:
    """(shortest, longest, sentences, BLEU) of groups of about equal size by source length, short ones first."""
    lengths: Tensor = outcomes["source_length"]
    order = lengths.argsort(stable=True)
    found = []
    begin = 0
    for group in range(1, groups + 1):
        end = round(len(order) * group / groups)
        while 0 < end < len(order) and lengths[order[end]] == lengths[order[end - 1]]:
            end += 1  # sentences of one length stay together
        if end > begin:
            rows = order[begin:end].tolist()
            score = bleu([outcomes["hypothesis"][row] for row in rows], [outcomes["reference"][row] for row in rows])
            found.append((int(lengths[rows[0]]), int(lengths[rows[-1]]), len(rows), score))
            begin = end
    return found
