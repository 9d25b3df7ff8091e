"""Telling which of C classes a text belongs to: as `classification`, of texts of any length, beside what a model without a network says.

Where the data come with a baseline's answers (see `components/data/labelled_text.py`), its accuracy on the same examples stands next to
ours, and whether it was right is kept for each example, so that the two can be compared in pairs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.tokens import Vocabulary
from components.objectives.classification import Classification
from components.objectives.recurrent_pictures import gates_picture
from components.objectives.transformer_pictures import transformer_pictures
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_TEXTS = 6
SHOWN_TOKENS = 24
"""Pictures show texts of at most this many tokens, so that every word can be read."""
MAPPED_TEXTS = 200


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(Classification):
    """Single-label classification of token sequences: a batch has `inputs` (B, T), `lengths` (B,) and `targets` (B,).

    Args:
        vocabulary: how tokens are written, for pictures and answers.
    """

    vocabulary: str | None = None

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, C)."""
        logits: Tensor = model(batch["inputs"], batch["lengths"])
        return logits

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """As classification's, with `length` (B,) and, where there is a baseline, `baseline_correct` (B,) bool."""
        found = super().outcomes(model, batch) | {"length": batch["lengths"].cpu()}
        if "baseline" in batch:
            found["baseline_correct"] = batch["baseline"].cpu() == found["target"]
        return found

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """As classification's, and `baseline_accuracy`: TF-IDF with logistic regression on the same examples."""
        found = super().metrics(outcomes)
        if "baseline_correct" in outcomes:
            found["baseline_accuracy"] = outcomes["baseline_correct"].double().mean().item()
        return found

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """As classification's; `unknown` counts the tokens that the vocabulary does not have, where there are any."""
        found = super().answer(model, batch)
        unknown = unknown_tokens(batch, self.vocabulary)
        return found | {"unknown": unknown} if unknown else found

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """Pictures that need the model: `words` that moved a decision, and `gates` over the words of one text.

        Of a transformer `attention` over the words of one text, `positions`, and `embeddings`: how the split's texts lie beside each other.
        """
        if self.vocabulary is None or not hasattr(model, "read"):
            return {}
        from components.figures import style
        from components.figures.sequences import moving_words

        vocabulary = Vocabulary.load(self.vocabulary)
        assert split.lengths is not None
        fitting = torch.nonzero(split.lengths <= SHOWN_TOKENS).flatten()
        places = fitting[split.lengths[fitting].argsort(descending=True, stable=True)][:SHOWN_TEXTS]
        if not len(places):
            return {}
        batch = split.batch(places)
        with torch.no_grad():
            probability = F.softmax(self.logits(model, batch).double(), dim=1)
        moved = influence(model, batch, probability.argmax(1))
        rows = []
        for row, length in enumerate(batch["lengths"].tolist()):
            words = vocabulary.tokens(batch["inputs"][row, :length].tolist())
            answer = int(probability[row].argmax())
            said, given = (style.isolated(self.class_names[place]) for place in (answer, int(batch["targets"][row])))
            rows.append((f"{said} {float(probability[row, answer]):.0%} (is {given})", words, moved[row, :length].tolist()))
        figures = {"words": moving_words(rows)}
        if hasattr(model, "gates"):
            length = int(batch["lengths"][0])
            words = vocabulary.tokens(batch["inputs"][0, :length].tolist())
            figures["gates"] = gates_picture(model, batch["inputs"][:1, :length], words)
        length = int(batch["lengths"][0])
        inputs = batch["inputs"][:1, :length]
        figures |= transformer_pictures(model, inputs, vocabulary.tokens(inputs[0].tolist()))
        if inspect.ismethod(getattr(model, "features", None)) and hasattr(split, "text") and len(split) > 1:
            figures["embeddings"] = self._embeddings(model, split)
        return figures

    def _embeddings(self, model: nn.Module, split: Split) -> Figure:
        """What the head reads of some of the split's texts, in the plane."""
        from components.figures.embeddings import embedding_map

        batch = split.batch(torch.arange(0, len(split), -(-len(split) // MAPPED_TEXTS)))
        with torch.no_grad():
            vectors = model.features(batch["inputs"], batch["lengths"])  # type: ignore[operator]
        texts = [split.text(place) for place in batch["index"].tolist()]  # type: ignore[attr-defined]
        return embedding_map(vectors, texts, groups=batch["targets"].tolist(), names=self.class_names)


def influence(model: nn.Module, batch: Batch, classes: Tensor) -> Tensor:
    """How much each token speaks for the class `classes` (B,), in logits: gradient times input at the token's vector (B, T).

    The logit's advantage over the mean of the other classes' is what is explained.
    """
    with torch.enable_grad():
        vectors = model.vectors(batch["inputs"]).detach().requires_grad_()  # type: ignore[operator]
        logits = model.read(vectors, batch["lengths"])  # type: ignore[operator]
        chosen = logits.gather(1, classes.unsqueeze(1)).squeeze(1)
        others = (logits.sum(1) - chosen) / max(logits.shape[1] - 1, 1)
        (gradient,) = torch.autograd.grad((chosen - others).sum(), vectors)
    moved: Tensor = (gradient * vectors).sum(-1).detach()
    return moved


def unknown_tokens(batch: Batch, vocabulary: str | None) -> int:
    """How many of a batch's tokens are unknown to the vocabulary, if there is one."""
    return 0 if vocabulary is None else int((batch["inputs"] == Vocabulary.load(vocabulary).unknown).sum())
