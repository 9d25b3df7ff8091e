"""The Transformer (Vaswani et al. 2017, "Attention is all you need"): translation without recurrence.

    x = √C · token + position                               at the encoder's and at the decoder's entrance
    x ← norm(x + self-attention(x)),  x ← norm(x + feed_forward(x))                        N encoder blocks
    y ← norm(y + masked self-attention(y)),  y ← norm(y + attention(y, x)),  y ← norm(y + feed_forward(y))      N decoder blocks
    p(next) = softmax(y · tokenᵀ)                           the target's table of vectors is the output's weight too

The decoder reads the target shifted right behind its start mark: in training the right previous words, all at once (teacher forcing), in
writing its own, one after the other. Nothing is read in order, so only the positions tell it: `positions: none` shows what they are for.

Where we differ: `share` says which tables are one. The paper's `all` needs one vocabulary for both languages (data.shared_vocabulary=true);
with a vocabulary each, `target` ties the target's table and the output, as in Press and Wolf 2017. `norm: pre` is GPT-2's order.

Shapes: B batch, S source tokens, T target tokens, C channels, H heads, N blocks, V target tokens known.
"""

import math
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.encoder_decoder import Encoded, Stack, State, present
from components.layers.positions import Learned, Sinusoidal
from components.layers.transformer import Kernel, Norm
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]
Probability = Annotated[float, Ge(0), Lt(1)]


class Transformer(nn.Module):
    """Encoder and decoder of attention alone.

    Args:
        vocabulary_size: tokens of the source.
        target_vocabulary_size: tokens V of the target.
        share: which tables of vectors are one: `none`, the `target`'s and the output's, or `all` three.
        positions: how a place is told: `sinusoidal`, `learned`, or `none`.
        places: the longest text that learned positions have room for.
        channels: size C of a token's vector.
        heads: H, a divisor of C.
        layers: blocks N of the encoder, and of the decoder.
        expansion: units of a feed-forward network for each channel.
        norm: `post` (2017) or `pre`.
        dropout: probability of dropping a channel of an embedding or of a step, in training.
        attention_dropout: probability of dropping a weight of attention, in training.
        kernel: `fused` (torch's attention) or `explicit` (step by step).
        activation: makes the feed-forward networks' activation; the paper's is ReLU.

    Raises:
        ValueError: one table for two vocabularies of different size, or the channels cannot be shared out evenly.
    """

    def __init__(
        self,
        *,
        vocabulary_size: Size,
        target_vocabulary_size: Size,
        share: Literal["none", "target", "all"] = "target",
        positions: Literal["none", "learned", "sinusoidal"] = "sinusoidal",
        places: Size = 512,
        channels: Size = 512,
        heads: Size = 8,
        layers: Size = 6,
        expansion: Size = 4,
        norm: Norm = "post",
        dropout: Probability = 0.1,
        attention_dropout: Probability = 0.0,
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        if share == "all" and vocabulary_size != target_vocabulary_size:
            raise ValueError(
                f"share=all takes one vocabulary, not {vocabulary_size} and {target_vocabulary_size} tokens: data.shared_vocabulary=true"
            )
        self.target_embed = nn.Embedding(target_vocabulary_size, channels)
        self.source_embed = self.target_embed if share == "all" else nn.Embedding(vocabulary_size, channels)
        self.output = self.target_embed if share != "none" else nn.Embedding(target_vocabulary_size, channels)
        match positions:
            case "none":
                self.positions: nn.Module | None = None
            case "learned":
                self.positions = Learned(places=places, channels=channels)
            case "sinusoidal":
                self.positions = Sinusoidal(channels=channels)
            case _:
                raise ValueError(f"positions are none, learned or sinusoidal, not {positions!r}")
        self.drop = nn.Dropout(dropout)
        self.encoder, self.decoder = (
            Stack(
                layers=layers,
                decodes=decodes,
                channels=channels,
                heads=heads,
                hidden=expansion * channels,
                norm=norm,
                dropout=dropout,
                attention_dropout=attention_dropout,
                kernel=kernel,
                activation=activation,
            )
            for decodes in (False, True)
        )

    def forward(self, inputs: Tensor, lengths: Tensor, decoder_inputs: Tensor) -> Tensor:
        """Source (B, S), its lengths (B,), and the target shifted right behind its start mark (B, T) → logits (B, T, V)."""
        encoded, state = self.encode(inputs, lengths)
        return self.decode(decoder_inputs, state, encoded)[0]

    def encode(self, inputs: Tensor, lengths: Tensor) -> tuple[Encoded, State]:
        """Source (B, S), lengths (B,) → what the decoder reads of it, and the state it begins with."""
        mask = present(inputs, lengths)
        encoded = self.decoder.reads(self.encoder(self._vectors(self.source_embed, inputs), mask), mask)
        return encoded, self.decoder.begin(encoded)

    def attentions(self, inputs: Tensor) -> list[Tensor]:
        """Source (B, S) without padding → for each of the encoder's blocks (B, H, S, S): how much every place reads of every other."""
        return self.encoder.attentions(self._vectors(self.source_embed, inputs))

    def decode(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """Tokens (B, T) that follow on a state → logits (B, T, V) of what follows each, and the state after the last."""
        hidden, state = self.decoder.decode(self._vectors(self.target_embed, tokens, state[0].shape[2]), state, encoded)
        return F.linear(hidden, self.output.weight), state

    def step(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """One step for `components.decoding`: tokens (B,) → logits (B, V), state."""
        logits, state = self.decode(tokens.unsqueeze(1), state, encoded)
        return logits[:, 0], state

    def looks(self, tokens: Tensor, state: State, encoded: Encoded) -> Tensor:  # noqa: ARG002 — it begins at the first token
        """Tokens (B, T) from the first on → weights (B, N, H, T, S) that each head of each block looked at the source with."""
        return self.decoder.looks(self._vectors(self.target_embed, tokens), encoded)

    def _vectors(self, embed: nn.Embedding, tokens: Tensor, start: int = 0) -> Tensor:
        """Tokens (B, T), the first of which stands at `start` → (B, T, C)."""
        vectors = embed(tokens) * math.sqrt(embed.embedding_dim)
        dropped: Tensor = self.drop(vectors if self.positions is None else self.positions(vectors, start))
        return dropped
