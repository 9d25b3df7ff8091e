"""Telling masked words, and whether two texts follow each other: what BERT is pretrained with (Devlin et al. 2019).

    loss = −log p(the word at each masked place), in the mean,  −  log p(follows or not), in the mean

Beside the share of masked words that are told stands that of an answer that needs no model: always the training split's most frequent
token (`unigram_accuracy`, on the very same places).

Shapes: B examples, T places, M masked places of a batch, V words known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.segments import segments_of
from components.data.sentence_pairs import MASK
from components.data.tokens import Vocabulary
from components.errors import DataError
from components.objectives.language_modelling import perplexity
from components.objectives.sequence_classification import unknown_tokens
from components.objectives.transformer_pictures import pictures_of
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANSWERS = 5
"""How many words an answer to a person names."""
SHOWN_WORDS, SHOWN_GUESSES, SHOWN_AROUND = 12, 3, 6
"""A picture shows so many masked words, guesses of each, and tokens on either side of it."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A batch is one of `SentencePairSplit`; the model gives (M, V) of its masked places and (B, 2) of the pair.

    Args:
        vocabulary: how words are written; given by the data.
    """

    vocabulary: str

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the lowest −log p of both questions together."""
        return "nll", "min"

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and its parts `masked_words` and `next_sentence`: mean cross-entropies in nats."""
        words, follows = model(batch["inputs"], batch["lengths"], batch["segments"], batch["places"])
        masked = F.cross_entropy(words, batch["targets"][batch["places"]])
        pairs = F.cross_entropy(follows, batch["elsewhere"])
        return {"loss": masked + pairs, "masked_words": masked, "next_sentence": pairs}

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What became of each example.

        Returns:
            `index`; `words` asked about, `right` ones, `nll` their −log p (nats, summed), `commonest` (how many the most frequent token
            would tell); `follows_right` (bool), `follows_nll`; and, as lists, `places` of the words asked about and `place_nll` of each.
        """
        with torch.no_grad():
            words, follows = model(batch["inputs"], batch["lengths"], batch["segments"], batch["places"])
        places, targets = batch["places"], batch["targets"][batch["places"]]
        nll = F.cross_entropy(words.float(), targets, reduction="none").double().cpu()
        row, column = (part.cpu() for part in places.nonzero(as_tuple=True))
        asked = places.sum(1).cpu()
        by_row = torch.zeros(len(asked), dtype=torch.float64)
        sums = {"right": (words.argmax(-1) == targets).double().cpu(), "nll": nll}
        return {
            "index": batch["index"].cpu(),
            "words": asked,
            **{name: by_row.index_add(0, row, values) for name, values in sums.items()},
            "commonest": batch["commonest"].cpu(),
            "follows_right": (follows.argmax(-1) == batch["elsewhere"]).cpu(),
            "follows_nll": F.cross_entropy(follows.double(), batch["elsewhere"], reduction="none").cpu(),
            "places": [part.tolist() for part in torch.split(column, asked.tolist())],
            "place_nll": [[round(value, 4) for value in part.tolist()] for part in torch.split(nll, asked.tolist())],
        }

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """What the model tells.

        Returns:
            `masked_word_accuracy` and `unigram_accuracy` (0 … 1), `masked_word_nll` (nats a word) and `perplexity`;
            `next_sentence_accuracy`; `nll`, the loss: masked words' and next sentences', in nats.

        Raises:
            DataError: there are no outcomes.
        """
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        words = int(outcomes["words"].sum())
        masked = float(outcomes["nll"].sum()) / words
        return {
            "masked_word_accuracy": float(outcomes["right"].sum()) / words,
            "unigram_accuracy": int(outcomes["commonest"].sum()) / words,
            "masked_word_nll": masked,
            "perplexity": perplexity(masked),
            "next_sentence_accuracy": outcomes["follows_right"].double().mean().item(),
            "nll": masked + outcomes["follows_nll"].mean().item(),
        }

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """The likeliest words for each [MASK] of a batch of one, and whether its second text follows the first.

        Returns:
            `answers`, where one word is asked about, each with `label` and `probability`; `text`, filled with the likeliest words, and
            `words`, such answers for each, where several are; `follows` (0 … 1) where there are two texts; `unknown` where there are any.
        """
        vocabulary = Vocabulary.load(self.vocabulary)
        with torch.no_grad():
            words, follows = model(batch["inputs"], batch["lengths"], batch["segments"], batch["places"])
        likeliest = F.softmax(_no_marks(words.double(), vocabulary), dim=-1).topk(ANSWERS)
        told = [
            [
                {"label": vocabulary.tokens([number])[0], "probability": value}
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
            ]
            for numbers, values in zip(likeliest.indices, likeliest.values, strict=True)
        ]
        found: dict[str, Any] = {}
        if len(told) == 1:
            found["answers"] = told[0]
        else:
            filled = batch["texts"][0]
            for answers in told:
                filled = filled.replace(MASK, answers[0]["label"].removeprefix("##"), 1)
            found |= {"text": filled} | ({"words": told} if told else {})
        if batch["pair"]:
            found["follows"] = float(F.softmax(follows.double(), dim=-1)[0, 0])
        unknown = unknown_tokens(batch, self.vocabulary)
        return found | ({"unknown": unknown} if unknown else {})

    def served(self, model: Model, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, T, V) of the word at every place of tokens (B, T) alone."""
        words: Tensor = model(tokens, lengths, segments_of(tokens, Vocabulary.load(self.vocabulary)))[0]
        return words

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """`loss_by_position`: how well words are told at the beginning, in the middle and at the end of what is read."""
        from components.figures.pretraining import loss_by_position

        return {"loss_by_position": loss_by_position({"": nll_by_place(outcomes)})}

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> dict[str, Figure]:  # noqa: ARG002 — as others
        """`loss_by_position` of several runs in one picture."""
        from components.figures.pretraining import loss_by_position

        return {"loss_by_position": loss_by_position({name: nll_by_place(outcomes) for name, (_, outcomes) in runs.items()})}

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`masked_words`: words of the split's first examples, as they stand among others, and what the model takes them for.

        And of a transformer `attention` over a pair of texts, and `positions`.
        """
        from components.figures.pretraining import Masked, masked_words

        vocabulary = Vocabulary.load(self.vocabulary)
        batch = split.batch(torch.arange(min(SHOWN_WORDS, len(split))))
        with torch.no_grad():
            words, _ = model(batch["inputs"], batch["lengths"], batch["segments"], batch["places"])
        likeliest = F.softmax(_no_marks(words.double(), vocabulary), dim=-1).topk(SHOWN_GUESSES)
        shown, seen = [], set()
        for number, (row, place) in enumerate(batch["places"].nonzero().tolist()):
            if row in seen or int(batch["inputs"][row, place]) != vocabulary.mask:  # one of each example, and really masked
                continue
            seen.add(row)
            around = batch["inputs"][row, : int(batch["lengths"][row])].tolist()
            before, behind = around[max(place - SHOWN_AROUND, 0) : place], around[place + 1 : place + 1 + SHOWN_AROUND]
            guesses = zip(vocabulary.tokens(likeliest.indices[number].tolist()), likeliest.values[number].tolist(), strict=True)
            truth = vocabulary.tokens([int(batch["targets"][row, place])])[0]
            shown.append(Masked(vocabulary.tokens(before), truth, vocabulary.tokens(behind), list(guesses)))
        return pictures_of(model, split, vocabulary) | ({"masked_words": masked_words(shown)} if shown else {})


def nll_by_place(outcomes: Outcomes) -> list[tuple[int, float, int]]:
    """(place, mean −log p in nats, words asked about there), by place."""
    sums: dict[int, tuple[float, int]] = {}
    for places, values in zip(outcomes["places"], outcomes["place_nll"], strict=True):
        for place, value in zip(places, values, strict=True):
            total, count = sums.get(place, (0.0, 0))
            sums[place] = (total + value, count + 1)
    return [(place, total / count, count) for place, (total, count) in sorted(sums.items())]


def _no_marks(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits (…, V) under which no mark is ever the answer."""
    return logits.index_fill(-1, torch.tensor(sorted(vocabulary.marks), device=logits.device), float("-inf"))
