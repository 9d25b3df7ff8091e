"""Questions with their contexts, served in windows that a model can read: `[CLS] question [SEP] a part of the context [SEP]`.

An example is a question. A context that is too long is cut into windows that overlap, so every answer that is not longer than the overlap
is whole in one of them; a window without the answer points to its [CLS]. With every token come the characters of the context that it
stands for, so that what a model points to can be read in the text as it was written.

Shapes: B questions, W windows of all of them, T the longest window, N questions of a split.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from components.data.ragged import Ragged
from components.data.segments import MARKS, join
from components.data.tokens import Vocabulary
from components.protocols import Batch

NOWHERE = -1


class Question(NamedTuple):
    """One question."""

    id: str
    question: str
    context: str
    answers: Sequence[tuple[int, str]]
    """Where each of its answers begins, in characters, and the answer; none where the context does not answer it."""
    group: str
    """Questions of one group are in one split."""
    place: str
    """Where it comes from, for messages."""


class QuestionSplit:
    """Questions about texts.

    Args:
        tensors: as `tensors_of` made them.
        vocabulary: whose marks.
        longest: tokens of a window.
        overlap: tokens that a window of a context shares with the one before it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, *, longest: int, overlap: int) -> None:
        self.vocabulary, self.longest, self.overlap = vocabulary, longest, overlap
        self.questions, self.contexts, self.question_texts, self.context_texts, self.answers = (
            Ragged.load(dict(tensors), name) for name in ("questions", "contexts", "question_texts", "context_texts", "answers")
        )
        self.begins, self.stops = tensors["begins"], tensors["stops"]
        self.of, self.targets = tensors["of"], tensors["targets"]
        self._lengths = self.questions.lengths + self.contexts.lengths[self.of] + MARKS

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 tokens of question and context together, in however many windows."""
        return self._lengths

    def __len__(self) -> int:
        return len(self.of)

    def context(self, place: int) -> str:
        """The text that question `place` is about, as it was written."""
        return self.context_texts.text(int(self.of[place]))

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — texts are not augmented
        """The windows of the questions `index` (B,).

        Returns:
            `inputs` (W, T) int64, `lengths` (W,), `segments` (W, T); `rows` (W,) int64, each window's question by its place in the batch;
            `context_places` (W, T) bool, where an answer may begin and end; `begins`, `stops` (W, T) int64, the characters of each token
            there; `starts`, `ends` (W,) int64, the places of the answer's first and last token, 0 where it is not in the window;
            lists of length B: `questions`, `contexts`, `answers` (a list each); `index` (B,).
        """
        asked = self.questions.lengths[index]
        read = self.contexts.lengths[self.of[index]]
        room = self.longest - asked - MARKS
        step = room - self.overlap
        windows = 1 + ((read - room).clamp(min=0) + step - 1) // step
        rows = torch.arange(len(index)).repeat_interleave(windows)
        number = torch.arange(len(rows)) - (windows.cumsum(0) - windows)[rows]
        begin = number * step[rows]  # (W,), in tokens of the context
        size = torch.minimum(read[rows] - begin, room[rows])
        first = self.contexts.bounds[self.of[index]][rows] + begin  # in tokens of all contexts
        columns = torch.arange(max(int(size.max()), 1))
        places = (first.unsqueeze(1) + columns).clamp(max=max(len(self.contexts.values) - 1, 0))
        questions, _ = self.questions.padded(index, pad=self.vocabulary.pad)
        joined = join((questions[rows], asked[rows]), (self.contexts.values[places].long(), size), self.vocabulary)
        within = joined.words & (joined.segments == 1)
        before = (asked[rows] + 2).unsqueeze(1)  # [CLS], question, [SEP]
        token = (first.unsqueeze(1) + torch.arange(joined.inputs.shape[1]) - before).clamp(0, max(len(self.begins) - 1, 0))
        target = self.targets[index][rows] - begin.unsqueeze(1)  # (W, 2), in tokens of the window's part
        inside = (self.targets[index][rows, 0] != NOWHERE) & (target[:, 0] >= 0) & (target[:, 1] < size)
        starts, ends = torch.where(inside.unsqueeze(1), target + before, 0).unbind(1)
        return {
            "inputs": joined.inputs,
            "lengths": joined.lengths,
            "segments": joined.segments,
            "rows": rows,
            "context_places": within,
            "begins": torch.where(within, self.begins[token].long(), 0),
            "stops": torch.where(within, self.stops[token].long(), 0),
            "starts": starts,
            "ends": ends,
            "questions": [self.question_texts.text(place) for place in index.tolist()],
            "contexts": [self.context_texts.text(place) for place in self.of[index].tolist()],
            "answers": [json.loads(self.answers.text(place)) for place in index.tolist()],
            "index": index,
        }

    def text(self, place: int) -> str:
        """Question `place` as it was written."""
        return self.question_texts.text(place)


def tensors_of(questions: Sequence[Question], vocabulary: Vocabulary, longest_question: int) -> tuple[dict[str, Tensor], int]:
    """What a split is made of, and how many answers have no token of their own and so cannot be pointed to.

    `questions`, `contexts`: tokens; `begins`, `stops`: each context token's characters; `of` (N,): each question's context; `targets`
    (N, 2): its first answer's first and last token in the context, −1 where there is none; `answers`: their texts, as JSON.
    """
    texts = list(dict.fromkeys(one.context for one in questions))
    number = {text: place for place, text in enumerate(texts)}
    encoded = [vocabulary.encode_with_spans(text) for text in texts]
    targets, lost = [], 0
    for one in questions:
        found = _tokens(encoded[number[one.context]][1], *_characters(one)) if one.answers else None
        lost += bool(one.answers) and found is None
        targets.append(found or (NOWHERE, NOWHERE))
    spans = [span for _, spans in encoded for span in spans]
    asked = vocabulary.encode_all([one.question for one in questions])
    return {
        **Ragged.of([ids[:longest_question] for ids in asked]).tensors("questions"),
        **Ragged.of([ids for ids, _ in encoded]).tensors("contexts"),
        **Ragged.of_texts([one.question for one in questions]).tensors("question_texts"),
        **Ragged.of_texts(texts).tensors("context_texts"),
        **Ragged.of_texts([json.dumps([text for _, text in one.answers], ensure_ascii=False) for one in questions]).tensors("answers"),
        "begins": torch.tensor([begin for begin, _ in spans], dtype=torch.int32),
        "stops": torch.tensor([stop for _, stop in spans], dtype=torch.int32),
        "of": torch.tensor([number[one.context] for one in questions], dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64).view(-1, 2),
    }, lost


def _characters(one: Question) -> tuple[int, int]:
    begin, text = one.answers[0]
    return begin, begin + len(text)


def _tokens(spans: Sequence[tuple[int, int]], begin: int, stop: int) -> tuple[int, int] | None:
    """The first and the last token that have characters from `begin` up to `stop`; None where no token has any."""
    inside = [place for place, (first, last) in enumerate(spans) if first < stop and last > begin and last > first]
    return (inside[0], inside[-1]) if inside else None
