"""BERT (Devlin et al. 2019): a transformer's encoder alone, which reads a text in both directions at once, and a head for what is asked.

    x = norm(word + position + segment)                              learned, all three
    x ← norm(x + attention(x)),   x ← norm(x + feed_forward(x))      N blocks; every place reads every word

    text      [CLS] the film is good [SEP]                           segment 0
    pair      [CLS] who wrote it ? [SEP] she wrote it . [SEP]        segment 0 up to the first [SEP] and with it, then 1

What the head says (`predicts`), and of what:

    sequence      one of K classes, of the text: of [CLS] through the pooler tanh(W x + b), or of the mean of all places
    each          one of K classes, of every place
    pretraining   the word at every masked place, φ(W x + b) normed and compared with each word's own vector: tied; and from [CLS]
                  whether the second segment follows the first (class 0) or is from elsewhere (class 1)
    span          for every place how well an answer begins and how well it ends there
    relation      one of K classes, of two places: the marks before the two entities (Baldini Soares et al. 2019, "entity start")

Base is L=12, C=768, H=12 (110 M weights), large L=24, C=1024, H=16 (340 M). Checkpoints in Hugging Face's layout are read and written by
`components/hugging_face`.

Where we differ: weights are drawn by the chosen initializer (BERT's is random_normal with std 0.02), and the feed-forward network's
activation is chosen, too (BERT's is gelu).

**Feature-based use**: `features` is all that lies below the head. Where it is not to learn, it can be computed once for every text and
given to `forward` in the place of tokens.

Shapes: B batch, T tokens, C channels, H heads, N blocks, K classes, V tokens known, M masked places of a batch.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.positions import Learned
from components.layers.transformer import Block, Kernel
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]
Pool = Literal["first", "mean"]

EPSILON = 1e-12
"""What BERT's layer norms add to the variance."""


