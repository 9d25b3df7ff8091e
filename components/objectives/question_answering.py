"""Finding the passage of a text that answers a question (Devlin et al. 2019, 4.2, on SQuAD of Rajpurkar et al. 2016).

The model gives every place two numbers: how well an answer begins there, s, and how well it ends there, e.

    loss      −log p(first token) and −log p(last token), their mean, over the windows' contexts and [CLS], which means: not here
    answer    the places i ≤ j < i + longest_answer of a context with the largest s_i + e_j, over all windows of a question

`exact_match` and `f1` are SQuAD's (`components/metrics/question_answering.py`), by question, whatever its windows.

Where we differ: the softmax leaves the question's own places out, since no answer is there.

Shapes: B questions, W windows of all of them, T places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.segments import segments_of
from components.data.tokens import Vocabulary
from components.errors import DataError
from components.metrics.question_answering import exact_match, word_f1, words
from components.objectives.sequence_classification import unknown_tokens
from components.objectives.transformer_pictures import pictures_of
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANSWERS = 3
"""How many answers a person is given."""
WINDOWS_AT_ONCE = 32
"""Windows that are looked at together when nothing is learned; a question may have any number."""
SHOWN_QUESTIONS = 10


class Answer(NamedTuple):
    """A passage, or nothing."""

    text: str
    begin: int
    """Its first character in the context."""
    stop: int
    score: float
    """The sum of both logits."""


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """A batch is one of `QuestionSplit`; the model gives (W, T, 2).

    Args:
        vocabulary: how tokens are written; given by the data.
        longest_answer: tokens of an answer at most.
        best: how many answers of a question are kept to choose from, and share the probability.
        no_answer_margin: null: every question is answered. A number: none is given where the best passage's score is not larger by this
            than that of [CLS] in the window that is least sure of it.
    """

    vocabulary: str
    longest_answer: Annotated[int, Ge(1)] = 30
    best: Annotated[int, Ge(1)] = 20
    no_answer_margin: float | None = None

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the highest F1."""
        return "f1", "max"

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats of the first and the last token, over all windows."""
        return {"loss": _nll(self._logits(model, batch), batch).mean()}

    def _logits(self, model: Model, batch: Batch, part: slice = slice(None)) -> Tensor:
        """(W, T, 2), −∞ where neither the context nor [CLS] is."""
        logits: Tensor = model(batch["inputs"][part], batch["lengths"][part], batch["segments"][part])
        allowed = batch["context_places"][part].clone()
        allowed[:, 0] = True
        return logits.masked_fill(~allowed.unsqueeze(-1), float("-inf"))

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What became of each question.

        Returns:
            `index`, `exact_match` and `f1` (0 … 1, float64), `nll` (nats, mean over its windows), `windows`; lists: `question`, `answers`
            given, `prediction`.
        """
        logits = self._all(model, batch)
        best = [found[0].text for found in self.passages(logits, batch)]
        rows, count = batch["rows"].cpu(), len(batch["questions"])
        windows = torch.bincount(rows, minlength=count)
        nll = torch.zeros(count, dtype=torch.float64).index_add(0, rows, _nll(logits.double(), batch).cpu()) / windows
        scores = [[score(said, given) for said, given in zip(best, batch["answers"], strict=True)] for score in (exact_match, word_f1)]
        return {
            "index": batch["index"].cpu(),
            "exact_match": torch.tensor(scores[0], dtype=torch.float64),
            "f1": torch.tensor(scores[1], dtype=torch.float64),
            "nll": nll,
            "windows": windows,
            "question": list(batch["questions"]),
            "answers": list(batch["answers"]),
            "prediction": best,
        }

    def passages(self, logits: Tensor, batch: Batch) -> list[list[Answer]]:
        """For each question its `best` different answers, the best first, from (W, T, 2); nothing, as "", where the margin says so."""
        found: list[list[Answer]] = [[] for _ in batch["questions"]]
        nothing = [float("inf")] * len(found)
        scores, places = best_spans(logits, batch["context_places"], longest=self.longest_answer, best=self.best)
        for window, row in enumerate(batch["rows"].tolist()):
            nothing[row] = min(nothing[row], float(logits[window, 0].sum()))
            for score, (first, last) in zip(scores[window].tolist(), places[window].tolist(), strict=True):
                if score > float("-inf"):
                    begin, stop = int(batch["begins"][window, first]), int(batch["stops"][window, last])
                    found[row].append(Answer(batch["contexts"][row][begin:stop], begin, stop, score))
        for row, answers in enumerate(found):
            answers.sort(key=lambda answer: -answer.score)
            once = {answer.text: answer for answer in reversed(answers)}  # the best of those that say the same
            found[row] = sorted(once.values(), key=lambda answer: -answer.score)[: self.best]
            if self.no_answer_margin is not None and (not found[row] or found[row][0].score - nothing[row] <= self.no_answer_margin):
                found[row].insert(0, Answer("", 0, 0, nothing[row]))
        return [answers or [Answer("", 0, 0, float("-inf"))] for answers in found]

    def _all(self, model: Model, batch: Batch) -> Tensor:
        """The logits of any number of windows."""
        count = len(batch["inputs"])
        with torch.no_grad():
            parts = [self._logits(model, batch, slice(at, at + WINDOWS_AT_ONCE)) for at in range(0, count, WINDOWS_AT_ONCE)]
        return torch.cat(parts).float()

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """The best answers to one question.

        Returns:
            `answers`: at most ANSWERS, each with `label` (the passage; "(no answer)" for none), `probability` (0 … 1, among the `best`),
            and `begin` and `stop`, its characters in the context. `unknown` counts tokens that the vocabulary does not have, where there
            are any.
        """
        found = self.passages(self._all(model, batch), batch)[0]
        share = torch.tensor([answer.score for answer in found], dtype=torch.float64).softmax(0).tolist()
        answers = [
            {"label": one.text or "(no answer)", "probability": value, "begin": one.begin, "stop": one.stop}
            for one, value in zip(found[:ANSWERS], share[:ANSWERS], strict=True)
        ]
        unknown = unknown_tokens(batch, self.vocabulary)
        return {"answers": answers} | ({"unknown": unknown} if unknown else {})

    def served(self, model: Model, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, T, 2) of windows (B, T) alone, as a batch has them."""
        logits: Tensor = model(tokens, lengths, segments_of(tokens, Vocabulary.load(self.vocabulary)))
        return logits

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`exact_match` and `f1` (0 … 1), `nll` (nats). DataError when there are no outcomes."""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        return {name: outcomes[name].mean().item() for name in ("exact_match", "f1", "nll")}

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """Of a transformer `attention` over a question and the beginning of its context, and `positions`."""
        return pictures_of(model, split, Vocabulary.load(self.vocabulary))

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:
        """`f1_by_question`: by who, what, when …; `f1_by_length` of the answer; `answers`: some questions and what was said."""
        from components.figures.question_answering import Asked, answers_table

        shown = range(min(SHOWN_QUESTIONS, len(outcomes["question"])))
        context = getattr(split, "context", lambda _: "")
        rows = [
            Asked(
                question=outcomes["question"][i],
                context=context(int(outcomes["index"][i])),
                given=outcomes["answers"][i],
                said=outcomes["prediction"][i],
                f1=float(outcomes["f1"][i]),
            )
            for i in shown
        ]
        return self._by_kind({"": outcomes}) | {"answers": answers_table(rows)}

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> dict[str, Figure]:  # noqa: ARG002 — as others
        """`f1_by_question` and `f1_by_length` of several runs in one picture."""
        return self._by_kind({name: outcomes for name, (_, outcomes) in runs.items()})

    def _by_kind(self, runs: Mapping[str, Outcomes]) -> dict[str, Figure]:
        from components.figures.question_answering import score_by_group

        by_question = {name: grouped([kind(text) for text in found["question"]], found["f1"]) for name, found in runs.items()}
        by_length = {name: grouped([_length(given) for given in found["answers"]], found["f1"]) for name, found in runs.items()}
        return {
            "f1_by_question": score_by_group(by_question, what="what is asked"),
            "f1_by_length": score_by_group(by_length, what="words of the answer", ordered=True),
        }


