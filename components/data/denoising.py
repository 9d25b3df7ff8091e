"""Damaging texts, for a model that learns to write them whole (Lewis et al. 2020, section 2.2):

- sentence permutation: the sentences in another order;
- token deletion: some tokens left out, so that the model has to find where;
- text infilling: spans of tokens, of Poisson's lengths, each replaced by one mark; a span of no token is a mark put in.

A text is damaged anew in every epoch, from the epoch's own generator; in evaluation always in the same way, from its place in the split.

`documents.safetensors` holds for each split its tokens, where its sentences end, and its texts.

Shapes: B batch, S the longest damaged text, T the longest text with its end mark.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.labelled_text import counted, one_text
from components.data.parallel_text import teacher_forced
from components.data.ragged import Ragged
from components.data.tokens import SPECIALS, TokenSettings, Vocabulary
from components.data.users_file import UsersFile
from components.data.written import read_text
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "documents.safetensors"

MASKED = (*SPECIALS, "[MASK]")
"""The marks of a vocabulary that damaged texts are written in."""

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")

Share = Annotated[float, Ge(0), Lt(1)]


def permuted(sentences: Sequence[Sequence[int]], generator: Generator) -> list[int]:
    """The sentences' tokens, sentence after sentence in a random order."""
    order = torch.randperm(len(sentences), generator=generator).tolist()
    return [token for place in order for token in sentences[place]]


def deleted(tokens: Sequence[int], share: float, generator: Generator) -> list[int]:
    """The tokens without a share of them, each drawn by itself; one at least stays."""
    stays = (torch.rand(len(tokens), generator=generator) >= share).tolist()
    return [token for token, here in zip(tokens, stays, strict=True) if here] or list(tokens[:1])


def infilled(tokens: Sequence[int], share: float, mean: float, mask: int, generator: Generator) -> list[int]:
    """The tokens with a share of them gone in spans, each span one mark.

    The lengths are Poisson's, of mean `mean`, until the share is reached (the last one cut to it). Where the spans stand is uniform among
    all ways in which no two touch.
    """
    budget = round(share * len(tokens))
    if budget == 0:
        return list(tokens)
    lengths: list[int] = []
    for drawn in torch.poisson(torch.full((budget + 4,), mean), generator=generator).long().tolist():
        lengths.append(min(drawn, budget - sum(lengths)))
        if sum(lengths) == budget or len(lengths) > len(tokens) - budget:
            break
    stays = len(tokens) - sum(lengths)
    before = dict(zip(torch.randperm(stays + 1, generator=generator)[: len(lengths)].tolist(), lengths, strict=True))
    found: list[int] = []
    read = 0
    for place in range(stays + 1):
        if place in before:
            found.append(mask)
            read += before[place]
        if place < stays:
            found.append(tokens[read])
            read += 1
    return found


