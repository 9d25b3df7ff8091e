"""Questions about texts, each with the passage of its text that answers it: SQuAD's format (Rajpurkar et al. 2016), and JSON lines.

What a split holds and serves is in `components/data/question_split.py`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from safetensors.torch import load_file, save_file

from components.data.faults import FaultList
from components.data.jsonl import read_rows
from components.data.labelled_text import counted
from components.data.question_split import Question, QuestionSplit, tensors_of
from components.data.ragged import Ragged
from components.data.segments import MARKS
from components.data.sources import Source
from components.data.tokens import BERTS_SPECIALS, TokenSettings, Vocabulary
from components.data.users_file import UsersFile
from components.data.written import given_text, read_text
from components.errors import DataError, closest
from components.protocols import Batch, Fetch, Split

FILE = "questions.safetensors"
BETWEEN = "|||"
"""What stands between question and context where a person gives both as one text."""

Language = Literal["en", "de", "es", "zh"]

XQUAD_SHA256: dict[str, str] = {
    "en": "e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29",
    "de": "990b5d746746ed65ed4702ea5f35f99ffa4e2f1c390c07d003642acd937916f9",
    "es": "dcbae93ec3a9f4b9e78fd834a171d6f96c1a875e10e15b7530b7e4ef4971e37e",
    "zh": "691d0b3359bc6b8faa8de931dfdfe21d50a65861ae348e32a0d1a0190b0c8835",
}


def xquad(language: str) -> Source:
    """XQuAD's file of a language."""
    name = f"xquad.{language}.json"
    return Source(
        name=name,
        sha256=XQUAD_SHA256[language],
        mirror=f"xquad/{name}",
        url=f"https://raw.githubusercontent.com/google-deepmind/xquad/master/{name}",
    )


@dataclass(frozen=True, kw_only=True)
class Questions(TokenSettings):
    """What every data set of questions shares; `longest` is how many tokens of a question and its context are read together.

    Attributes:
        overlap: tokens of a longer context that a window shares with the one before it.
        longest_question: of a question that has more tokens the end is cut.
        validation: share of the questions to validate on, by whole articles.
        test: share to test on; the others train.
        split_seed: which articles are in which split.
    """

    overlap: Annotated[int, Ge(0)] = 64
    longest_question: Annotated[int, Ge(1)] = 48
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        room = self.longest - self.longest_question - MARKS
        if room <= self.overlap:
            raise ValueError(f"longest {self.longest} leaves {max(room, 0)} tokens of context beside a question: overlap has to be less")

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors, vocabulary, recipe = load_file(folder / FILE), Vocabulary.load(card["facts"]["vocabulary"]), card["recipe"]
        sizes = {"longest": recipe["longest"], "overlap": recipe["overlap"]}
        parts = {
            name: {key.removeprefix(f"{name}."): of for key, of in tensors.items() if key.startswith(f"{name}.")} for name in card["counts"]
        }
        return {name: QuestionSplit(part, vocabulary, **sizes) for name, part in parts.items()}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A question and its context, as a batch of one without targets.

        `QUESTION ||| CONTEXT`, or the JSON object {"question": …, "context": …}; or a file with either. CONTEXT may be a text file's path.

        Raises:
            DataError: it is neither, or one of both is empty.
        """
        question, context = asked(given_text(given))
        vocabulary = Vocabulary.load(facts["vocabulary"])
        tensors, lost = tensors_of([Question("", question, given_text(context), [], "", "")], vocabulary, self.longest_question)
        if not len(tensors["questions"]) or not len(tensors["contexts"]):
            raise DataError("there is no question, or no context: nothing in it is a token")
        assert not lost
        batch = QuestionSplit(tensors, vocabulary, longest=self.longest, overlap=self.overlap).batch(torch.tensor([0]))
        whole = len(vocabulary.encode(question))  # a context is read whole, in windows
        return batch | ({"truncated": (whole, self.longest_question)} if whole > self.longest_question else {})

    def write(self, into: Path, questions: Sequence[Question], fetch: Fetch) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it.

        Raises:
            DataError: there are too few articles to be divided.
        """
        parts = self._divided(questions)
        texts = [text for one in parts["train"] for text in (one.question, one.context)]
        vocabulary = self.vocabulary(dict.fromkeys(texts), fetch, specials=BERTS_SPECIALS)
        tensors: dict[str, torch.Tensor] = {}
        counts: dict[str, Any] = {}
        for name, part in parts.items():
            own, lost = tensors_of(part, vocabulary, self.longest_question)
            tensors |= {f"{name}.{key}": tensor for key, tensor in own.items()}
            contexts = Ragged.load(own, "contexts")
            counts[name] = {
                "examples": len(part),
                "articles": len({one.group for one in part}),
                "contexts": len(contexts),
                "unanswerable": sum(not one.answers for one in part),
                "answers_that_are_no_tokens": lost,
                **counted(contexts.values, vocabulary),
            }
        save_file(tensors, into / FILE)
        facts = {"classes": 2, "vocabulary_size": len(vocabulary), "vocabulary": vocabulary.dump(), "predicts": "span"}
        return {"counts": counts, "facts": facts}

    def _divided(self, questions: Sequence[Question]) -> dict[str, list[Question]]:
        """Questions of each split: whole articles, in an order that SHA-256 decides, until a split has its share."""
        groups: dict[str, list[Question]] = {}
        for one in questions:
            groups.setdefault(one.group, []).append(one)
        if len(groups) < 3:
            raise DataError(f"there are {len(groups)} articles: 3 are the fewest, one for each split")
        ranked = sorted(groups, key=lambda group: hashlib.sha256(f"{self.split_seed}:{group}".encode()).digest())
        parts: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
        for name, share, later in (("test", self.test, 2), ("validation", self.validation, 1)):
            while not parts[name] or (len(parts[name]) < share * len(questions) and len(ranked) > later):
                parts[name] += groups[ranked.pop()]
        parts["train"] = [one for group in sorted(ranked) for one in groups[group]]
        return parts


