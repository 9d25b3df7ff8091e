"""Sentences in which two things are marked, and how these are related.

    The <e1>student</e1> <e2>association</e2> is the voice of the students.        Member-Collection(e2,e1)

A relation with a direction is called NAME(e1,e2) or NAME(e2,e1). What a model reads are the sentence's tokens with a token for each of the
four marks (Baldini Soares et al. 2019, "entity markers"); a pretrained BERT vocabulary lends four of its unused ones.

`relations.safetensors` holds for each split its tokens, the places of both opening marks, the sentences, the relations, and what TF-IDF
with logistic regression, fitted to the training split, says of each.

Shapes: B sentences, T tokens of the longest of them, N sentences of a split.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Gt, Lt
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.faults import FaultList
from components.data.jsonl import read_rows
from components.data.labelled_text import counted, tf_idf_answers
from components.data.ragged import Ragged
from components.data.sources import Source
from components.data.splits import stratified
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.data.users_file import UsersFile
from components.data.written import given_text, read_text
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "relations.safetensors"
FEWEST = 3
"""Sentences that a relation needs to be in each split; one that has fewer is in the training split only."""

WHOLE = 10**9
"""Tokens that no sentence has."""

SEMEVAL = Source(
    name="semeval2010_task8_TRAIN_FILE.TXT",
    sha256="e8ee3c591911ca9da9acbefd1a48f7910b9924a2e20369f20d2482c04ab549ce",
    mirror="semeval2010-task8/TRAIN_FILE.TXT",
    url="https://raw.githubusercontent.com/sahitya0000/Relation-Classification/master/corpus/SemEval2010_task8_training/TRAIN_FILE.TXT",
)

MARKS = ("<e1>", "</e1>", "<e2>", "</e2>")
TOKENS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
UNUSED = ("[unused1]", "[unused2]", "[unused3]", "[unused4]")

_MARKED = re.compile(r"</?e[12]>")


class Sentence(NamedTuple):
    """A sentence and its relation."""

    text: str
    relation: str
    place: str
    """Where in its file it is, for messages: `line 3`."""


class RelationSplit:
    """Sentences with two marked things and one relation each."""

    def __init__(self, *, tokens: Ragged, places: Tensor, texts: Ragged, targets: Tensor, baseline: Tensor, pad: int) -> None:
        self.tokens, self.places, self.texts, self.targets, self.baseline, self.pad = tokens, places, texts, targets, baseline, pad
        self._lengths = tokens.lengths

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 tokens."""
        return self._lengths

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — sentences are not augmented
        """`inputs` (B, T) int64, `lengths` (B,), `places` (B, 2) of both opening marks, `targets` (B,), `baseline` (B,), `index` (B,)."""
        inputs, lengths = self.tokens.padded(index, pad=self.pad)
        return {
            "inputs": inputs,
            "lengths": lengths,
            "places": self.places[index],
            "targets": self.targets[index],
            "baseline": self.baseline[index],
            "index": index,
        }

    def text(self, place: int) -> str:
        """Sentence `place` as it was written, with its marks."""
        return self.texts.text(place)


