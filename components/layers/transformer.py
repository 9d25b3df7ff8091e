"""What the transformers share (Vaswani et al. 2017): self-attention, the position-wise feed-forward network, and the block of both.

Every place asks a question (its query), which is compared with what every place has to offer (their keys), and gets a mean of what they
say (their values), weighted by how well key and query go together:

    q, k, v = W_q x + b, W_k x + b, W_v x + b
    e_ts = q_t · k_s / √D          scores; −∞ where nothing may be read
    α_t = softmax(e_t)             weights, positive, with the sum 1
    c_t = Σ_s α_ts v_s             the weighted sum

It is done H times side by side, each head on its own D = C/H channels, and W_o mixes what they found. In *masked* (causal) self-attention
a place reads itself and what came before; in encoder–decoder attention keys and values come from the encoder.

Two ways to compute it: `attend`, line by line as above, which also returns the weights, and `fused_attend`, torch's kernel, which never
keeps them. Keys and values are computed apart from the queries, so that generation can keep them: one more token costs one more
column, and an encoder's are computed once.

Where we differ: nothing in the formulas. Query, key and value have a weight each, as in BERT and BART, rather than one for all three, so
an initializer sees each one's own fans; self-attention multiplies by all three at once.

Shapes: B batch, T places that ask, S places that are read, C channels, H heads, D = C/H channels of a head, F hidden units.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.parameters import StepEnd
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]
Probability = Annotated[float, Ge(0), Lt(1)]
Kernel = Literal["fused", "explicit"]
Norm = Literal["pre", "post"]

KeysValues = tuple[Tensor, Tensor]
"""Keys and values (B, H, S, D) of what is read."""


def visible(asking: int, reading: int, *, causal: bool, mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which places may be read, True: broadcastable to (B, H, T, S); None where all may.

    Args:
        asking, reading: T and S; the places that ask are the last of those that are read, where `causal`.
        causal: a place reads itself and what came before.
        mask: (B, S) bool, True where there is a word; every place has one to read at least.
        device: where to make it.
    """
    words = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
    if not causal or asking == 1:  # the last place reads everything
        return words
    before = torch.ones(asking, reading, dtype=torch.bool, device=device).tril(reading - asking)  # (T, S)
    return before if words is None else words & before


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, step by step.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        causal, mask: see `visible`.
        dropout: probability that a weight is dropped.

    Returns:
        context (B, H, T, D), weights (B, H, T, S) before dropout.
    """
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    allowed = visible(query.shape[-2], key.shape[-2], causal=causal, mask=mask, device=query.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = F.softmax(scores, dim=-1)
    return F.dropout(weights, dropout) @ value, weights


def fused_attend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The context of `attend` by torch's kernel, which does not keep the weights."""
    asking, reading = query.shape[-2], key.shape[-2]
    if causal and mask is None and asking == reading:  # torch's own triangle, which the kernel skips instead of masking
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
    allowed = visible(asking, reading, causal=causal, mask=mask, device=query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)