def asked(text: str) -> tuple[str, str]:
    """Question and context of what a person gives. DataError where it is not both."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"it begins with {{ but is not JSON: {error}") from error
        question, context = found.get("question"), found.get("context")
        if not isinstance(question, str) or not isinstance(context, str):
            raise DataError('the JSON object needs two texts, "question" and "context"')
    else:
        parts = text.split(BETWEEN, 1)
        if len(parts) != 2:
            raise DataError(f"write a question, {BETWEEN} and the text that answers it (or a file's path), or a JSON object with both")
        question, context = parts
    if not question.strip():
        raise DataError(f"there is no question before {BETWEEN}")
    if not context.strip():
        raise DataError(f"there is no text behind {BETWEEN}")
    return question.strip(), context.lstrip().rstrip("\r\n")  # a space behind it says that it is no file's name


def squad(text: str, file: str, *, group: Literal["article", "paragraph"] = "article") -> list[Question]:
    """The questions of a file in the format of SQuAD 1.1 or 2.0.

    Args:
        text: its JSON.
        file: its name, for messages.
        group: what is never divided between two splits.

    Raises:
        DataError: something is not where the format has it, or an answer does not stand where it is said to; says in which questions.
    """
    try:
        articles = json.loads(text)["data"]
    except RecursionError as error:
        raise DataError(f"{file} is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f'{file} is not in SQuAD\'s format: it has no "data" at its top') from error
    faults, found = FaultList(file), []
    with faults.of():
        for a, article in enumerate(_list(articles, "data"), start=1):
            with faults.of():
                for p, paragraph in enumerate(_list(_get(article, "paragraphs", f"article {a}"), f"article {a}"), start=1):
                    name = f"{article.get('title', a)}" if group == "article" else f"{a}.{p}"
                    found += _of_paragraph(paragraph, f"article {a}, paragraph {p}", name, faults)
    faults.check()
    if not found:
        raise DataError(f"{file} has no question")
    return found


def _of_paragraph(paragraph: Any, place: str, name: str, faults: FaultList) -> list[Question]:
    found = []
    with faults.of():
        context = _text(paragraph, "context", place)
        for q, one in enumerate(_list(_get(paragraph, "qas", place), place), start=1):
            at = f"{place}, question {q}"
            with faults.of():
                answers = [] if _dict(one, at).get("is_impossible") else _answers(one, context, at)
                found.append(Question(str(one.get("id", at)), _text(one, "question", at), context, answers, name, at))
    return found


def _answers(one: Mapping[str, Any], context: str, place: str) -> list[tuple[int, str]]:
    answers = []
    for answer in _list(_get(one, "answers", place), place):
        text, start = _text(answer, "text", place), _get(answer, "answer_start", place)
        if not isinstance(start, int) or not text.strip() or context[start : start + len(text)] != text:
            raise DataError(f"{place}: the answer {text[:60]!r} does not stand at character {start} of its context")
        answers.append((start, text))
    return answers


def _dict(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: a JSON object is expected there")
    return value


def _get(value: Any, key: str, place: str) -> Any:
    found = _dict(value, place)
    if key not in found:
        raise DataError(f"{place} has no {key!r} (it has: {', '.join(found)[:200]}){closest(key, found)}")
    return found[key]


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{place}: a list is expected there")
    return value


def _text(value: Any, key: str, place: str) -> str:
    found = _get(value, key, place)
    if not isinstance(found, str) or (key != "text" and not found.strip()):
        raise DataError(f"{place}: {key!r} is not a text, or is empty")
    return found


@dataclass(frozen=True, kw_only=True)
class Xquad(Questions):
    """1,190 questions about 240 paragraphs of 48 Wikipedia articles, by people, translated by people (Artetxe et al. 2020).

    Attributes:
        language: of questions and articles.
    """

    language: Language = "en"

    name: ClassVar[str] = "xquad"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [XQUAD_SHA256[self.language]], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        source = xquad(self.language)
        return {
            "source": source.name,
            "upstream": "https://github.com/google-deepmind/xquad",
            "licence": "CC BY-SA 4.0",
            **self.write(into, squad(read_text(fetch(source)), source.name), fetch),
        }


@dataclass(frozen=True, kw_only=True)
class SquadJson(Questions, UsersFile):
    """A user's own questions in the format of SQuAD 1.1, or 2.0 with questions that have no answer.

    Attributes:
        path: the file, UTF-8.
        group: what is never divided between two splits.
    """

    group: Literal["article", "paragraph"] = "article"

    name: ClassVar[str] = "squad_json"

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError says which questions are wrong."""
        path = Path(self.path).expanduser()
        questions = squad(read_text(path), str(path), group=self.group)
        return {"source": path.name, "licence": "the user's own", **self.write(into, questions, fetch)}