@dataclass(frozen=True, kw_only=True)
class Relations(TokenSettings):
    """What every data set of relations shares.

    Attributes:
        validation: share of each relation to validate on.
        test: share of each relation to test on; the others train.
        split_seed: which sentences are in which split.
    """

    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors, pad = load_file(folder / FILE), Vocabulary.load(card["facts"]["vocabulary"]).pad
        return {
            name: RelationSplit(
                tokens=Ragged.load(tensors, f"{name}.tokens"),
                places=tensors[f"{name}.places"],
                texts=Ragged.load(tensors, f"{name}.texts"),
                targets=tensors[f"{name}.targets"],
                baseline=tensors[f"{name}.baseline"],
                pad=pad,
            )
            for name in card["counts"]
        }

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A sentence with its two marks, or a file with one, cut as in training: a batch of one, no `targets`. DataError: wrong marks."""
        text, vocabulary = given_text(given).strip(), Vocabulary.load(facts["vocabulary"])
        ids, places = encoded(text, vocabulary, facts["longest"])
        whole = len(encoded(text, vocabulary, WHOLE)[0])
        batch: Batch = {
            "inputs": torch.tensor([ids], dtype=torch.int64),
            "lengths": torch.tensor([len(ids)]),
            "places": torch.tensor([places], dtype=torch.int64),
            "index": torch.zeros(1, dtype=torch.int64),
        }
        return batch | ({"truncated": (whole, len(ids))} if len(ids) < whole else {})

    def write(self, into: Path, sentences: Sequence[Sentence], fetch: Fetch, faults: FaultList) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it.

        Raises:
            DataError: names what is wrong: the `faults` that reading the file has found, sentences with wrong marks or too much between
                them; or the relations are too few.
        """
        faults.check()
        often = Counter(sentence.relation for sentence in sentences)
        names = sorted(often)
        if len(names) < 2:
            raise DataError(
                f"there is no relation to tell: every sentence has the relation {names[0]!r}" if names else "there is no sentence"
            )
        targets = torch.tensor([names.index(sentence.relation) for sentence in sentences])
        rows = self._divided(targets)
        parts = {name: [sentences[row] for row in of.tolist()] for name, of in rows.items()}
        plain = [_MARKED.sub(" ", sentence.text) for sentence in parts["train"]]
        vocabulary = self.vocabulary(plain, fetch, specials=(*BERTS_SPECIALS, *TOKENS))
        _numbers(vocabulary)
        read = []
        for sentence in sentences:
            with faults.of(sentence.place):
                read.append(encoded(sentence.text, vocabulary, self.longest))
        faults.check()
        baseline = tf_idf_answers({name: [one.text for one in of] for name, of in parts.items()}, targets[rows["train"]])
        tensors: dict[str, Tensor] = {}
        counts: dict[str, Any] = {}
        for name, of in rows.items():
            tokens, own = Ragged.of([read[row][0] for row in of.tolist()]), targets[of]
            tensors |= tokens.tensors(f"{name}.tokens") | Ragged.of_texts([one.text for one in parts[name]]).tensors(f"{name}.texts")
            tensors |= {f"{name}.places": torch.tensor([read[row][1] for row in of.tolist()]), f"{name}.targets": own}
            tensors[f"{name}.baseline"] = baseline[name]
            counts[name] = {
                "examples": len(of),
                "classes": dict(zip(names, torch.bincount(own, minlength=len(names)).tolist(), strict=True)),
                **counted(tokens.values, vocabulary),
                "baseline_accuracy": round((baseline[name] == own).double().mean().item(), 4),
            }
        save_file(tensors, into / FILE)
        return {
            "counts": counts,
            "only_in_training": [name for name in names if often[name] < FEWEST],
            "baseline": "TF-IDF of words and pairs of words (sublinear counts), logistic regression; fitted to the training split",
            "facts": {
                "classes": len(names),
                "class_names": names,
                "vocabulary_size": len(vocabulary),
                "vocabulary": vocabulary.dump(),
                "longest": self.longest,
                "predicts": "relation",
            },
        }

    def _divided(self, targets: Tensor) -> dict[str, Tensor]:
        """Each split's rows; a relation with too few sentences only trains."""
        enough = torch.bincount(targets)[targets] >= FEWEST
        common, rare = enough.nonzero().flatten(), (~enough).nonzero().flatten()
        take = {name: max(round(share * len(common)), 1) for name, share in (("validation", self.validation), ("test", self.test))}
        try:
            rows = {name: common[of] for name, of in stratified(targets[common], take, seed=self.split_seed).items()}
        except ValueError as error:
            raise DataError(f"the sentences cannot be divided: {error}") from error
        rows["train"] = torch.cat([rows["train"], rare]).sort().values
        return rows


