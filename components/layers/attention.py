"""Encoder–decoder attention: score, softmax, weighted sum, concatenation (Bahdanau et al. 2015; Luong et al. 2015).

The idea: a decoder that only gets the encoder's last state has to find a whole sentence in one vector of fixed size. With attention it
looks at every state of the encoder at every step, and learns where to look:

    eₛ = score(h, sₛ)        how well decoder state h and encoder state sₛ go together
    α = softmax(e)           weights, positive, with the sum 1; padding gets 0
    c = Σₛ αₛ sₛ             the context: a mean of the encoder's states
    (c; h)                   context and state concatenated: what the next word is told from

Three scores: `dot` h·s (no weights, both of one size); `multiplicative` h·Ws; `additive` v·φ(Wh + Us), with φ the chosen activation
(Bahdanau's is tanh).

Shapes: B batch, T decoder steps, S encoder steps, Q a query's size, C a state's size, A the additive score's hidden size.
"""

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from components.protocols import ActivationFactory

Score = Literal["dot", "additive", "multiplicative"]


def attend(scores: Tensor, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """From scores to the context.

    Args:
        scores: (B, T, S).
        states: (B, S, C).
        mask: (B, S) bool, True where there is a word; each row has one at least. None: everywhere.

    Returns:
        context (B, T, C), weights (B, T, S).
    """
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
    weights = F.softmax(scores, dim=-1)
    return weights @ states, weights


class Dot(nn.Module):
    """h·s."""

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        """(B, T, C), (B, S, C) → (B, T, S)."""
        return queries @ states.mT


class Multiplicative(nn.Module):
    """h·Ws."""

    def __init__(self, *, query_size: int, state_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(state_size, query_size, bias=False)

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        """(B, T, Q), (B, S, C) → (B, T, S)."""
        scores: Tensor = queries @ self.project(states).mT
        return scores


class Additive(nn.Module):
    """v·φ(Wh + Us + b)."""

    def __init__(self, *, query_size: int, state_size: int, hidden: int, activation: ActivationFactory) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, hidden)
        self.state = nn.Linear(state_size, hidden, bias=False)
        self.activation = activation()
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        """(B, T, Q), (B, S, C) → (B, T, S)."""
        pairs = self.query(queries).unsqueeze(2) + self.state(states).unsqueeze(1)  # (B, T, S, A)
        scores: Tensor = self.score(self.activation(pairs)).squeeze(-1)
        return scores


class Attention(nn.Module):
    """Attention of a decoder over an encoder's states.

    Args:
        score: how a state is compared with a query.
        query_size: size Q of a decoder state.
        state_size: size C of an encoder state.
        activation: makes the additive score's activation.

    Raises:
        ValueError: `dot` of vectors of different size.
    """

    def __init__(
        self, *, score: Score, query_size: Annotated[int, Ge(1)], state_size: Annotated[int, Ge(1)], activation: ActivationFactory
    ) -> None:
        super().__init__()
        if score == "dot" and query_size != state_size:
            raise ValueError(f"the dot score needs vectors of one size, not {query_size} and {state_size}; multiplicative takes any")
        match score:
            case "dot":
                self.score: nn.Module = Dot()
            case "multiplicative":
                self.score = Multiplicative(query_size=query_size, state_size=state_size)
            case "additive":
                self.score = Additive(query_size=query_size, state_size=state_size, hidden=query_size, activation=activation)
            case _:
                raise ValueError(f"score is dot, additive or multiplicative, not {score!r}")

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decoder states (B, T, Q), encoder states (B, S, C), mask (B, S) → contexts (B, T, C), weights (B, T, S)."""
        return attend(self.score(queries, states), states, mask)