class Bert(nn.Module):
    """An encoder and one head.

    Args:
        vocabulary_size: tokens V.
        classes: K, where the head tells classes.
        predicts: what the head says: given by the data.
        pool: what stands for a text: `first`, its [CLS] through the pooler, or the `mean` of its places.
        context: the most tokens that are read at a time.
        segments: how many kinds of segment there are.
        channels: size C of a token's vector.
        heads: H, a divisor of C.
        layers: blocks N.
        expansion: units of a feed-forward network for each channel.
        dropout: probability of dropping a channel of the embedding, of a step or of what the head reads, or a weight of attention, in
            training.
        epsilon: what the layer norms add to the variance.
        kernel: `fused` (torch's attention) or `explicit` (step by step).
        activation: makes the feed-forward networks' activation.

    Raises:
        ValueError: the data ask for something else, or the channels cannot be shared out evenly among the heads.
    """

    def __init__(
        self,
        *,
        vocabulary_size: Size,
        classes: Size = 2,
        predicts: str = "sequence",
        pool: Pool = "first",
        context: Size = 512,
        segments: Size = 2,
        channels: Size = 768,
        heads: Size = 12,
        layers: Size = 12,
        expansion: Size = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        epsilon: Annotated[float, Gt(0)] = EPSILON,
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__()
        self.predicts, self.pool = predicts, pool
        self.embeddings = Embeddings(
            vocabulary_size=vocabulary_size, context=context, segments=segments, channels=channels, dropout=dropout, epsilon=epsilon
        )
        self.blocks = nn.ModuleList(
            Block(
                channels=channels,
                heads=heads,
                hidden=expansion * channels,
                norm="post",
                causal=False,
                dropout=dropout,
                epsilon=epsilon,
                kernel=kernel,
                activation=activation,
            )
            for _ in range(layers)
        )
        self.head: nn.Module
        match predicts:
            case "sequence":
                self.head = TextHead(channels=channels, classes=classes, pooler=pool == "first", dropout=dropout)
            case "each":
                self.head = PlaceHead(features=channels, classes=classes, dropout=dropout)
            case "pretraining":
                self.head = PretrainingHead(vocabulary_size=vocabulary_size, channels=channels, epsilon=epsilon, activation=activation)
            case "span":
                self.head = PlaceHead(features=channels, classes=2)
            case "relation":
                self.head = PlaceHead(features=2 * channels, classes=classes, dropout=dropout)
            case _:
                raise ValueError(f"these data ask for {predicts!r}, and bert reads in both directions: choose another model")

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What the head says of tokens.

        Args:
            inputs: (B, T) int64 tokens; or what `features` made of them, in the model's floating type.
            lengths: (B,) tokens of each text; None: T.
            segments: (B, T) int64; None: all 0.
            places: (B, 2) int64, the two entities' marks, for `relation`; (B, T) bool, the masked places, for `pretraining`: None
                tells every place's word.

        Returns:
            `sequence` and `relation` (B, K), `each` (B, T, K), `span` (B, T, 2): logits;
            `pretraining` (M, V), one row a masked place in the batch's order (None: (B, T, V)), and (B, 2).

        Raises:
            DataError: more tokens than the context.
        """
        return self._say(inputs if inputs.is_floating_point() else self.features(inputs, lengths, segments, places), places)

    def features(
        self, inputs: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """What the head reads of tokens: `sequence` (B, C), `relation` (B, 2C), otherwise (B, T, C); the arguments are `forward`'s."""
        return self._summary(self.states(inputs, lengths, segments)[-1], lengths, places)

    def states(self, inputs: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None) -> list[Tensor]:
        """The embedding's vectors and what each block makes of them: N + 1 times (B, T, C)."""
        return self.encode(self.vectors(inputs), lengths, segments)

    def vectors(self, inputs: Tensor) -> Tensor:
        """Each word's own vector (B, T, C), which knows nothing of its neighbours."""
        vectors: Tensor = self.embeddings.words(inputs)
        return vectors

    def read(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The rest of `forward`, from the words' own vectors on; so gradients can be taken at the vectors."""
        return self._say(self._summary(self.encode(vectors, lengths)[-1], lengths, None), None)

    def encode(self, vectors: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None) -> list[Tensor]:
        """`states`, from the words' own vectors on."""
        mask = words_of(lengths, vectors)
        states: list[Tensor] = [self.embeddings(vectors, segments)]
        for block in self.blocks:
            states.append(block(states[-1], mask=mask))
        return states

    def attentions(self, inputs: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None) -> list[Tensor]:
        """How much every place reads of every other: for each block (B, H, T, T), rows that ask, columns that are read."""
        found = []
        for block, states in zip(self.blocks, self.states(inputs, lengths, segments), strict=False):  # nobody asks of the last states
            assert isinstance(block, Block)
            found.append(block.attention_weights(states, mask=words_of(lengths, states)))
        return found

    def _say(self, features: Tensor, places: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """What the head makes of what it reads."""
        said: Tensor | tuple[Tensor, Tensor]
        said = self.head(features, self.embeddings.words.weight, places) if self.predicts == "pretraining" else self.head(features)
        return said

    def _summary(self, states: Tensor, lengths: Tensor | None, places: Tensor | None) -> Tensor:
        if self.predicts == "sequence":
            return states[:, 0] if self.pool == "first" else mean(states, lengths)
        if self.predicts == "relation":
            assert places is not None
            return states[torch.arange(len(states), device=states.device).unsqueeze(1), places].flatten(1)
        return states


class Embeddings(nn.Module):
    """A token's own vector, its place's and its segment's, added up and normed.

    Args:
        vocabulary_size, context, segments, channels, dropout, epsilon: see `Bert`.
    """

    def __init__(
        self, *, vocabulary_size: Size, context: Size, segments: Size, channels: Size, dropout: float, epsilon: float = EPSILON
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, channels)
        self.positions = Learned(places=context, channels=channels)
        self.segments = nn.Embedding(segments, channels)
        self.norm = nn.LayerNorm(channels, eps=epsilon)
        self.drop = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, segments: Tensor | None = None) -> Tensor:
        """The words' own vectors (B, T, C), and segments (B, T) where they are not all 0 → (B, T, C)."""
        kind = self.segments.weight[0] if segments is None else self.segments(segments)
        normed: Tensor = self.norm(self.positions(vectors) + kind)
        dropped: Tensor = self.drop(normed)
        return dropped


class TextHead(nn.Module):
    """Logits of a text's classes.

    Args:
        channels: size C of what stands for the text.
        classes: K.
        pooler: whether tanh(W x + b) comes first, as it does for [CLS].
        dropout: probability of dropping a channel, in training.
    """

    def __init__(self, *, channels: Size, classes: Size, pooler: bool, dropout: float) -> None:
        super().__init__()
        self.pooler = nn.Linear(channels, channels) if pooler else None
        self.drop = nn.Dropout(dropout)
        self.classes = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) → (B, K)."""
        if self.pooler is not None:
            features = torch.tanh(self.pooler(features))
        logits: Tensor = self.classes(self.drop(features))
        return logits


class PlaceHead(nn.Module):
    """Logits of the classes of every place, or of two places together.

    Args:
        features: size of what is read.
        classes: K.
        dropout: probability of dropping a channel, in training.
    """

    def __init__(self, *, features: Size, classes: Size, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.classes = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) → (…, K)."""
        logits: Tensor = self.classes(self.drop(features))
        return logits


class PretrainingHead(nn.Module):
    """The masked words, and whether the second segment follows the first.

    Args:
        vocabulary_size: words V.
        channels: size C of a place.
        epsilon: what the layer norm adds to the variance.
        activation: makes φ.
    """

    def __init__(self, *, vocabulary_size: Size, channels: Size, epsilon: float = EPSILON, activation: ActivationFactory) -> None:
        super().__init__()
        self.pooler = nn.Linear(channels, channels)
        self.follows = nn.Linear(channels, 2)
        self.transform = nn.Linear(channels, channels)
        self.activation = activation()
        self.norm = nn.LayerNorm(channels, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(self, states: Tensor, words: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C), the words' own vectors (V, C), the masked places (B, T) bool → (M, V), without places (B, T, V); and (B, 2)."""
        transformed = self.norm(self.activation(self.transform(states if places is None else states[places])))
        return F.linear(transformed, words, self.bias), self.follows(torch.tanh(self.pooler(states[:, 0])))


def words_of(lengths: Tensor | None, states: Tensor) -> Tensor | None:
    """Where there is a word: lengths (B,) and (B, T, C) → (B, T) bool; None where all are words."""
    if lengths is None:
        return None
    return torch.arange(states.shape[1], device=states.device) < lengths.to(states.device).unsqueeze(1)


def mean(states: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, C) → (B, C): the mean of each text's own places."""
    words = words_of(lengths, states)
    return states.mean(1) if words is None else (states * words.unsqueeze(-1)).sum(1) / words.sum(1, keepdim=True)