class DenoisingSplit:
    """Texts, served damaged and whole."""

    augments = True
    """In training each epoch damages them anew."""

    def __init__(self, tokens: Ragged, ends: Ragged, texts: Ragged, noise: "Denoised", mask: int) -> None:
        """`tokens` and `texts` of N documents, the places where their sentences end, and how they are damaged."""
        self.tokens, self.ends, self.texts, self.noise, self.mask = tokens, ends, texts, noise, mask

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 tokens of the whole texts."""
        return self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:
        """As a batch of pairs for teacher forcing: the source is the damaged text, the target the whole one; see `PairSplit`."""
        damaged = Ragged.of([self._damaged(place, generator) for place in index.tolist()])
        batch = teacher_forced(damaged, torch.arange(len(index)), self.tokens, index)
        originals = [self.texts.text(place) for place in index.tolist()]
        return batch | {"references": originals, "originals": originals, "index": index}

    def text(self, place: int) -> str:
        """Document `place` as it was written."""
        return self.texts.text(place)

    def _damaged(self, place: int, generator: Generator | None) -> list[int]:
        chance = generator or Generator().manual_seed(place)
        tokens: list[int] = self.tokens.row(place).tolist()
        if self.noise.permutation:
            bounds = [0, *self.ends.row(place).tolist()]
            tokens = permuted([tokens[begin:end] for begin, end in pairwise(bounds)], chance)
        if self.noise.deletion:
            tokens = deleted(tokens, self.noise.deletion, chance)
        return infilled(tokens, self.noise.infilling, self.noise.span, self.mask, chance)


@dataclass(frozen=True, kw_only=True)
class Denoised(TokenSettings):
    """What every data set of damaged texts shares.

    Attributes:
        infilling: share of a text's tokens that are replaced in spans.
        span: mean length of a span.
        deletion: share of a text's tokens that are left out.
        permutation: whether a text's sentences are put in another order.
    """

    infilling: Share = 0.3
    span: Annotated[float, Gt(0)] = 3.0
    deletion: Share = 0.0
    permutation: bool = True

    name: ClassVar[str]

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors = load_file(folder / FILE)
        mask = Vocabulary.load(card["facts"]["vocabulary"]).mask
        found: dict[str, Split] = {}
        for name in card["counts"]:
            tokens, ends, texts = (Ragged.load(tensors, f"{name}.{part}") for part in ("tokens", "ends", "texts"))
            found[name] = DenoisingSplit(tokens, ends, texts, self, mask)
        return found

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A text, or a text file, to write whole: a batch of one without `targets`; cut as those to train on are."""
        return one_text(given, facts, self.longest)

    def write(self, into: Path, parts: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it. What is too long is cut."""
        if vocabulary.mask < 0:
            raise DataError("the vocabulary has no mark to put in the place of words (such as [MASK])")
        tensors: dict[str, Tensor] = {}
        counts: dict[str, Any] = {}
        for name, texts in parts.items():
            tokens: list[list[int]] = []
            ends: list[list[int]] = []
            for text in texts:
                sentences = [ids for ids in vocabulary.encode_all(_BETWEEN_SENTENCES.split(text)) if ids]
                bounds = {min(end, self.longest) for end in accumulate(len(ids) for ids in sentences)}
                tokens.append([number for ids in sentences for number in ids][: self.longest] or [vocabulary.unknown])
                ends.append(sorted(bounds) or [1])
            documents = Ragged.of(tokens)
            tensors |= documents.tensors(f"{name}.tokens") | Ragged.of(ends).tensors(f"{name}.ends")
            tensors |= Ragged.of_texts(list(texts)).tensors(f"{name}.texts")
            counts[name] = {"examples": len(texts), **counted(documents.values, vocabulary)}
        save_file(tensors, into / FILE)
        return {
            "counts": counts,
            "facts": {
                "classes": len(vocabulary),
                "vocabulary_size": len(vocabulary),
                "vocabulary": vocabulary.dump(),
                "target_vocabulary_size": len(vocabulary),
                "target_vocabulary": vocabulary.dump(),
                "predicts": "text",
            },
        }


@dataclass(frozen=True, kw_only=True)
class DenoisedText(Denoised, UsersFile):
    """A user's own texts to pretrain with: a UTF-8 file, paragraphs between empty lines, each a text to be damaged.

    Attributes:
        path: the file.
        validation: share of the paragraphs, after those to train on, to validate on.
        test: share of the paragraphs, at the end, to test on.
    """

    validation: Annotated[float, Gt(0), Lt(1)] = 0.05
    test: Annotated[float, Gt(0), Lt(1)] = 0.05

    name: ClassVar[str] = "denoised_text"

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError where there are too few paragraphs."""
        path = Path(self.path).expanduser()
        texts = [" ".join(text.split()) for text in re.split(r"\n\s*\n", read_text(path)) if text.strip()]
        second = len(texts) - max(round(self.test * len(texts)), 1)
        first = second - max(round(self.validation * len(texts)), 1)
        if first < 1:
            raise DataError(f"{path} has {len(texts)} paragraphs (between empty lines): too few to train, validate and test on")
        parts = {"train": texts[:first], "validation": texts[first:second], "test": texts[second:]}
        return {
            "source": path.name,
            "licence": "the user's own",
            **self.write(into, parts, self.vocabulary(parts["train"], fetch, specials=MASKED)),
        }
