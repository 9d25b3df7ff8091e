"""Writing one text for another: cross-entropy under teacher forcing; BLEU, chrF and exact match of what the model writes by itself.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacreBLEU's (Post 2018) on the texts as they were written: cased, detokenized,
one reference; signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp. `loss` and perplexity are by target token, end mark included, so
perplexities compare only between models of one vocabulary.

Shapes: B examples, S source tokens, T target tokens, V target tokens known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.tokens import END, PAD, START, Vocabulary
from components.decoding import beam_search, greedy
from components.errors import DataError
from components.objectives.language_modelling import perplexity
from components.objectives.sequence_classification import unknown_tokens
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_TOKENS = 20
SHOWN_PAIRS = 2


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A batch has `inputs` (B, S), `lengths`, `decoder_inputs` (B, T), `targets` (B, T) and `references`; the model is a seq2seq.

    Args:
        vocabulary: how source tokens are written; given by the data.
        target_vocabulary: how target tokens are written; given by the data.
        label_smoothing: share of the target that is spread evenly over all tokens, in training (Szegedy et al. 2016).
        beams: how many sequences are followed when the model writes; 1 is greedy.
        length_penalty: a beam's log-probability is divided by its length to this power.
        limit: tokens that the model writes at most.
        best_by: the validation metric that decides which weights are kept.
    """

    vocabulary: str
    target_vocabulary: str
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    beams: Annotated[int, Ge(1)] = 1
    length_penalty: Annotated[float, Ge(0)] = 1.0
    limit: Annotated[int, Gt(0)] = 100
    best_by: Literal["bleu", "chrf", "exact_match", "nll"] = "bleu"

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """What `best_by` says."""
        return self.best_by, "min" if self.best_by == "nll" else "max"

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats over all target tokens."""
        logits = model(batch["inputs"], batch["lengths"], batch["decoder_inputs"])
        return {
            "loss": F.cross_entropy(
                logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=PAD, label_smoothing=self.label_smoothing
            )
        }

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What became of each example.

        Returns:
            `index`, `nll` (summed −log p in nats under teacher forcing), `tokens` of the target, `source_length`, `exact` (bool); and, as
            texts, `hypothesis` (what the model writes by itself) and `reference`.
        """
        with torch.no_grad():
            logits = model(batch["inputs"], batch["lengths"], batch["decoder_inputs"]).float()
            nll = F.cross_entropy(logits.mT, batch["targets"], ignore_index=PAD, reduction="none").double().sum(1)
        vocabulary = Vocabulary.load(self.target_vocabulary)
        written = [vocabulary.decode(ids) for ids in self.write(model, batch).tolist()]
        exact = [hypothesis == " ".join(reference.split()) for hypothesis, reference in zip(written, batch["references"], strict=True)]
        return {
            "index": batch["index"].cpu(),
            "nll": nll.cpu(),
            "tokens": (batch["targets"] != PAD).sum(1).cpu(),
            "source_length": batch["lengths"].cpu(),
            "exact": torch.tensor(exact),
            "hypothesis": written,
            "reference": list(batch["references"]),
        }

    def write(self, model: Any, batch: Batch) -> Tensor:
        """What the model writes by itself: (B, ≤ limit) int64, end marks behind. The encoder runs once, whatever the number of beams."""
        size = len(batch["inputs"])
        with torch.no_grad():
            encoded, state = model.encode(batch["inputs"], batch["lengths"])
            marks = {"batch": size, "start": START, "end": END, "limit": self.limit}
            if self.beams == 1:
                return greedy(lambda tokens, now: model.step(tokens, now, encoded), state, **marks)
            wide = encoded.repeated(self.beams)
            begin = tuple(part.repeat_interleave(self.beams, dim=0) for part in state)
            step = lambda tokens, now: model.step(tokens, now, wide)  # noqa: E731 — a closure over what never changes
            return beam_search(step, begin, beams=self.beams, length_penalty=self.length_penalty, **marks)[0]

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`text`: the translation; `unknown` counts the source tokens that the vocabulary does not have, where there are any."""
        ids = self.write(model, batch)[0].tolist()
        unknown = unknown_tokens(batch, self.vocabulary)
        cut = {} if END in ids else {"cut": self.limit}
        return {"text": Vocabulary.load(self.target_vocabulary).decode(ids)} | ({"unknown": unknown} if unknown else {}) | cut

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

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """Pictures that need the model: `alignment`, where it looked while it wrote."""
        from components.figures.translation import alignment

        sources, targets = Vocabulary.load(self.vocabulary), Vocabulary.load(self.target_vocabulary)
        assert split.lengths is not None
        sizes = split.batch(torch.arange(min(len(split), 500)))["lengths"]
        fitting = torch.nonzero(sizes <= SHOWN_TOKENS).flatten()
        figures = {}
        for number, place in enumerate(fitting[sizes[fitting].argsort(descending=True, stable=True)][:SHOWN_PAIRS].tolist(), start=1):
            batch = split.batch(torch.tensor([place]))
            written, weights = self.looked(model, batch)
            if weights is None:
                return {}
            names = sources.tokens(batch["inputs"][0].tolist()), targets.tokens(written.tolist())
            figures[f"alignment-{number}"] = alignment(*names, weights.mean((0, 1)))
        return figures

    def looked(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Of a batch of one: what the model writes (T,), end mark included, and the weights (N, H, T, S) that each head of each layer
        looked at the source with; None where nothing looks.
        """
        written = self.write(model, batch)
        if END in written[0]:
            written = written[:, : written[0].tolist().index(END) + 1]
        with torch.no_grad():
            encoded, state = model.encode(batch["inputs"], batch["lengths"])
            given = torch.cat([torch.full((1, 1), START), written[:, :-1]], dim=1)
            weights = model.looks(given, state, encoded)
        return written[0], None if weights is None else weights[0]


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
