"""The GRU (Cho et al. 2014): one state, two gates; simpler than the LSTM, with a quarter fewer weights at the same size.

    rₜ, zₜ = σ(W xₜ + U hₜ₋₁ + b)               reset, update gate
    nₜ = φ(W xₜ + b + rₜ ⊙ (U hₜ₋₁ + b'))
    hₜ = (1 − zₜ) ⊙ nₜ + zₜ ⊙ hₜ₋₁

Shapes: B batch, T time steps, E embedding, H hidden units, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Lt

from components.layers.recurrent import Kernel
from components.layers.sequence_model import Pool, Predicts, SequenceModel
from components.protocols import ActivationFactory

Size = Annotated[int, Ge(1)]


class GRU(SequenceModel):
    """A GRU that classifies sequences, tells the next token, or says something at every place.

    Args:
        classes: number of logits K.
        vocabulary_size: number of tokens; None where the inputs are numbers.
        input_shape: shape of one example of numbers, (T, D); used where there is no vocabulary.
        predicts: `sequence`, `each` or `next`: given by the data.
        embedding: size E of a token's vector.
        hidden: units H of each layer.
        layers: recurrent layers on top of each other.
        dropout: probability of dropping a unit of the embedding, between layers and before the head, in training.
        pool: how a sequence becomes one vector: its last state, or mean or maximum over all its places.
        kernel: `fused` (torch's, with tanh inside) or `explicit` (gate by gate, with any activation).
        activation: makes φ.

    Raises:
        ValueError: the data ask for something else, or the fused kernel has not this activation.
    """

    def __init__(
        self,
        *,
        classes: Size,
        vocabulary_size: Size | None = None,
        input_shape: Sequence[Size] | None = None,
        predicts: Predicts = "sequence",
        embedding: Size = 128,
        hidden: Size = 128,
        layers: Size = 1,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        pool: Pool = "last",
        kernel: Kernel = "fused",
        activation: ActivationFactory,
    ) -> None:
        super().__init__(
            cell="gru",
            bidirectional=False,
            classes=classes,
            vocabulary_size=vocabulary_size,
            input_shape=input_shape,
            predicts=predicts,
            embedding=embedding,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            pool=pool,
            kernel=kernel,
            activation=activation,
        )
