"""Prepared texts with one class each, and next to them what a model without any network says of them.

`text.safetensors` holds for each split its tokens, its texts (UTF-8), its classes, and `baseline`: the class that TF-IDF with logistic
regression, fitted to the training split, gives each example. So every result can be read beside it, example by example.

Shapes: B batch, T the longest text of the batch, N examples of a split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from components.data.ragged import Ragged
from components.data.tokens import PAD, TokenSettings, Vocabulary
from components.data.written import given_text
from components.errors import DataError
from components.protocols import Batch, Fetch, Split

FILE = "text.safetensors"


class LabelledTextSplit:
    """Texts with one class each."""

    def __init__(self, tokens: Ragged, texts: Ragged, targets: Tensor, baseline: Tensor, pad: int = PAD) -> None:
        self.tokens, self.texts, self.targets, self.baseline, self.pad = tokens, texts, targets, baseline, pad
        self._lengths = tokens.lengths

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 tokens."""
        return self._lengths

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — texts are not augmented
        """`inputs` (B, T) int64, `lengths` (B,), `targets` (B,), `baseline` (B,) the baseline's answer, `index` (B,)."""
        inputs, lengths = self.tokens.padded(index, pad=self.pad)
        return {"inputs": inputs, "lengths": lengths, "targets": self.targets[index], "baseline": self.baseline[index], "index": index}

    def text(self, place: int) -> str:
        """Example `place` as it was written."""
        return self.texts.text(place)


class LabelledText:
    """What every data set has whose folder `write_labelled` wrote.

    Attributes:
        longest: see `TokenSettings`.
    """

    longest: int

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The splits of a prepared folder."""
        tensors = load_file(folder / FILE)
        pad = Vocabulary.load(card["facts"]["vocabulary"]).pad
        return {
            name: LabelledTextSplit(
                Ragged.load(tensors, f"{name}.tokens"),
                Ragged.load(tensors, f"{name}.texts"),
                tensors[f"{name}.targets"],
                tensors[f"{name}.baseline"],
                pad,
            )
            for name in card["counts"]
        }

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """A text, or a text file, as a batch of one without `targets`; cut where it is longer than those to train on may be."""
        return one_text(given, facts, self.longest)


def one_text(given: str, facts: Mapping[str, Any], longest: int | None = None) -> Batch:
    """What a person gives, in the data's own vocabulary.

    Args:
        given: a text, or a file's path.
        facts: with the vocabulary.
        longest: tokens that are read at most.

    Returns:
        `inputs` (1, T) and `lengths` (1,); `truncated` (tokens there are, tokens read), where it was cut.

    Raises:
        DataError: it is empty, cannot be read, or has no token.
    """
    vocabulary = Vocabulary.load(facts["vocabulary"])
    ids = vocabulary.encode(given_text(given))
    if not ids:
        raise DataError("there is no text: nothing in it is a token")
    whole, ids = len(vocabulary.framed(ids)), vocabulary.framed(ids, longest)
    batch: Batch = {
        "inputs": torch.tensor([ids], dtype=torch.int64),
        "lengths": torch.tensor([len(ids)]),
        "index": torch.zeros(1, dtype=torch.int64),
    }
    return batch | ({"truncated": (whole, len(ids))} if len(ids) < whole else {})


def write_labelled(
    into: Path,
    *,
    texts: Sequence[str],
    targets: Tensor,
    rows: Mapping[str, Tensor],
    class_names: Sequence[str],
    settings: TokenSettings,
    fetch: Fetch,
) -> dict[str, Any]:
    """Write a prepared folder's file; returns the part of the data card that follows from it.

    Args:
        into: the folder.
        texts: N texts, none empty.
        targets: (N,) int64 in 0 … len(class_names) − 1.
        rows: each split's rows; `train` decides vocabulary and baseline.
        class_names: name of class 0, 1 …
        settings: how the vocabulary is made.
        fetch: brings a pretrained one.
    """
    parts = {name: [texts[row] for row in of.tolist()] for name, of in rows.items()}
    vocabulary = settings.vocabulary(parts["train"], fetch)
    baseline = tf_idf_answers(parts, targets[rows["train"]])
    tensors: dict[str, Tensor] = {}
    counts: dict[str, Any] = {}
    for name, of in rows.items():
        encoded = vocabulary.encode_all(parts[name])
        cut = [vocabulary.framed(ids or [vocabulary.unknown], settings.longest) for ids in encoded]
        tokens, own = Ragged.of(cut), targets[of]
        tensors |= tokens.tensors(f"{name}.tokens") | Ragged.of_texts(parts[name]).tensors(f"{name}.texts")
        tensors |= {f"{name}.targets": own, f"{name}.baseline": baseline[name]}
        per_class = torch.bincount(own, minlength=len(class_names)).tolist()
        counts[name] = {
            "examples": len(of),
            "classes": dict(zip(class_names, per_class, strict=True)),
            **counted(tokens.values, vocabulary),
            "cut": sum(len(vocabulary.framed(ids)) > settings.longest for ids in encoded),
            "baseline_accuracy": round((baseline[name] == own).double().mean().item(), 4),
        }
    save_file(tensors, into / FILE)
    return {
        "counts": counts,
        "baseline": "TF-IDF of words and pairs of words (sublinear counts), logistic regression; fitted to the training split",
        "facts": {
            "classes": len(class_names),
            "class_names": list(class_names),
            "vocabulary_size": len(vocabulary),
            "vocabulary": vocabulary.dump(),
            "predicts": "sequence",
        },
    }


def counted(tokens: Tensor, vocabulary: Vocabulary) -> dict[str, int]:
    """How many tokens there are, and how many of them the vocabulary does not know."""
    return {"tokens": tokens.numel(), "unknown": int((tokens == vocabulary.unknown).sum())}


def tf_idf_answers(parts: Mapping[str, Sequence[str]], targets: Tensor) -> dict[str, Tensor]:
    """The class (n,) int64 that TF-IDF and logistic regression, fitted to `parts["train"]` and `targets`, give every text."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    words = r"(?u)\b\w+\b"
    two = len(set(targets.tolist())) <= 2
    # One class against the rest is as good as all at once, and with 19 classes sixteen times as fast.
    classifier = LogisticRegression(C=10, max_iter=1000) if two else OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=words), classifier)
    try:
        model.fit(list(parts["train"]), targets.numpy())
    except ValueError as error:
        raise DataError(f"the texts cannot be told apart by words: {error}") from error
    return {name: torch.from_numpy(model.predict(list(texts))).long() for name, texts in parts.items()}
