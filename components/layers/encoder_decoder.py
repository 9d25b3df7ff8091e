"""The two stacks of a transformer that writes one text for another (Vaswani et al. 2017): what the 2017 model and BART share.

    s = encoder(source)                                          every place reads every place
    h = decoder(target shifted right behind its start mark, s)   a place reads itself, what came before, and all of s

The encoder runs once; what the decoder's blocks read of it, their keys and values, is computed once too. In writing, a step is given one
token, and keeps its own keys and values beside those before it.

Shapes: B batch, S source places, T target places, C channels, H heads, D = C/H, N blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from components.layers.transformer import Block, Kernel, KeysValues, MultiHeadAttention, Norm, Probability, Size
from components.protocols import ActivationFactory

State = tuple[Tensor, ...]
"""Each decoder block's keys and values (B, H, T, D) of what was written: 2N tensors."""


@dataclass(frozen=True)
class Encoded:
    """What the decoder reads of the source; computed once.

    Attributes:
        read: each decoder block's keys and values (B, H, S, D).
        mask: (B, S) bool, where there is a token.
    """

    read: tuple[KeysValues, ...]
    mask: Tensor

    def repeated(self, times: int) -> "Encoded":
        """Each sequence `times` times, side by side: what a beam needs."""
        read = tuple((key.repeat_interleave(times, dim=0), value.repeat_interleave(times, dim=0)) for key, value in self.read)
        return Encoded(read, self.mask.repeat_interleave(times, dim=0))


class Stack(nn.Module):
    """N blocks one after the other, and with pre-norm a last norm behind them: an encoder, or a decoder that reads one.

    Args:
        layers: blocks N.
        decodes: whether it is a decoder: causal, and reads an encoder's states.
        channels, heads, hidden, norm, dropout, attention_dropout, kernel, activation: see `Block`.
    """

    def __init__(
        self,
        *,
        layers: Annotated[int, Ge(1)],
        decodes: bool,
        channels: Size,
        heads: Size,
        hidden: Size,
        norm: Norm,
        dropout: Probability = 0.0,
        attention_dropout: Probability | None = None,
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                channels=channels,
                heads=heads,
                hidden=hidden,
                norm=norm,
                causal=decodes,
                crosses=decodes,
                dropout=dropout,
                attention_dropout=attention_dropout,
                kernel=kernel,
                activation=activation,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels) if norm == "pre" else nn.Identity()

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """An encoder's vectors (B, S, C) and a mask (B, S) of its words → its states (B, S, C)."""
        for block in self.blocks:
            vectors = block(vectors, mask=mask)
        states: Tensor = self.norm(vectors)
        return states

    def attentions(self, vectors: Tensor) -> list[Tensor]:
        """An encoder's vectors (B, S, C) without padding → for each block (B, H, S, S): how much every place reads of every other."""
        found = []
        for block in self.blocks:
            assert isinstance(block, Block)
            found.append(block.attention_weights(vectors))
            vectors = block(vectors)
        return found

    def reads(self, states: Tensor, mask: Tensor) -> Encoded:
        """What a decoder's blocks read of an encoder's states (B, S, C), and where there are words (B, S)."""
        return Encoded(tuple(cross.keys_values(states) for cross in self._crossings()), mask)

    def begin(self, encoded: Encoded) -> State:
        """The state in which nothing is written yet."""
        return tuple(part[:, :, :0] for key_value in encoded.read for part in key_value)

    def decode(self, vectors: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State]:
        """A decoder's vectors (B, T, C), which follow on a state → what it makes of them (B, T, C), and the state behind them."""
        kept: list[Tensor] = []
        for place, (block, read) in enumerate(zip(self.blocks, encoded.read, strict=True)):
            assert isinstance(block, Block)
            past = None if state[0].shape[2] == 0 else (state[2 * place], state[2 * place + 1])
            vectors, own = block.extend(vectors, past, encoded=read, encoded_mask=encoded.mask)
            kept.extend(own)
        return self.norm(vectors), tuple(kept)

    def looks(self, vectors: Tensor, encoded: Encoded) -> Tensor:
        """A decoder's vectors (B, T, C) from the first on → weights (B, N, H, T, S) that each of its heads looks at the source with."""
        found: list[Tensor] = []

        def look(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            assert isinstance(module, MultiHeadAttention)
            found.append(module.weighted(*given, **named)[1])

        hooks = [cross.register_forward_pre_hook(look, with_kwargs=True) for cross in self._crossings()]
        try:
            self.decode(vectors, self.begin(encoded), encoded)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found, dim=1)

    def _crossings(self) -> Iterator[MultiHeadAttention]:
        """Each decoder block's attention over the encoder."""
        for block in self.blocks:
            assert isinstance(block, Block)
            assert block.cross is not None
            yield block.cross


def present(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Tokens (B, S) and lengths (B,) → (B, S) bool, where there is a token."""
    return torch.arange(inputs.shape[1], device=inputs.device) < lengths.to(inputs.device).unsqueeze(1)
