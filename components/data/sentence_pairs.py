"""What BERT is pretrained on (Devlin et al. 2019): two pieces of a text some of whose words are masked, and whether they belong together.

    [CLS] in the beginning god [MASK] the heaven [SEP] and the earth was [MASK] form [SEP]        follows

The text is cut into sentences, sentences are packed into pieces of at most half of what a model is to read, and every two pieces that
follow each other are an example. Half of the examples get another example's second piece instead (`elsewhere`). Of the words 15 % are
asked about: of these 80 % are masked, 10 % replaced by any word, 10 % left as they are, so that no place can be passed over. All of
this is drawn anew every epoch in training, and always the same for evaluation, whatever the batches are.

The first share of the text trains, the next validates, the last tests. `pieces.safetensors` holds for each split its pieces' tokens.

Where we differ from the paper: pieces are never cut but at their half, and lengths are not drawn at random.

Shapes: B examples, T the longest example of the batch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.batches import derived_seed
from components.data.labelled_text import counted
from components.data.ragged import Ragged
from components.data.segments import MARKS, join
from components.data.text_stream import IGNORED, KING_JAMES, KING_JAMES_SAYS, king_james
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.data.users_file import UsersFile
from components.data.written import given_text, read_text
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "pieces.safetensors"
MASKED, REPLACED = 0.8, 0.1
"""Of the words asked about, the share that is masked, and the share that is replaced by any word."""

MASK = "[MASK]"
BETWEEN = "|||"
"""What stands between two texts that a person gives."""

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*[\"'”’)\]]*")


class SentencePairSplit:
    """Examples of two pieces each, with words to tell.

    Args:
        pieces: 2N pieces; example i has the pieces 2i and 2i + 1.
        vocabulary: whose marks.
        share: of the words, what is asked about.
        commonest: the training split's most frequent token.
    """

    augments = True
    """What is masked changes from epoch to epoch."""

    def __init__(self, pieces: Ragged, vocabulary: Vocabulary, *, share: float, commonest: int) -> None:
        self.pieces, self.vocabulary, self.share, self.commonest = pieces, vocabulary, share, commonest
        self._ordinary = torch.tensor(sorted(set(range(len(vocabulary))) - vocabulary.marks))
        self._lengths = pieces.lengths.view(-1, 2).sum(1) + MARKS
        self._longest = int(pieces.lengths.max()) * 2 + MARKS

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 tokens of each example with its own second piece."""
        return self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:
        """One batch.

        Returns:
            `inputs` (B, T) int64 as the model is to read it, `lengths` (B,), `segments` (B, T); `places` (B, T) bool, what is asked
            about; `targets` (B, T) int64, the word there, −100 elsewhere; `elsewhere` (B,) int64, 1 where the second piece does not
            follow; `commonest` (B,) int64, how many of the words asked about are the most frequent one; `index` (B,).
        """
        noise = self._noise(index, generator)
        other = (noise[:, 1] * len(self)).long()
        elsewhere = (noise[:, 0] < 0.5) & (other != index)
        second = torch.where(elsewhere, other, index)
        joined = join(self.pieces.padded(2 * index), self.pieces.padded(2 * second + 1), self.vocabulary)
        asked, how, which = noise[:, 2:].view(len(index), 3, -1)[:, :, : joined.inputs.shape[1]].unbind(1)
        asked = torch.where(joined.words, asked, 2.0)
        places = joined.words & ((asked < self.share) | (asked == asked.amin(1, keepdim=True)))  # one at least
        replaced = self._ordinary[(which * len(self._ordinary)).long()]
        changed = torch.where(how < MASKED, self.vocabulary.mask, torch.where(how < MASKED + REPLACED, replaced, joined.inputs))
        targets = torch.where(places, joined.inputs, IGNORED)
        return {
            "inputs": torch.where(places, changed, joined.inputs),
            "lengths": joined.lengths,
            "segments": joined.segments,
            "places": places,
            "targets": targets,
            "elsewhere": elsewhere.long(),
            "commonest": (targets == self.commonest).sum(1),
            "index": index,
        }

    def _noise(self, index: Tensor, generator: Generator | None) -> Tensor:
        """(B, 2 + 3T) from 0 to 1: for each example two numbers about its second piece, and three for each place."""
        width = 2 + 3 * self._longest
        if generator is not None:
            return torch.rand(len(index), width, generator=generator)
        fixed = Generator()
        return torch.stack([torch.rand(width, generator=fixed.manual_seed(derived_seed("masking", place))) for place in index.tolist()])


