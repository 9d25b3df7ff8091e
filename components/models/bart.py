"""BART (Lewis et al. 2020): an encoder that reads a damaged text, a decoder that writes it whole; and then summaries.

    x = norm(token + position)                    at the encoder's and at the decoder's entrance, one table of tokens for both
    N encoder blocks, N decoder blocks            as in the Transformer of 2017: post-norm, but with GELU
    p(next) = softmax(y · tokenᵀ + b)             tied to the same table; b is fixed, and 0 unless a checkpoint says otherwise

It is pretrained to undo what `components.data.denoising` does to a text: spans of words replaced by one mark, sentences in another order,
words left out. The same two stacks then learn to write one text for another.

Its parameters in the layout of the published checkpoints, and ours:

    shared.weight                                 embed.weight                    also the three tied ones
    S.embed_positions.weight                      S_positions.table.weight           S is encoder or decoder; 2 rows more than places
    S.layernorm_embedding.*                       S_norm.*
    S.layers.N.self_attn.{q, k, v, out}_proj.*    S.blocks.N.attention.{query, key, value, output}.*
    S.layers.N.encoder_attn.…                     S.blocks.N.cross.…                 decoder only
    S.layers.N.self_attn_layer_norm.*             S.blocks.N.attention_norm.*        also encoder_attn_layer_norm: cross_norm
    S.layers.N.fc1.*, fc2.*, final_layer_norm.*   S.blocks.N.feed_forward.{widen, narrow}.*, feed_forward_norm.*
    final_logits_bias                             output_bias

The first two rows of its tables of positions belong to no place: an accident of its first program that every checkpoint carries on.

Shapes: B batch, S source tokens, T target tokens, C channels, H heads, N blocks, V tokens known.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.encoder_decoder import Encoded, Stack, State, present
from components.layers.positions import Learned
from components.layers.transformer import Kernel
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]
Probability = Annotated[float, Ge(0), Lt(1)]

BEFORE_THE_FIRST = 2
"""Rows of the tables of positions that belong to no place."""


class Bart(nn.Module):
    """Encoder and decoder over one vocabulary.

    Args:
        vocabulary_size: tokens V of the source, and of the target.
        target_vocabulary_size: the same number; data.shared_vocabulary=true makes it so.
        context: the longest text, in tokens, on either side.
        channels: size C of a token's vector.
        heads: H, a divisor of C.
        layers: blocks N of the encoder, and of the decoder.
        expansion: units of a feed-forward network for each channel.
        dropout: probability of dropping a channel of an embedding or of a step, in training.
        attention_dropout: probability of dropping a weight of attention, in training.
        kernel: `fused` (torch's attention) or `explicit` (step by step).
        activation: makes the feed-forward networks' activation; the paper's is GELU.

    Raises:
        ValueError: two vocabularies of different size, or the channels cannot be shared out evenly.
    """

    output_bias: Tensor

    def __init__(
        self,
        *,
        vocabulary_size: Size,
        target_vocabulary_size: Size,
        context: Size = 1024,
        channels: Size = 768,
        heads: Size = 12,
        layers: Size = 6,
        expansion: Size = 4,
        dropout: Probability = 0.1,
        attention_dropout: Probability = 0.0,
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        if vocabulary_size != target_vocabulary_size:
            raise ValueError(
                f"bart has one vocabulary, not {vocabulary_size} and {target_vocabulary_size} tokens: data.shared_vocabulary=true"
            )
        self.embed = nn.Embedding(vocabulary_size, channels)
        self.encoder_positions, self.decoder_positions = (
            Learned(places=context, channels=channels, unused=BEFORE_THE_FIRST) for _ in range(2)
        )
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.drop = nn.Dropout(dropout)
        self.encoder, self.decoder = (
            Stack(
                layers=layers,
                decodes=decodes,
                channels=channels,
                heads=heads,
                hidden=expansion * channels,
                norm="post",
                dropout=dropout,
                attention_dropout=attention_dropout,
                kernel=kernel,
                activation=activation,
            )
            for decodes in (False, True)
        )
        self.register_buffer("output_bias", torch.zeros(1, vocabulary_size))

    def forward(self, inputs: Tensor, lengths: Tensor, decoder_inputs: Tensor) -> Tensor:
        """Source (B, S), its lengths (B,), and the target shifted right behind its start mark (B, T) → logits (B, T, V)."""
        encoded, state = self.encode(inputs, lengths)
        return self.decode(decoder_inputs, state, encoded)[0]

    def encode(self, inputs: Tensor, lengths: Tensor) -> tuple[Encoded, State]:
        """Source (B, S), lengths (B,) → what the decoder reads of it, and the state it begins with."""
        mask = present(inputs, lengths)
        encoded = self.decoder.reads(self.encoder(self._read(inputs), mask), mask)
        return encoded, self.decoder.begin(encoded)

    def attentions(self, inputs: Tensor) -> list[Tensor]:
        """Source (B, S) without padding → for each of the encoder's blocks (B, H, S, S): how much every place reads of every other."""
        return self.encoder.attentions(self._read(inputs))

    def decode(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """Tokens (B, T) that follow on a state → logits (B, T, V) of what follows each, and the state after the last."""
        hidden, state = self.decoder.decode(self._written(tokens, state[0].shape[2]), state, encoded)
        return F.linear(hidden, self.embed.weight, self.output_bias[0]), state

    def step(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """One step for `components.decoding`: tokens (B,) → logits (B, V), state."""
        logits, state = self.decode(tokens.unsqueeze(1), state, encoded)
        return logits[:, 0], state

    def looks(self, tokens: Tensor, state: State, encoded: Encoded) -> Tensor:  # noqa: ARG002 — it begins at the first token
        """Tokens (B, T) from the first on → weights (B, N, H, T, S) that each head of each block looked at the source with."""
        return self.decoder.looks(self._written(tokens, 0), encoded)

    def _read(self, inputs: Tensor) -> Tensor:
        """Source (B, S) → the encoder's vectors (B, S, C)."""
        vectors: Tensor = self.drop(self.encoder_norm(self.encoder_positions(self.embed(inputs))))
        return vectors

    def _written(self, tokens: Tensor, start: int) -> Tensor:
        """Tokens (B, T), the first of which stands at `start` → the decoder's vectors (B, T, C)."""
        vectors: Tensor = self.drop(self.decoder_norm(self.decoder_positions(self.embed(tokens), start)))
        return vectors
