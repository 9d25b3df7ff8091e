"""What the objectives share in which a model writes one text for another: cross-entropy under teacher forcing, and writing by itself.

Shapes: B examples, S source tokens, T target tokens, V target tokens known, N layers, H heads.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.tokens import END, PAD, START, Vocabulary
from components.decoding import at_least, beam_search, greedy, no_repeats
from components.objectives.sequence_classification import unknown_tokens
from components.objectives.transformer_pictures import pictures_of
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_TOKENS = 20
SHOWN_PAIRS = 2
SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class Writing:
    """A batch has `inputs` (B, S), `lengths`, `decoder_inputs` (B, T), `targets` (B, T) and `references`; the model encodes and decodes.

    Args:
        vocabulary: how source tokens are written; given by the data.
        target_vocabulary: how target tokens are written; given by the data.
        label_smoothing: share of the target that is spread evenly over all tokens, in training (Szegedy et al. 2016).
        beams: how many sequences are followed when the model writes; 1 is greedy.
        length_penalty: a beam's log-probability is divided by its length to this power.
        no_repeat: this many tokens do not follow each other twice in what the model writes; 0 lets them.
        shortest: tokens that the model writes at least.
        limit: tokens that the model writes at most.
    """

    vocabulary: str
    target_vocabulary: str
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    beams: Annotated[int, Ge(1)] = 1
    length_penalty: Annotated[float, Ge(0)] = 1.0
    no_repeat: Annotated[int, Ge(0)] = 0
    shortest: Annotated[int, Ge(0)] = 0
    limit: Annotated[int, Gt(0)] = 100

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats over all target tokens."""
        logits = model(batch["inputs"], batch["lengths"], batch["decoder_inputs"])
        return {
            "loss": F.cross_entropy(
                logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=PAD, label_smoothing=self.label_smoothing
            )
        }

    def terms(self, batch: Batch) -> Tensor:
        """How many tokens `loss` is the mean of."""
        counted: Tensor = (batch["targets"] != PAD).sum()
        return counted

    def told(self, model: Model, batch: Batch) -> Outcomes:
        """Under teacher forcing, for each example: `index`, `nll` (summed −log p in nats), `tokens` of the target, `right` ones."""
        with torch.no_grad():
            logits = model(batch["inputs"], batch["lengths"], batch["decoder_inputs"]).float()
            targets = batch["targets"]
            nll = F.cross_entropy(logits.mT, targets, ignore_index=PAD, reduction="none").double().sum(1)
        asked = targets != PAD
        right = (logits.argmax(-1) == targets) & asked
        rows = {"index": batch["index"], "nll": nll, "tokens": asked.sum(1), "right": right.sum(1)}
        return {name: row.cpu() for name, row in rows.items()}

    def write(self, model: Any, batch: Batch) -> Tensor:
        """What the model writes by itself: (B, ≤ limit) int64, end marks behind. The encoder runs once, whatever the number of beams."""
        size = len(batch["inputs"])
        with torch.no_grad():
            encoded, state = model.encode(batch["inputs"], batch["lengths"])
            restrictions = [no_repeats(self.no_repeat)] if self.no_repeat else []
            restrictions += [at_least(self.shortest, END)] if self.shortest else []
            marks: dict[str, Any] = {"batch": size, "start": START, "end": END, "limit": self.limit, "restrictions": restrictions}
            if self.beams == 1:
                return greedy(lambda tokens, now: model.step(tokens, now, encoded), state, **marks)
            wide = encoded.repeated(self.beams)
            begin = tuple(part.repeat_interleave(self.beams, dim=0) for part in state)
            step = lambda tokens, now: model.step(tokens, now, wide)  # noqa: E731 — a closure over what never changes
            return beam_search(step, begin, beams=self.beams, length_penalty=self.length_penalty, **marks)[0]

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`text`: what the model writes; `unknown` counts the source tokens that the vocabulary does not have, where there are any."""
        ids = self.write(model, batch)[0].tolist()
        unknown = unknown_tokens(batch, self.vocabulary)
        cut = {} if END in ids else {"cut": self.limit}
        return {"text": Vocabulary.load(self.target_vocabulary).decode(ids)} | ({"unknown": unknown} if unknown else {}) | cut

    def explain(self, model: nn.Module, split: Split) -> "dict[str, Figure]":
        """Pictures that need the model: `alignment`, where it looked while it wrote; `cross-attention`, the same by layer and head.

        Of a transformer also `attention`, where its encoder looks, and `positions`.
        """
        from components.figures.translation import alignment, cross_attention

        sources, targets = Vocabulary.load(self.vocabulary), Vocabulary.load(self.target_vocabulary)
        assert split.lengths is not None
        sizes = split.batch(torch.arange(min(len(split), 500)))["lengths"]
        fitting = torch.nonzero(sizes <= max(SHOWN_TOKENS, int(sizes.min()))).flatten()
        figures = pictures_of(model, split, sources)
        for number, place in enumerate(fitting[sizes[fitting].argsort(descending=True, stable=True)][:SHOWN_PAIRS].tolist(), start=1):
            batch = split.batch(torch.tensor([place]))
            written, weights = self.looked(model, batch)
            if weights is None:
                return figures
            names = sources.tokens(batch["inputs"][0].tolist()), targets.tokens(written.tolist())
            figures[f"alignment-{number}"] = alignment(*names, weights.mean((0, 1)))
            if number == 1 and weights[:, :, 0, 0].numel() > 1:
                figures["cross-attention"] = cross_attention(*names, weights)
        return figures

    def looked(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Of a batch of one: what the model writes (T,), end mark included, and the weights (N, H, T, S) that each head of each layer
        looked at the source with; None where nothing looks.
        """
        written = self.write(model, batch)
        if END in written[0]:
            written = written[:, : written[0].tolist().index(END) + 1]
        with torch.no_grad():
            encoded, state = model.encode(batch["inputs"], batch["lengths"])
            given = torch.cat([torch.full((1, 1), START), written[:, :-1]], dim=1)
            weights = model.looks(given, state, encoded)
        return written[0], None if weights is None else weights[0]

    def samples(self, model: nn.Module, batch: Batch) -> "Figure":
        """What the model writes now for a few texts of a batch, beside what a person wrote."""
        from components.figures.writing import written_texts

        sources, targets = Vocabulary.load(self.vocabulary), Vocabulary.load(self.target_vocabulary)
        count = len(batch["inputs"])
        places = sorted({round(place) for place in torch.linspace(0, count - 1, SAMPLES).tolist()})
        some = {"inputs": batch["inputs"][places], "lengths": batch["lengths"][places]}
        texts = zip(some["inputs"].tolist(), self.write(model, some).tolist(), places, strict=True)
        return written_texts([(sources.decode(read), targets.decode(own), batch["references"][place]) for read, own, place in texts])
