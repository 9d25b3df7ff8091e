"""What the recurrent models share: symbols become vectors, a recurrent layer reads them, and a head says what there is to say.

    tokens (B, T) → embedding (B, T, E) → recurrent layers (B, T, H·R) → head

The head says one thing about a sequence (`predicts: sequence`; its outputs pooled to one vector) or one thing at every place (`each`, and
`next`: the token that follows, for which nothing may be read that comes later). Sequences of numbers instead of tokens go in as they are.

Shapes: B batch, T time steps, E embedding, D features of a step, H hidden units, R directions, K classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from components.layers.recurrent import Cell, Gates, Kernel, Recurrent, State
from components.protocols import ActivationFactory

PAD = 0
"""The token of padding, as in every vocabulary of the lab."""

Pool = Literal["last", "mean", "max"]
Predicts = Literal["sequence", "each", "next"]


class SequenceModel(nn.Module):
    """Embedding, recurrent layers, head; see `components/models/lstm.py` for what each argument means."""

    def __init__(
        self,
        *,
        cell: Cell,
        bidirectional: bool,
        classes: int,
        vocabulary_size: int | None,
        input_shape: Sequence[int] | None,
        predicts: Predicts,
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
        pool: Pool,
        kernel: Kernel,
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        if predicts not in ("sequence", "each", "next"):
            raise ValueError(f"these data ask for {predicts!r}, which takes another model, such as seq2seq")
        if predicts == "next" and bidirectional:
            raise ValueError("a model that reads from both ends sees the token that it is to tell: choose rnn, lstm or gru")
        if vocabulary_size is None and input_shape is None:
            raise ValueError("neither a vocabulary_size nor an input_shape says what is read")
        self.embed: nn.Embedding | None = None
        if vocabulary_size is not None:
            self.embed = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
            features = embedding
        else:
            assert input_shape is not None
            features = input_shape[-1]
        self.drop = nn.Dropout(dropout)
        self.recurrent = Recurrent(
            cell=cell,
            input_size=features,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            bidirectional=bidirectional,
            kernel=kernel,
            activation=activation,
        )
        self.pool, self.predicts = pool, predicts
        self.head = nn.Linear(self.recurrent.output_size, classes)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Tokens (B, T), or numbers (B, T, D), and lengths (B,) → (B, K), or (B, T, K) where every place is asked about."""
        return self.read(self.vectors(inputs), lengths)

    def vectors(self, inputs: Tensor) -> Tensor:
        """What the recurrent layers are to read: (B, T, E) of tokens, numbers as they are."""
        return inputs if self.embed is None else self.embed(inputs)

    def read(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The rest of `forward`, from vectors on; so gradients can be taken at the vectors."""
        vectors = self.drop(vectors) if self.embed is not None else vectors
        if self.predicts == "sequence":
            said = self._last(vectors, lengths) if self.pool == "last" else self._over_time(vectors, lengths)
        else:
            said, _ = self.recurrent(vectors, lengths)
        logits: Tensor = self.head(self.drop(said))
        return logits

    def begin(self, tokens: Tensor) -> tuple[Tensor, State]:
        """Tokens (B, T), all words → logits (B, K) of what follows the last, and the state to go on from; see `step`."""
        outputs, state = self.recurrent(self.drop(self.vectors(tokens)))
        return self.head(self.drop(outputs[:, -1])), state

    def step(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One more token each: (B,) → logits (B, K) of what follows, and the state to go on from."""
        outputs, state = self.recurrent(self.drop(self.vectors(tokens.unsqueeze(1))), None, state)
        return self.head(self.drop(outputs[:, 0])), state

    def gates(self, inputs: Tensor, lengths: Tensor | None = None) -> list[Gates]:
        """Every gate at every step, for each layer and direction (see `Recurrent.gates`)."""
        return self.recurrent.gates(self.vectors(inputs), lengths)

    def _last(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, E) → (B, H·R): the last state of each direction, at the end for the one, at the beginning for the other."""
        hidden = self.recurrent.last(vectors, lengths)[0]
        sides = 2 if self.recurrent.cell.bidirectional else 1
        return torch.cat(hidden[-sides:].unbind(0), dim=-1)

    def _over_time(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, E) → (B, H·R): mean or maximum of the outputs over a text's own places."""
        outputs, _ = self.recurrent(vectors, lengths)
        pooled: Tensor
        if lengths is None:
            pooled = outputs.mean(1) if self.pool == "mean" else outputs.amax(1)
            return pooled
        lengths = lengths.to(outputs.device).unsqueeze(1)
        if self.pool == "mean":
            pooled = outputs.sum(1) / lengths  # padding is 0
        else:
            present = torch.arange(outputs.shape[1], device=outputs.device) < lengths  # (B, T)
            pooled = outputs.masked_fill(~present.unsqueeze(-1), float("-inf")).amax(1)
        return pooled
