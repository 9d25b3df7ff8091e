"""GPT (Radford et al. 2018, 2019): a transformer's decoder alone, which tells every token from those before it.

    x = token + position                                     learned, both
    x ← x + attention(norm(x)),   x ← x + feed_forward(norm(x))      N blocks; nothing is read from the future
    logits = norm(x) · tokenᵀ                                the token's vector is its output weight too: tied

The layout is GPT-2's: norm before each step and once more at the end, biases everywhere unless none are asked for. Its parameters, and
ours, which have the same shapes unless it is said otherwise:

    wte.weight, wpe.weight                embed.weight, positions.table.weight
    h.N.ln_1.*, h.N.ln_2.*                blocks.N.attention_norm.*, blocks.N.feed_forward_norm.*
    h.N.attn.c_attn.*                     blocks.N.attention.{query, key, value}.*, one after the other in its last dimension
    h.N.attn.c_proj.*                     blocks.N.attention.output.*
    h.N.mlp.c_fc.*, h.N.mlp.c_proj.*      blocks.N.feed_forward.{widen, narrow}.*
    ln_f.*                                norm.*
    lm_head.weight                        embed.weight, tied

GPT-2 keeps the weights called c_… as (in, out), torch's linear layers as (out, in): transposed.

Where we differ: weights are drawn by the chosen initializer's rule; GPT-2 draws N(0, 0.02²) and divides those that end a step by √(2N):
initializer=random_normal initializer.std=0.02 initializer.by_depth=true. Its GELU is the tanh approximation: activation=gelu
activation.approximate=tanh.

A text longer than the context is told from its end. In generation the keys and values of what was read are kept; once they fill the
context, its later half is read anew and the rest forgotten.

Shapes: B batch, T tokens, C channels, H heads, D = C/H, N blocks, V tokens known.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.positions import Learned
from components.layers.sequence_model import Predicts
from components.layers.transformer import Block, Kernel, KeysValues
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]

State = tuple[Tensor, ...]
"""The tokens read (B, T), and each block's keys and values (B, H, T, D): 1 + 2N tensors."""


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        vocabulary_size: tokens V.
        predicts: `next`: given by the data.
        context: the most tokens that are read at a time.
        channels: size C of a token's vector.
        heads: H, a divisor of C.
        layers: blocks N.
        expansion: units of a feed-forward network for each channel.
        dropout: probability of dropping a channel of the embedding or of a step, or a weight of attention, in training.
        kernel: `fused` (torch's attention) or `explicit` (step by step).
        biases: whether linear layers and norms have a bias.
        activation: makes the feed-forward networks' activation.

    Raises:
        ValueError: the data ask for something else, or the channels cannot be shared out evenly among the heads.
    """

    def __init__(
        self,
        *,
        vocabulary_size: Size,
        predicts: Predicts = "next",
        context: Size = 1024,
        channels: Size = 768,
        heads: Size = 12,
        layers: Size = 12,
        expansion: Size = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        kernel: Kernel = "fused",
        biases: bool = True,
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        if predicts != "next":
            raise ValueError(f"these data ask for {predicts!r}, and gpt tells the next token: choose another model")
        self.context = context
        self.embed = nn.Embedding(vocabulary_size, channels)
        self.positions = Learned(places=context, channels=channels)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                channels=channels,
                heads=heads,
                hidden=expansion * channels,
                norm="pre",
                causal=True,
                dropout=dropout,
                kernel=kernel,
                biases=biases,
                activation=activation,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels, bias=biases)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens (B, T) → logits (B, T, V) of what follows each; padding at the end changes nothing before it.

        Raises:
            DataError: more tokens than the context.
        """
        vectors = self.drop(self.positions(self.embed(inputs)))
        for block in self.blocks:
            vectors = block(vectors)
        return self.logits(vectors)

    def logits(self, vectors: Tensor) -> Tensor:
        """What the last block gives (B, T, C) → (B, T, V)."""
        return F.linear(self.norm(vectors), self.embed.weight)

    def attentions(self, inputs: Tensor) -> list[Tensor]:
        """How much every place reads of itself and those before it: for each block (B, H, T, T), rows that ask, columns that are read."""
        vectors, found = self.drop(self.positions(self.embed(inputs))), []
        for block in self.blocks:
            assert isinstance(block, Block)
            found.append(block.attention_weights(vectors))
            vectors = block(vectors)
        return found

    def begin(self, inputs: Tensor) -> tuple[Tensor, State]:
        """Tokens (B, T), all words → logits (B, V) of what follows the last, and the state to go on from; see `step`."""
        return self._read(inputs[:, -self.context :], None)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One more token each: (B,) → logits (B, V) of what follows, and the state to go on from."""
        if state[0].shape[1] < self.context:
            return self._read(tokens.unsqueeze(1), state)
        later = torch.cat([state[0], tokens.unsqueeze(1)], dim=1)[:, -((self.context + 1) // 2) :]
        return self._read(later, None)

    def _read(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Tokens (B, T) that follow on a state, if there is one → logits (B, V) after the last, and the state behind it."""
        start = 0 if state is None else state[0].shape[1]
        vectors = self.drop(self.positions(self.embed(tokens), start))
        kept: list[Tensor] = [tokens if state is None else torch.cat([state[0], tokens], dim=1)]
        for place, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            past: KeysValues | None = None if state is None else (state[1 + 2 * place], state[2 + 2 * place])
            vectors, read = block.extend(vectors, past)
            kept.extend(read)
        return self.logits(vectors[:, -1]), tuple(kept)