def encoded(text: str, vocabulary: Vocabulary, longest: int) -> tuple[list[int], list[int]]:
    """A marked sentence's tokens between the vocabulary's marks, and the places of <e1> and <e2>.

    Of a sentence longer than `longest` tokens both ends are cut, never what lies between the marked things.

    Raises:
        DataError: the marks are wrong, what lies between them is too long, or the vocabulary has no token for them.
    """
    numbers = _numbers(vocabulary)
    ids: list[int] = []
    places: dict[str, int] = {}
    for part in _cut_at_marks(text):
        if part in numbers:
            places[part] = len(ids)
            ids.append(numbers[part])
        else:
            ids += vocabulary.encode(part)
    room, first, last = longest - 2, min(places.values()), max(places.values())
    if last - first >= room:
        raise DataError(f"from the first mark to the last there are {last - first + 1:,} tokens; {room:,} are the most")
    begin = max(min(first - (room - (last - first + 1)) // 2, len(ids) - room), 0)
    kept = vocabulary.framed(ids[begin : begin + room])
    before = kept.index(ids[first]) - (first - begin)  # marks that the vocabulary puts in front
    return kept, [places[mark] - begin + before for mark in ("<e1>", "<e2>")]


def places_of(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """(B, T) tokens → (B, 2): where the marks <e1> and <e2> are; 0 where one is not there."""
    numbers = _numbers(vocabulary)
    return torch.stack([(tokens == numbers[mark]).long().argmax(1) for mark in ("<e1>", "<e2>")], dim=1)


def _numbers(vocabulary: Vocabulary) -> dict[str, int]:
    """The token of each mark."""
    for names in (TOKENS, UNUSED):
        numbers = {mark: vocabulary.tokenizer.token_to_id(name) for mark, name in zip(MARKS, names, strict=True)}
        found = {mark: number for mark, number in numbers.items() if number is not None}
        if len(found) == len(MARKS):
            return found
    raise DataError(f"the vocabulary has no tokens for the marks {' '.join(MARKS)} (such as {TOKENS[0]} or {UNUSED[0]})")


def _cut_at_marks(text: str) -> list[str]:
    """The sentence's parts, marks by themselves. DataError unless each mark is there once, in order, with something between them."""
    marks = _MARKED.findall(text)
    if sorted(marks) != sorted(MARKS) or marks not in (list(MARKS), [*MARKS[2:], *MARKS[:2]]):
        raise DataError("mark two things that do not overlap, once each: <e1>…</e1> and <e2>…</e2>")
    parts = [part for part in re.split(r"(</?e[12]>)", text) if part.strip()]
    if any(parts[parts.index(begin) + 1] == end for begin, end in (MARKS[:2], MARKS[2:])):
        raise DataError("there is nothing between <e1> and </e1>, or between <e2> and </e2>")
    return parts


@dataclass(frozen=True, kw_only=True)
class SemevalRelations(Relations):
    """8,000 sentences with 9 relations in both directions, or another one (Hendrickx et al. 2010, SemEval task 8, its training file).

    The task's own test file is not among the sources: a share of the training file is tested on.
    """

    name: ClassVar[str] = "semeval_relations"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [SEMEVAL.sha256], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        return {
            "source": "TRAIN_FILE.TXT of SemEval-2010 task 8",
            "upstream": "https://semeval2.fbk.eu/semeval2.php?location=tasks#T11",
            "licence": "CC BY 3.0",
            **self.write(into, semeval(read_text(fetch(SEMEVAL)), SEMEVAL.name), fetch, FaultList(SEMEVAL.name)),
        }


def semeval(text: str, file: str) -> list[Sentence]:
    """The sentences of a file in the task's own format: number and quoted sentence, relation, comment, empty line.

    Raises:
        DataError: a line is not what it should be; says which.
    """
    lines = [line.rstrip() for line in text.split("\n")]
    found = []
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        number, tab, quoted = lines[at].partition("\t")
        if not (tab and number.isdecimal() and quoted.startswith('"') and quoted.endswith('"') and len(quoted) > 2):
            raise DataError(f"{file}: line {at + 1} is no number, tab and sentence in quotation marks")
        relation = lines[at + 1] if at + 1 < len(lines) else ""
        if not re.fullmatch(r"[\w-]+(\(e[12],e[12]\))?", relation):
            raise DataError(f"{file}: line {at + 2} is no relation, such as Cause-Effect(e1,e2) or Other")
        found.append(Sentence(quoted[1:-1], relation, f"line {at + 1}"))
        at += 2
        while at < len(lines) and lines[at]:
            at += 1
    return found


@dataclass(frozen=True, kw_only=True)
class RelationsJsonl(Relations, UsersFile):
    """A user's own sentences: JSON objects, one a line.

    Attributes:
        path: the file, UTF-8.
        text: name of the column with the sentences, marked with <e1>…</e1> and <e2>…</e2>.
        relation: name of the column with the relations.
    """

    text: str = "text"
    relation: str = "relation"

    name: ClassVar[str] = "relations_jsonl"

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError names the wrong lines."""
        path = Path(self.path).expanduser()
        sentences, faults = [], FaultList(path)
        for number, row in read_rows(path, (self.text, self.relation), faults):
            with faults.of(f"line {number}"):
                _cut_at_marks(row[self.text])
                if not row[self.relation]:
                    raise DataError(f"{self.relation!r} is empty")
            sentences.append(Sentence(row[self.text], row[self.relation], f"line {number}"))
        return {"source": path.name, "licence": "the user's own", **self.write(into, sentences, fetch, faults)}