@dataclass(frozen=True, kw_only=True)
class QuestionsJsonl(Questions, UsersFile):
    """A user's own questions: JSON objects, one a line. Questions about one context are never divided between two splits.

    Attributes:
        path: the file, UTF-8.
        question: name of the column with the questions.
        context: name of the column with the texts.
        answer: name of the column with the answers, each as it stands in its context (where it stands first is taken).
    """

    question: str = "question"
    context: str = "context"
    answer: str = "answer"

    name: ClassVar[str] = "questions_jsonl"

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError names the wrong lines."""
        path = Path(self.path).expanduser()
        faults = FaultList(path)
        questions = list(self._questions(path, faults))
        faults.check()
        return {"source": path.name, "licence": "the user's own", **self.write(into, questions, fetch)}

    def _questions(self, path: Path, faults: FaultList) -> Iterator[Question]:
        for number, row in read_rows(path, (self.question, self.context, self.answer), faults):
            question, context, answer = row[self.question], row[self.context], row[self.answer]
            place, begin = f"line {number}", context.find(answer)
            if not question or not context:
                faults.add(f"{place}: the question or the context is empty")
            elif answer and begin < 0:
                faults.add(f"{place}: the answer {answer[:60]!r} does not stand in its context")
            else:
                yield Question(str(number), question, context, [(begin, answer)] if answer else [], context, place)
