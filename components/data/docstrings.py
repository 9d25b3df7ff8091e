"""Docstrings of installed packages: real texts, each with a summary that its author wrote, and no download.

By convention (PEP 257) a docstring's first paragraph says in one line what the rest explains: the rest is the text, the first line its
summary. The sources are parsed (`ast`), never imported or run.

A package is in one split only, so that a model is tested on a library that it has not read. What decides the content are the packages'
versions, which are those of the lock file; with others the data have another fingerprint.
"""

import ast
import importlib.metadata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from components.data.denoising import MASKED, Denoised
from components.data.parallel_text import Pair, ParallelText
from components.errors import DataError
from components.protocols import Fetch

PACKAGES = {
    "train": ("matplotlib", "nltk", "numpy", "pandas", "scipy", "sympy", "torch"),
    "validation": ("networkx",),
    "test": ("scikit-learn",),
}
"""Whose docstrings are in which split; all of them are dependencies of this program, or of its dependencies."""

SUMMARY_WORDS = (3, 30)
"""Fewest and most words of a summary."""
FEWEST_WORDS = 20
"""Of a text."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def versions() -> list[str]:
    """`name==version` of every package, as installed.

    Raises:
        DataError: one of them is not installed.
    """
    found = []
    for package in sorted(package for of in PACKAGES.values() for package in of):
        try:
            found.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError as error:
            raise DataError(f"docstrings: the package {package} is not installed (it is in requirements.lock)") from error
    return found


def summarized(source: str) -> Iterator[Pair]:
    """(text, summary) of every docstring in a module's source that has both, white space as single spaces; none where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            summary, _, text = (ast.get_docstring(node) or "").partition("\n\n")
            summary, text = " ".join(summary.split()), " ".join(text.split())
            fewest, most = SUMMARY_WORDS
            if fewest <= len(summary.split()) <= most and len(text.split()) >= FEWEST_WORDS:
                yield text, summary


def package_pairs(package: str) -> Iterator[Pair]:
    """The pairs of an installed package, file by file in the order of their names; its tests are left out."""
    distribution = importlib.metadata.distribution(package)
    for file in sorted(distribution.files or (), key=str):
        if file.suffix == ".py" and "tests" not in file.parts:
            try:
                source = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            yield from summarized(source)


def divided() -> dict[str, list[Pair]]:
    """The pairs of each split; a text that comes again, within a package or in another, counts once."""
    seen: set[str] = set()
    found: dict[str, list[Pair]] = {name: [] for name in PACKAGES}
    for name, packages in PACKAGES.items():
        for package in packages:
            for text, summary in package_pairs(package):
                if text not in seen:
                    seen.add(text)
                    found[name].append((text, summary))
    return found


def card() -> dict[str, Any]:
    """What both data sets say of their source."""
    return {"source": f"docstrings of {', '.join(versions())}", "licence": "the packages' own (BSD, MIT, Apache 2.0, PSF)"}


@dataclass(frozen=True, kw_only=True)
class Docstrings(ParallelText):
    """A docstring's body, and its first line as the summary."""

    specials = MASKED
    cuts = True

    name: ClassVar[str] = "docstrings"

    def recipe(self) -> dict[str, Any]:
        """The packages' versions and every setting."""
        return {"name": self.name, "format": 1, "sources": versions(), **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — it is installed
        """Write the prepared file; the data card."""
        return card() | self.write(into, divided())


@dataclass(frozen=True, kw_only=True)
class DenoisedDocstrings(Denoised):
    """The same texts, summary first, to be written whole after damage: what to pretrain a model with for `docstrings`.

    With the same token settings it has the very same vocabulary, and the same packages in each split.
    """

    name: ClassVar[str] = "denoised_docstrings"

    def recipe(self) -> dict[str, Any]:
        """The packages' versions and every setting."""
        return {"name": self.name, "format": 1, "sources": versions(), **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — it is installed
        """Write the prepared file; the data card."""
        pairs = divided()
        vocabulary = self.train([part for pair in pairs["train"] for part in pair], specials=MASKED)
        documents = {name: [f"{summary} {text}" for text, summary in of] for name, of in pairs.items()}
        return card() | self.write(into, documents, vocabulary)