class MultiHeadAttention(nn.Module):
    """H attentions side by side.

    Args:
        channels: size C of the places that ask, and of what comes out.
        heads: H, a divisor of C.
        reads: size of the places that are read; None: C.
        dropout: probability of dropping a weight, in training.
        kernel: `fused` or `explicit`; the same to rounding, but for what dropout draws.
        biases: whether the b are there.

    Raises:
        ValueError: the channels cannot be shared out evenly.
    """

    def __init__(
        self,
        *,
        channels: Size,
        heads: Size,
        reads: Size | None = None,
        dropout: Probability = 0.0,
        kernel: Kernel = "fused",
        biases: bool = True,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared out evenly among {heads} heads")
        self.heads, self.dropout, self.kernel = heads, dropout, kernel
        self.query = nn.Linear(channels, channels, bias=biases)
        self.key = nn.Linear(reads or channels, channels, bias=biases)
        self.value = nn.Linear(reads or channels, channels, bias=biases)
        self.output = StepEnd(channels, channels, bias=biases)

    def keys_values(self, states: Tensor, past: KeysValues | None = None) -> KeysValues:
        """What is read, (B, S, C), as keys and values, behind those that are there already."""
        key, value = self._split(self.key(states)), self._split(self.value(states))
        return (key, value) if past is None else (torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2))

    def forward(self, inputs: Tensor, read: KeysValues, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
        """Places that ask (B, T, C), what is read, and a mask (B, S) of its words → (B, T, C)."""
        if self.kernel == "explicit":
            return self.weighted(inputs, read, causal=causal, mask=mask)[0]
        return self._fused(self._split(self.query(inputs)), read, causal=causal, mask=mask)

    def itself(
        self, inputs: Tensor, past: KeysValues | None = None, *, causal: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Self-attention of places (B, T, C) that follow on `past`: (B, T, C), and the keys and values of both."""
        if self.kernel == "explicit" or inputs.shape[1] == 1:
            read = self.keys_values(inputs, past)
            return self(inputs, read, causal=causal, mask=mask), read
        # One product for all three: fewer passes over the inputs, forward and back.
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = None if self.query.bias is None else torch.cat([layer.bias for layer in layers])
        query, key, value = (self._split(part) for part in F.linear(inputs, weight, bias).chunk(3, dim=-1))
        read = (key, value) if past is None else (torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2))
        return self._fused(query, read, causal=causal, mask=mask), read

    def weighted(self, inputs: Tensor, read: KeysValues, *, causal: bool = False, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward` in the explicit way, and the weights (B, H, T, S)."""
        dropout = self.dropout if self.training else 0.0
        context, weights = attend(self._split(self.query(inputs)), *read, causal=causal, mask=mask, dropout=dropout)
        return self._merge(context), weights

    def _fused(self, query: Tensor, read: KeysValues, *, causal: bool, mask: Tensor | None) -> Tensor:
        """Queries (B, H, T, D) and what is read → (B, T, C), by torch's kernel."""
        dropout = self.dropout if self.training else 0.0
        return self._merge(fused_attend(query, *read, causal=causal, mask=mask, dropout=dropout))

    def _split(self, vectors: Tensor) -> Tensor:
        """(B, T, C) → (B, H, T, D)."""
        return vectors.view(*vectors.shape[:2], self.heads, -1).transpose(1, 2)

    def _merge(self, heads: Tensor) -> Tensor:
        """(B, H, T, D) → (B, T, C)."""
        mixed: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """W₂ φ(W₁ x + b₁) + b₂, the same at every place; φ is ReLU in the paper, GELU in BERT, GPT and BART.

    Args:
        channels: size C.
        hidden: units F in between.
        biases: whether the b are there.
        activation: makes φ.
    """

    def __init__(self, *, channels: Size, hidden: Size, biases: bool = True, activation: ActivationFactory) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, hidden, bias=biases)
        self.activation = activation()
        self.narrow = StepEnd(hidden, channels, bias=biases)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        narrowed: Tensor = self.narrow(self.activation(self.widen(vectors)))
        return narrowed


class Block(nn.Module):
    """Self-attention, encoder–decoder attention where asked for, feed-forward: each a step that is added to what comes in.

        post-norm (2017, BERT, BART):  x ← norm(x + f(x))
        pre-norm (GPT-2):              x ← x + f(norm(x))        nothing stands between the first x and the last

    Args:
        channels: size C.
        heads: H, a divisor of C.
        hidden: units F of the feed-forward network.
        norm: `pre` or `post`.
        causal: whether a place reads only itself and what came before.
        crosses: whether the block also reads an encoder's states.
        dropout: probability of dropping a channel of a step, in training.
        attention_dropout: probability of dropping a weight of attention, in training; None: `dropout`.
        epsilon: what the layer norms add to the variance.
        kernel: `fused` or `explicit` attention.
        biases: whether linear layers and norms have a bias.
        activation: makes φ.
    """

    def __init__(
        self,
        *,
        channels: Size,
        heads: Size,
        hidden: Size,
        norm: Norm,
        causal: bool,
        crosses: bool = False,
        dropout: Probability = 0.0,
        attention_dropout: Probability | None = None,
        epsilon: Annotated[float, Gt(0)] = 1e-5,
        kernel: Kernel = "fused",
        biases: bool = True,
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        drop = dropout if attention_dropout is None else attention_dropout
        self.norm, self.causal = norm, causal
        self.attention_norm = nn.LayerNorm(channels, eps=epsilon, bias=biases)
        self.attention = MultiHeadAttention(channels=channels, heads=heads, dropout=drop, kernel=kernel, biases=biases)
        self.cross_norm = nn.LayerNorm(channels, eps=epsilon, bias=biases) if crosses else None
        self.cross = MultiHeadAttention(channels=channels, heads=heads, dropout=drop, kernel=kernel, biases=biases) if crosses else None
        self.feed_forward_norm = nn.LayerNorm(channels, eps=epsilon, bias=biases)
        self.feed_forward = FeedForward(channels=channels, hidden=hidden, biases=biases, activation=activation)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, vectors: Tensor, *, mask: Tensor | None = None, encoded: KeysValues | None = None, encoded_mask: Tensor | None = None
    ) -> Tensor:
        """(B, T, C) and a mask (B, T) of its words, the encoder's keys and values and a mask (B, S) of its words → (B, T, C)."""
        return self.extend(vectors, None, mask=mask, encoded=encoded, encoded_mask=encoded_mask)[0]

    def extend(
        self,
        vectors: Tensor,
        past: KeysValues | None,
        *,
        mask: Tensor | None = None,
        encoded: KeysValues | None = None,
        encoded_mask: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """`forward` of the places (B, T, C) that follow on `past`, and the keys and values of both; `mask` (B, S) is of both too."""
        hidden = self._before(self.attention_norm, vectors)
        found, read = self.attention.itself(hidden, past, causal=self.causal, mask=mask)
        vectors = self._after(self.attention_norm, vectors, found)
        if self.cross is not None and self.cross_norm is not None:
            assert encoded is not None
            hidden = self._before(self.cross_norm, vectors)
            vectors = self._after(self.cross_norm, vectors, self.cross(hidden, encoded, mask=encoded_mask))
        hidden = self._before(self.feed_forward_norm, vectors)
        return self._after(self.feed_forward_norm, vectors, self.feed_forward(hidden)), read

    def attention_weights(self, vectors: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """How much each place reads of each in self-attention: (B, T, C) and a mask (B, T) → (B, H, T, T)."""
        hidden = self._before(self.attention_norm, vectors)
        return self.attention.weighted(hidden, self.attention.keys_values(hidden), causal=self.causal, mask=mask)[1]

    def _before(self, norm: nn.LayerNorm, vectors: Tensor) -> Tensor:
        """What a step reads."""
        return norm(vectors) if self.norm == "pre" else vectors

    def _after(self, norm: nn.LayerNorm, vectors: Tensor, step: Tensor) -> Tensor:
        """What comes out, with what the step found."""
        added = vectors + self.drop(step)
        after: Tensor = norm(added) if self.norm == "post" else added
        return after