def best_spans(logits: Tensor, allowed: Tensor, *, longest: int, best: int) -> tuple[Tensor, Tensor]:
    """The passages with the largest sum of both ends' logits.

    Args:
        logits: (W, T, 2).
        allowed: (W, T) bool, where a passage may begin and end.
        longest: a passage's places at most.
        best: how many a window, at most.

    Returns:
        Scores (W, K), the largest first, −∞ where there are not so many, and first and last place (W, K, 2); K = min(best, T²).
    """
    places = logits.shape[1]
    band = torch.ones(places, places, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    scores, found = [], []
    for part, where in zip(torch.split(logits, WINDOWS_AT_ONCE), torch.split(allowed, WINDOWS_AT_ONCE), strict=True):  # (W, T, T) is large
        sums = part[:, :, None, 0] + part[:, None, :, 1]
        sums = sums.masked_fill(~(band & where.unsqueeze(2) & where.unsqueeze(1)), float("-inf"))
        top = sums.flatten(1).topk(min(best, places * places))
        scores.append(top.values)
        found.append(torch.stack([top.indices // places, top.indices % places], dim=-1))
    return torch.cat(scores), torch.cat(found)


KINDS = ("who", "when", "where", "why", "which", "how many", "how much", "how", "what")


def kind(question: str) -> str:
    """What a question asks with: the first such word in it, or `other`."""
    text = f" {' '.join(''.join(letter if letter.isalnum() else ' ' for letter in question.lower()).split())} "
    text = text.replace(" whom ", " who ").replace(" whose ", " who ")
    found = [(text.find(f" {word} "), -len(word), word) for word in KINDS if f" {word} " in text]
    return min(found)[2] if found else "other"


def grouped(names: list[str], values: Tensor) -> dict[str, tuple[float, int]]:
    """name → (mean of its values, how many)."""
    sums: dict[str, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        sums.setdefault(name, []).append(value)
    return {name: (sum(of) / len(of), len(of)) for name, of in sums.items()}


def _length(answers: list[str]) -> str:
    """Words of the first answer given, in groups."""
    count = len(words(answers[0])) if answers else 0
    return "none" if not answers else str(count) if count < 4 else "4–6" if count < 7 else "7 or more"


def _nll(logits: Tensor, batch: Batch) -> Tensor:
    """(W,): the mean of both ends' −log p, in nats."""
    begins = F.cross_entropy(logits[..., 0], batch["starts"], reduction="none")
    return (begins + F.cross_entropy(logits[..., 1], batch["ends"], reduction="none")) / 2
