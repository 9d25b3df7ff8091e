"""Docstrings by hand and from packages that are there: nothing is imported, no text is in two splits, the versions decide."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from components.data import docstrings
from components.data.denoising import MASKED
from components.data.docstrings import DenoisedDocstrings, Docstrings, divided, package_pairs, summarized
from components.data.prepared import fingerprint, prepare
from components.data.tokens import Vocabulary

SOURCE = '''
"""Too short a text.

Few words.
"""

def add(a, b):
    """Add two
    numbers.

    {body}
    """

class Nothing:
    """A summary alone."""

    async def run(self):
        """Run it until the end.

        {body}

        More.
        """
'''


def nothing(source: object) -> Path:
    raise AssertionError("nothing is fetched")


def test_text_and_summary_by_hand():
    body = " ".join(["word"] * 20)
    found = list(summarized(SOURCE.replace("{body}", body)))
    assert found == [(body, "Add two numbers."), (f"{body} More.", "Run it until the end.")]
    assert list(summarized("def broken(:")) == []
    assert list(summarized("\0")) == []


def test_a_package_is_read_and_never_imported(monkeypatch: pytest.MonkeyPatch):
    before = set(sys.modules)
    pairs = list(package_pairs("click"))
    assert set(sys.modules) == before
    assert len(pairs) > 50
    assert all(len(text.split()) >= 20 and 3 <= len(summary.split()) <= 30 for text, summary in pairs)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "PACKAGES", {"train": ("click",), "validation": ("packaging",), "test": ("joblib",)})


def test_prepared_for_both_uses(small: None, tmp_path: Path):
    pairs = divided()
    texts = [text for of in pairs.values() for text, _ in of]
    assert len(texts) == len(set(texts))
    shared = {"tokens": "bpe", "vocabulary_limit": 500, "longest": 40}
    found = prepare(Docstrings(**shared, shared_vocabulary=True), tmp_path / "data", nothing)
    assert {name: count["examples"] for name, count in found.card["counts"].items()} == {name: len(of) for name, of in pairs.items()}
    assert f"joblib=={importlib.metadata.version('joblib')}" in found.card["source"]
    batch = found.splits["test"].batch(torch.tensor([0]))
    assert (batch["originals"], batch["references"]) == ([pairs["test"][0][0]], [pairs["test"][0][1]])
    assert batch["inputs"].shape[1] <= 40
    damaged = prepare(DenoisedDocstrings(**shared), tmp_path / "data", nothing)
    assert damaged.facts["vocabulary"] == found.facts["vocabulary"] == found.facts["target_vocabulary"]
    assert Vocabulary.load(damaged.facts["vocabulary"]).tokens(range(5)) == list(MASKED)
    assert damaged.splits["test"].text(0) == f"{pairs['test'][0][1]} {pairs['test'][0][0]}"


def test_other_versions_are_other_data(small: None, monkeypatch: pytest.MonkeyPatch):
    before = fingerprint(Docstrings().recipe())
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "joblib" else real(name))
    assert fingerprint(Docstrings().recipe()) != before
