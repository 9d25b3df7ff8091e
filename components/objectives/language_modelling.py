"""Telling the token at every place that is asked about: the next one of a running text, or one that was read long before.

`loss` is the mean cross-entropy in nats of all tokens asked about in a batch; perplexity is its exponential. Tokens are not comparable
between vocabularies, characters are: bits a character is the whole text's −log₂ p over its characters.

Shapes: B examples, T places, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.text_stream import IGNORED
from components.data.tokens import SPECIALS, Vocabulary
from components.decoding import State, sample
from components.errors import DataError
from components.objectives.recurrent_pictures import gates_picture
from components.objectives.sequence_classification import unknown_tokens
from components.objectives.transformer_pictures import transformer_pictures
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_TOKENS = 48
SAMPLES, SAMPLE_TOKENS = 3, 120


@dataclass(frozen=True, kw_only=True)
class LanguageModelling:
    """A batch has `inputs` (B, T), which the model maps to logits (B, T, V), and `targets` (B, T), −100 where nothing is asked.

    Args:
        vocabulary: how tokens are written, for answers; given by the data.
        continuation: how many tokens an answer goes on for.
        temperature: logits of a continuation are divided by it; 0 takes the most probable token every time.
        top_k: only the k most probable tokens are drawn; 0 means all.
        top_p: only the most probable tokens that together reach this probability are drawn.
        generation_seed: decides what is drawn.
        stop: texts at which a continuation ends.
    """

    vocabulary: str | None = None
    continuation: Annotated[int, Ge(1), Le(100_000)] = 200
    temperature: Annotated[float, Ge(0)] = 0.8
    top_k: Annotated[int, Ge(0)] = 0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    generation_seed: Annotated[int, Ge(0)] = 0
    stop: Sequence[Annotated[str, MinLen(1)]] = ()

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the lowest −log p a token."""
        return "nll", "min"

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats over the places that are asked about."""
        logits = model(batch["inputs"])
        return {"loss": F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)}

    def terms(self, batch: Batch) -> Tensor:
        """How many tokens `loss` is the mean of."""
        counted: Tensor = (batch["targets"] != IGNORED).sum()
        return counted

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """For each example: `index`, `tokens` asked about, `nll` their −log p in nats, `right` ones, `characters` (0: unknown)."""
        with torch.no_grad():
            logits = model(batch["inputs"]).float()
            targets = batch["targets"]
            asked = targets != IGNORED
            nll = F.cross_entropy(logits.mT, targets, ignore_index=IGNORED, reduction="none").double().sum(1)
            right = ((logits.argmax(-1) == targets) & asked).sum(1)
        characters = batch.get("characters", torch.zeros_like(batch["index"]))
        rows = {"index": batch["index"], "tokens": asked.sum(1), "nll": nll, "right": right, "characters": characters}
        return {name: row.cpu() for name, row in rows.items()}

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`nll` (nats a token), `perplexity`, `accuracy` (share of right tokens), `bits_per_character` where characters are known."""
        if not len(outcomes.get("index", ())):
            raise DataError("there are no examples to measure: the split is empty")
        tokens, characters = int(outcomes["tokens"].sum()), int(outcomes["characters"].sum())
        total = float(outcomes["nll"].sum())
        found = {"nll": total / tokens, "perplexity": perplexity(total / tokens), "accuracy": float(outcomes["right"].sum()) / tokens}
        return found | {"bits_per_character": total / math.log(2) / characters} if characters else found

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`text`: how the model goes on; `unknown` counts the tokens that the vocabulary does not have, where there are any."""
        text = "".join(self.stream(model, batch))
        unknown = unknown_tokens(batch, self.vocabulary or "")
        return {"text": text} | ({"unknown": unknown} if unknown else {})

    def stream(self, model: Model, batch: Batch) -> Iterator[str]:
        """How the model goes on, piece by piece as it is drawn; up to the first of the `stop` texts, which is not said.

        Raises:
            DataError: the data have no words.
        """
        if self.vocabulary is None:
            raise DataError("these data have no words: there is nothing to go on from")
        return until(_pieces(Vocabulary.load(self.vocabulary), self._drawn(model, batch)), self.stop)

    def _drawn(self, model: Any, batch: Batch) -> Iterator[int]:
        """The tokens of a continuation, one after the other."""
        with torch.no_grad():
            logits, state = model.begin(batch["inputs"])

        def step(tokens: Tensor, now: State) -> tuple[Tensor, State]:
            with torch.no_grad():  # here, for a generator would leave it switched off for whoever takes the tokens
                return _words_only(*model.step(tokens, now))

        return sample(
            step,
            state,
            _words_only(logits[0], state)[0],
            count=self.continuation,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            generator=torch.Generator().manual_seed(self.generation_seed),
        )

    def samples(self, model: nn.Module, batch: Batch) -> Figure | None:
        """How the model goes on now from the first halves of a few examples, above how the text went on; None for data without words."""
        from components.figures.writing import written_texts

        if self.vocabulary is None or not hasattr(model, "begin"):
            return None
        vocabulary = Vocabulary.load(self.vocabulary)
        rows = []
        for ids in batch["inputs"][:SAMPLES]:
            half = (len(ids) + 1) // 2
            own = "".join(replace(self, continuation=SAMPLE_TOKENS).stream(model, {"inputs": ids[None, :half]}))
            rows.append((vocabulary.decode(ids[:half].tolist()), own, vocabulary.decode(ids[half:].tolist())))
        return written_texts(rows)

    def figures(self, outcomes: Outcomes, split: Split) -> dict[str, Figure]:  # noqa: ARG002 — every objective's signature
        """None that outcomes alone would make."""
        return {}

    def compare(self, runs: Mapping[str, tuple[nn.Module, Outcomes]], split: Split) -> dict[str, Figure]:
        """`memory` of several recurrent models in one picture, and `loss_by_position` of all."""
        from components.figures.sequences import gradient_by_distance

        reaches = {name: gradient_back_in_time(model, split) for name, (model, _) in runs.items() if hasattr(model, "recurrent")}
        found = {"memory": gradient_by_distance(reaches)} if reaches else {}
        return found | _by_position({name: model for name, (model, _) in runs.items()}, split)

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """Pictures of a recurrent model: `gates` over a piece of text, `memory`: the gradient's size against the distance back.

        Of a transformer: `attention` over a piece of text, and `positions`. Of both `loss_by_position`: what it helps to have read more.
        """
        figures = _by_position({"": model}, split)
        if not hasattr(model, "recurrent"):
            if self.vocabulary is None:
                return figures
            inputs = split.batch(torch.tensor([0]))["inputs"][:, :SHOWN_TOKENS]
            return figures | transformer_pictures(model, inputs, Vocabulary.load(self.vocabulary).tokens(inputs[0].tolist()))
        from components.figures.sequences import gradient_by_distance

        figures |= {"memory": gradient_by_distance({type(model).__name__: gradient_back_in_time(model, split)})}
        if self.vocabulary is not None and hasattr(model, "gates"):
            inputs = split.batch(torch.tensor([0]))["inputs"][:, :SHOWN_TOKENS]
            figures["gates"] = gates_picture(model, inputs, Vocabulary.load(self.vocabulary).tokens(inputs[0].tolist()))
        return figures


def nll_by_place(model: nn.Module, split: Split, *, examples: int = 256) -> list[tuple[int, float, int]]:
    """(place, mean −log p there in nats, tokens asked about) over a split's first `examples`, for each place that is asked about."""
    batch = split.batch(torch.arange(min(examples, len(split))))
    with torch.no_grad():
        logits = model(batch["inputs"]).float()
    nll = F.cross_entropy(logits.mT, batch["targets"], ignore_index=IGNORED, reduction="none").double()
    counts = (batch["targets"] != IGNORED).sum(0)
    return [(place, float(nll[:, place].sum() / count), count) for place, count in enumerate(counts.tolist()) if count]


