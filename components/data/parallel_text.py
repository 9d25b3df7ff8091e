"""Pairs of texts: something to translate, and its translation by a person (or by a rule that is known).

`pairs.safetensors` holds for each split the source's and the target's tokens and, to compare with what was really written, their texts.
Source and target have a vocabulary each, or one together, trained on the training split.

Shapes: B batch, S the longest source, T the longest target with its end mark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.labelled_text import counted, one_text
from components.data.ragged import Ragged
from components.data.splits import stratified
from components.data.tokens import END, PAD, SPECIALS, START, UNKNOWN, TokenSettings, Vocabulary
from components.errors import DataError, RequestError
from components.protocols import Batch, Split

FILE = "pairs.safetensors"

Pair = tuple[str, str]


def teacher_forced(sources: Ragged, source_places: Tensor, targets: Ragged, target_places: Tensor) -> Batch:
    """`inputs` (B, S), `lengths` (B,), `decoder_inputs` (B, T) and `targets` (B, T) of pairs of rows; see `PairSplit.batch`."""
    inputs, lengths = sources.padded(source_places, pad=PAD)
    words, target_lengths = targets.padded(target_places, pad=PAD)
    size = len(inputs)
    behind = torch.cat([words, torch.full((size, 1), PAD)], dim=1).scatter(1, target_lengths.unsqueeze(1), END)
    return {
        "inputs": inputs,
        "lengths": lengths,
        "decoder_inputs": torch.cat([torch.full((size, 1), START), words], dim=1),
        "targets": behind,
    }


class PairSplit:
    """Pairs of texts."""

    def __init__(self, sources: Ragged, targets: Ragged, source_texts: Ragged, target_texts: Ragged) -> None:
        self.sources, self.targets, self.source_texts, self.target_texts = sources, targets, source_texts, target_texts
        lengths = torch.stack([sources.lengths, targets.lengths])
        longer = lengths.amax(0)
        self._lengths = longer * (int(longer.max()) + 1) + sources.lengths

    @property
    def lengths(self) -> Tensor:
        """(N,) int64, a key that sorts by the longer of both texts, then by the source: the least padding on both sides."""
        return self._lengths

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — texts are not augmented
        """A batch for teacher forcing.

        Returns:
            `inputs` (B, S) int64 and `lengths` (B,): the source. `decoder_inputs` (B, T): the start mark and the target.
            `targets` (B, T): the target and the end mark, padding behind. `references` and `originals`: B targets and sources as they were
            written. `index` (B,).
        """
        return teacher_forced(self.sources, index, self.targets, index) | {
            "references": [self.target_texts.text(place) for place in index.tolist()],
            "originals": [self.source_texts.text(place) for place in index.tolist()],
            "index": index,
        }

    def text(self, place: int) -> str:
        """The source of pair `place` as it was written."""
        return self.source_texts.text(place)


@dataclass(frozen=True, kw_only=True)
class ParallelText(TokenSettings):
    """What every data set of pairs shares; its token settings are those of both vocabularies.

    Attributes:
        shared_vocabulary: one vocabulary for both sides, trained on both, as one table of vectors for both needs.
        split_seed: which pairs are in which split, where the source does not say.
    """

    shared_vocabulary: bool = False
    split_seed: Annotated[int, Ge(0)] = 0

    name: ClassVar[str]
    specials: ClassVar[Sequence[str]] = SPECIALS
    cuts: ClassVar[bool] = False
    """Whether a training pair with a side that is too long is cut, as the others are, or left out: half a translation teaches nothing."""

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors = load_file(folder / FILE)
        parts = ("sources", "targets", "source_texts", "target_texts")
        return {name: PairSplit(*(Ragged.load(tensors, f"{name}.{part}") for part in parts)) for name in card["counts"]}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A text, or a text file, to translate: a batch of one without `targets`; cut only where those to train on are, see `cuts`."""
        return one_text(given, facts, self.longest if self.cuts else None)

    def divide(self, pairs: Sequence[Pair], *, validation: int, test: int) -> dict[str, list[Pair]]:
        """Pairs whose source says nothing about splits, each source once so that none is in two splits.

        Raises:
            DataError: there are too few.
        """
        once = list({source: (source, target) for source, target in reversed(pairs)}.values())[::-1]
        if len(once) <= validation + test:
            raise DataError(f"{len(once)} different pairs are too few for {validation} to validate and {test} to test on")
        rows = stratified(torch.zeros(len(once), dtype=torch.int64), {"validation": validation, "test": test}, seed=self.split_seed)
        return {name: [once[row] for row in of.tolist()] for name, of in rows.items()}

    def write(self, into: Path, parts: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it; see `cuts` for what is too long."""
        if self.is_pretrained:
            raise RequestError(f"data.tokens: {self.name} trains a vocabulary for each side (character, word, bpe or wordpiece)")
        if self.shared_vocabulary:
            vocabularies = [self.train([text for pair in parts["train"] for text in pair], specials=self.specials)] * 2
        else:
            vocabularies = [self.train([pair[side] for pair in parts["train"]], specials=self.specials) for side in (0, 1)]
        tensors: dict[str, Tensor] = {}
        counts: dict[str, Any] = {}
        for name, given in parts.items():
            sides = [vocabulary.encode_all([pair[side] for pair in given]) for side, vocabulary in enumerate(vocabularies)]
            long = [max(len(source), len(target)) > self.longest for source, target in zip(*sides, strict=True)]
            kept = [row for row in range(len(given)) if self.cuts or name != "train" or not long[row]]
            sources, targets = (Ragged.of([side[row][: self.longest] or [UNKNOWN] for row in kept]) for side in sides)
            tensors |= sources.tensors(f"{name}.sources") | targets.tensors(f"{name}.targets")
            for side, part in enumerate(("source_texts", "target_texts")):
                tensors |= Ragged.of_texts([given[row][side] for row in kept]).tensors(f"{name}.{part}")
            counts[name] = {
                "examples": len(kept),
                "source": counted(sources.values, vocabularies[0]),
                "target": counted(targets.values, vocabularies[1]),
                "too_long": sum(long),
            }
        save_file(tensors, into / FILE)
        source, target = vocabularies
        return {
            "counts": counts,
            "facts": {
                "classes": len(target),
                "vocabulary_size": len(source),
                "vocabulary": source.dump(),
                "target_vocabulary_size": len(target),
                "target_vocabulary": target.dump(),
                "predicts": "text",
            },
        }


def vocabularies_of(facts: Mapping[str, Any]) -> tuple[Vocabulary, Vocabulary]:
    """The source's and the target's vocabulary."""
    return Vocabulary.load(facts["vocabulary"]), Vocabulary.load(facts["target_vocabulary"])
