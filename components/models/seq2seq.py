"""Sequence to sequence: an encoder reads a text, a decoder writes another (Sutskever et al. 2014; Cho et al. 2014), with or without
attention (Bahdanau et al. 2015; Luong et al. 2015).

    s₁ … s_S = encoder(source)                    from both ends, unless told otherwise
    hₜ = decoder(hₜ₋₁, yₜ₋₁),   h₀ = s_S
    cₜ = attention(hₜ, s₁ … s_S)                  or, without attention, s_S at every step: one fixed vector for any sentence
    p(yₜ) = softmax(V φ(W (cₜ ; hₜ) + b))         context and state concatenated

Where we differ: with Luong's global attention, so that in training all steps of the decoder run at once, but without his feeding of cₜ into
the next step. Without attention the context is the encoder's last state, so both have the very same parameters (additive and
multiplicative scores have their own on top).

In training a token is the right previous one with probability `teacher_forcing`, else the model's own choice (Williams and Zipser 1989;
Bengio et al. 2015), drawn for a whole step at once from torch's global generator.

Shapes: B batch, S source tokens, T target tokens, E embedding, H hidden units, L layers, V target tokens known.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from components.layers.attention import Attention, Score
from components.layers.recurrent import Cell, Kernel, Recurrent, State
from components.protocols import ActivationFactory

PAD = 0
"""The token of padding, as in every vocabulary of the lab."""

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class Encoded:
    """What the decoder knows of the source; computed once.

    Attributes:
        states: (B, S, H) one for each token, 0 at padding.
        mask: (B, S) bool, where there is a token.
        last: (B, H) the last layer's last state.
    """

    states: Tensor
    mask: Tensor
    last: Tensor

    def repeated(self, times: int) -> "Encoded":
        """Each sequence `times` times, side by side: what a beam needs."""
        return Encoded(*(part.repeat_interleave(times, dim=0) for part in (self.states, self.mask, self.last)))


class Seq2Seq(nn.Module):
    """Encoder and decoder of recurrent layers.

    Args:
        vocabulary_size: tokens of the source.
        target_vocabulary_size: tokens V of the target.
        cell: what both are made of.
        attention: how the decoder looks at the encoder's states; `none` gives it the last one only.
        embedding: size E of a token's vector.
        hidden: units H of each layer; the encoder's two directions share them.
        layers: recurrent layers in each.
        bidirectional: whether the encoder reads from both ends.
        dropout: probability of dropping a unit of an embedding, between layers and before the output, in training.
        teacher_forcing: probability that a step of the training sees the right previous token.
        kernel: `fused` (torch's) or `explicit` (gate by gate, with any activation).
        activation: makes φ.

    Raises:
        ValueError: two directions cannot share `hidden` units, or the fused kernel has not this activation.
    """

    def __init__(
        self,
        *,
        vocabulary_size: Size,
        target_vocabulary_size: Size,
        cell: Cell = "gru",
        attention: Literal["none", "dot", "additive", "multiplicative"] = "dot",
        embedding: Size = 128,
        hidden: Size = 256,
        layers: Size = 1,
        bidirectional: bool = True,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        teacher_forcing: Annotated[float, Ge(0), Le(1)] = 1.0,
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        if bidirectional and hidden % 2:
            raise ValueError(f"hidden must be even, so that the encoder's two directions can share it, not {hidden}")
        shared = {"cell": cell, "input_size": embedding, "layers": layers, "dropout": dropout, "kernel": kernel, "activation": activation}
        self.source_embed = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        self.target_embed = nn.Embedding(target_vocabulary_size, embedding, padding_idx=PAD)
        self.drop = nn.Dropout(dropout)
        self.encoder = Recurrent(**shared, hidden=hidden // (1 + bidirectional), bidirectional=bidirectional)  # type: ignore[arg-type]
        self.decoder = Recurrent(**shared, hidden=hidden)  # type: ignore[arg-type]
        score: Score | None = None if attention == "none" else attention
        self.attention = Attention(score=score, query_size=hidden, state_size=hidden, activation=activation) if score else None
        self.combine = nn.Linear(2 * hidden, hidden)
        self.activation = activation()
        self.output = nn.Linear(hidden, target_vocabulary_size)
        self.teacher_forcing = teacher_forcing

    def forward(self, inputs: Tensor, lengths: Tensor, decoder_inputs: Tensor) -> Tensor:
        """Source (B, S), its lengths (B,), and the target shifted right behind its start mark (B, T) → logits (B, T, V)."""
        encoded, state = self.encode(inputs, lengths)
        if not self.training or self.teacher_forcing == 1:
            logits, _, _ = self.decode(decoder_inputs, state, encoded)
            return logits
        own = decoder_inputs[:, 0]
        steps: list[Tensor] = []
        forced = torch.rand(decoder_inputs.shape[1]) < self.teacher_forcing
        for right, force in zip(decoder_inputs.unbind(1), forced.tolist(), strict=True):
            tokens = right if force or not steps else own
            logits, state, _ = self.decode(tokens.unsqueeze(1), state, encoded)
            own = logits[:, 0].argmax(-1)
            steps.append(logits)
        return torch.cat(steps, dim=1)

    def encode(self, inputs: Tensor, lengths: Tensor) -> tuple[Encoded, State]:
        """Source (B, S), lengths (B,) → what the decoder knows, and the state it begins with, (B, L, H) each."""
        states, last = self.encoder(self.drop(self.source_embed(inputs)), lengths)
        state = tuple(self._joined(part) for part in last)
        mask = torch.arange(inputs.shape[1], device=inputs.device) < lengths.to(inputs.device).unsqueeze(1)
        return Encoded(states, mask, state[0][-1]), tuple(part.transpose(0, 1) for part in state)

    def decode(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State, Tensor | None]:
        """Tokens (B, T) → logits (B, T, V) of what follows each, the state after the last, and weights (B, T, S) of attention."""
        begin = tuple(part.transpose(0, 1).contiguous() for part in state)
        hidden, end = self.decoder(self.drop(self.target_embed(tokens)), None, begin)
        if self.attention is None:
            context, weights = encoded.last.unsqueeze(1).expand_as(hidden), None
        else:
            context, weights = self.attention(hidden, encoded.states, encoded.mask)
        joined = self.activation(self.combine(torch.cat([context, hidden], dim=-1)))  # (B, T, 2H) → (B, T, H)
        return self.output(self.drop(joined)), tuple(part.transpose(0, 1) for part in end), weights

    def step(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """One step for `components.decoding`: tokens (B,), state (B, L, H) each → logits (B, V), state."""
        logits, after, _ = self.decode(tokens.unsqueeze(1), state, encoded)
        return logits[:, 0], after

    def looks(self, tokens: Tensor, state: State, encoded: Encoded) -> Tensor | None:
        """Tokens (B, T) → weights (B, 1, 1, T, S) that each looked at the source with: one layer, one head; None without attention."""
        _, _, weights = self.decode(tokens, state, encoded)
        return None if weights is None else weights[:, None, None]

    def _joined(self, state: Tensor) -> Tensor:
        """(L·R, B, H/R) → (L, B, H): both directions' last states side by side."""
        if not self.encoder.cell.bidirectional:
            return state
        return torch.cat([state[0::2], state[1::2]], dim=-1)