def _by_position(models: Mapping[str, nn.Module], split: Split) -> dict[str, Figure]:
    """`loss_by_position`, where more than one place is asked about."""
    from components.figures.pretraining import loss_by_position

    found = {name: nll_by_place(model, split) for name, model in models.items()}
    return {"loss_by_position": loss_by_position(found)} if min(map(len, found.values()), default=0) > 1 else {}


def _pieces(vocabulary: Vocabulary, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece: what each adds to the text of those just before it, which decide where spaces go."""
    context: list[int] = []
    fresh: list[int] = []
    for token in tokens:
        fresh.append(token)
        before, now = vocabulary.decode(context), vocabulary.decode(context + fresh)
        if len(now) > len(before) and not now.endswith("\ufffd"):  # a letter of several tokens is said when it is whole
            yield now[len(before) :]
            context, fresh = fresh, []
    yield vocabulary.decode(context + fresh)[len(vocabulary.decode(context)) :]


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The pieces up to where one of the `stop` texts begins; what may be the beginning of one is held back until that is known."""
    held = ""
    for piece in pieces:
        held += piece
        found = [place for text in stop if (place := held.find(text)) >= 0]
        if found:
            held = held[: min(found)]
            break
        sure = len(held) - max((size for text in stop for size in range(len(text)) if held.endswith(text[:size])), default=0)
        if sure:
            yield held[:sure]
            held = held[sure:]
    if held:
        yield held


def _words_only(logits: Tensor, state: State) -> tuple[Tensor, State]:
    """The marks of a vocabulary are no part of a text, so none is ever written."""
    logits = logits.clone()
    logits[..., : len(SPECIALS)] = float("-inf")
    return logits, state


def perplexity(nll: float) -> float:
    """exp of nats a token; infinite where a float cannot hold it."""
    return math.exp(nll) if nll < 700 else math.inf


def gradient_back_in_time(model: nn.Module, split: Split, *, examples: int = 64) -> Tensor:
    """How far back a model's outputs depend on its inputs: the norm of ∂(last output)/∂(input d steps back), d = 0 … T − 1.

    The last output is the last layer's last state, weighted by random signs from a fixed seed, so that the loss has no say in it;
    the norms are means over examples.
    """
    count = min(examples, len(split))
    inputs = split.batch(torch.arange(count))["inputs"]
    with torch.enable_grad():
        vectors = model.vectors(inputs).detach().requires_grad_()  # type: ignore[operator]
        outputs, _ = model.recurrent(vectors)  # type: ignore[operator]
        signs = torch.randint(0, 2, outputs[:, -1].shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        (gradient,) = torch.autograd.grad((outputs[:, -1] * signs).sum(), vectors)
    norms: Tensor = gradient.double().norm(dim=-1).mean(0).flip(0)
    return norms