@dataclass(frozen=True, kw_only=True)
class SentencePairs(TokenSettings):
    """What every text to pretrain on shares.

    Attributes:
        masked: share of the words that are asked about.
        validation: share of the text, after the training part, to validate on.
        test: share of the text, at its end, to test on.
    """

    masked: Annotated[float, Gt(0), Lt(1)] = 0.15
    validation: Annotated[float, Gt(0), Lt(1)] = 0.05
    test: Annotated[float, Gt(0), Lt(1)] = 0.05

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        if self.longest < 8:
            raise ValueError(f"{self.longest} tokens are too few for two pieces and three marks (8 are the fewest)")

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors, vocabulary = load_file(folder / FILE), Vocabulary.load(card["facts"]["vocabulary"])
        share, commonest = card["recipe"]["masked"], card["commonest"]["number"]
        return {
            name: SentencePairSplit(Ragged.load(tensors, name), vocabulary, share=share, commonest=commonest) for name in card["counts"]
        }

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A text, or a text file, with [MASK] for each word to tell; or two with ||| between them: a batch of one without `targets`.

        Raises:
            DataError: it has neither, or is empty.
        """
        text, vocabulary = given_text(given), Vocabulary.load(facts["vocabulary"])
        parts = text.split(BETWEEN)
        if len(parts) > 2 or (len(parts) == 1 and MASK not in text):
            raise DataError(f"write {MASK} for a word that is to be told, or {BETWEEN} once, between two texts that may belong together")
        pieces = [_with_masks(part, vocabulary) for part in parts]
        if not all(pieces):
            raise DataError("there is no text: nothing in it is a token")
        inputs, segments = vocabulary.pair(*pieces) if len(pieces) == 2 else (vocabulary.framed(pieces[0]), None)
        batch: Batch = {
            "inputs": torch.tensor([inputs], dtype=torch.int64),
            "lengths": torch.tensor([len(inputs)]),
            "segments": torch.tensor([segments or [0] * len(inputs)], dtype=torch.int64),
            "index": torch.zeros(1, dtype=torch.int64),
            "texts": [text],
            "pair": len(pieces) == 2,
        }
        return batch | {"places": batch["inputs"] == vocabulary.mask}

    def write(self, into: Path, text: str, fetch: Fetch) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it.

        Raises:
            DataError: the text is too short to be divided, or the vocabulary has no mark for a masked word.
        """
        first, second = round(len(text) * (1 - self.validation - self.test)), round(len(text) * (1 - self.test))
        parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
        vocabulary = self.vocabulary(parts["train"].splitlines(keepends=True), fetch, specials=BERTS_SPECIALS)
        if vocabulary.mask < 0:
            raise DataError(f"the vocabulary of {self.tokens} has no {MASK}: it is of a model that was not taught so")
        tensors: dict[str, Tensor] = {}
        counts: dict[str, Any] = {}
        for name, part in parts.items():
            pieces = packed(vocabulary.encode_all(sentences(part)), (self.longest - MARKS) // 2)
            pieces = pieces[: len(pieces) // 2 * 2]
            if len(pieces) < 4:
                raise DataError(f"the text is too short: its {name} part has {len(pieces)} pieces, and 4 are the fewest")
            kept = Ragged.of(pieces)
            tensors |= kept.tensors(name)
            counts[name] = {"examples": len(pieces) // 2, "characters": len(part), **counted(kept.values, vocabulary)}
        often = torch.bincount(tensors["train"], minlength=len(vocabulary))
        save_file(tensors, into / FILE)
        number = int(often.argmax())
        share = round(int(often[number]) / int(often.sum()), 4)
        return {
            "counts": counts,
            "commonest": {"number": number, "token": vocabulary.tokens([number])[0], "share": share},
            "facts": {
                "classes": len(vocabulary),
                "vocabulary_size": len(vocabulary),
                "vocabulary": vocabulary.dump(),
                "predicts": "pretraining",
            },
        }


def sentences(text: str) -> list[str]:
    """The text's sentences: each ends with its line or behind `.`, `!` or `?` and what closes a quotation there."""
    return [found.strip() for found in _SENTENCE.findall(text) if found.strip()]


def packed(rows: list[list[int]], room: int) -> list[list[int]]:
    """Sentences one behind the other in pieces of at most `room` tokens; one that is longer is cut into several."""
    pieces: list[list[int]] = [[]]
    for row in rows:
        for begin in range(0, len(row), room):
            part = row[begin : begin + room]
            if len(pieces[-1]) + len(part) > room:
                pieces.append([])
            pieces[-1] = pieces[-1] + part
    return [piece for piece in pieces if piece]


def _with_masks(text: str, vocabulary: Vocabulary) -> list[int]:
    first, *others = (vocabulary.encode(part) for part in text.split(MASK))
    return first + [number for ids in others for number in (vocabulary.mask, *ids)]


@dataclass(frozen=True, kw_only=True)
class KingJamesPairs(SentencePairs):
    """The King James Bible, to pretrain on."""

    name: ClassVar[str] = "kjv_pairs"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [KING_JAMES.sha256], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        return {**KING_JAMES_SAYS, **self.write(into, king_james(fetch), fetch)}


@dataclass(frozen=True, kw_only=True)
class TextFilePairs(SentencePairs, UsersFile):
    """A user's own running text, to pretrain on.

    Attributes:
        path: the file, UTF-8.
    """

    name: ClassVar[str] = "text_file_pairs"

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError where the file is no text, or too short."""
        path = Path(self.path).expanduser()
        return {"source": path.name, "licence": "the user's own", **self.write(into, read_text(path), fetch)}
