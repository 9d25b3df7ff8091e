"""Where a token stands: attention reads nothing in order, so the order has to be told (Vaswani et al. 2017, section 3.5).

    sinusoidal: p(t, 2i) = sin(t / 10000^(2i/C)),   p(t, 2i + 1) = cos(t / 10000^(2i/C))
    learned:    p(t) is a vector like a token's (Gehring et al. 2017; BERT, GPT and BART)

Both are added to the tokens' vectors, at any place: the sinusoids have no end, a table has as many places as it was made with.

Shapes: T time steps, C channels.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from components.errors import DataError

Size = Annotated[int, Ge(1)]


def sinusoids(places: Tensor, channels: int) -> Tensor:
    """Places (T,) → (T, C): sine in the even channels, cosine in the odd ones, of wavelengths from 2π to 10000·2π.

    Raises:
        ValueError: a number of channels that is odd.
    """
    if channels % 2:
        raise ValueError(f"sines and cosines come in pairs: channels must be even, not {channels}")
    rate = 10_000.0 ** (-torch.arange(0, channels, 2, device=places.device, dtype=torch.float64) / channels)
    angle = places.double().unsqueeze(1) * rate  # in float64: in float32 a late place is off by more than its neighbours differ
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Sinusoidal(nn.Module):
    """The sinusoids, which nothing has to be learned for."""

    def __init__(self, *, channels: Size) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        """(B, T, C), the first of which stands at `start` → the same with their positions added."""
        places = torch.arange(start, start + vectors.shape[1], device=vectors.device)
        return vectors + sinusoids(places, self.channels).to(vectors.dtype)


class Learned(nn.Module):
    """A table of vectors, one a place.

    Args:
        places: how many; the longest text.
        channels: size C.
        unused: rows before the first place's, as in BART's tables.
    """

    def __init__(self, *, places: Size, channels: Size, unused: Annotated[int, Ge(0)] = 0) -> None:
        super().__init__()
        self.places, self.unused = places, unused
        self.table = nn.Embedding(unused + places, channels)

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        """(B, T, C), the first of which stands at `start` → the same with their positions added.

        Raises:
            DataError: a place that the table does not have.
        """
        stop = start + vectors.shape[1]
        if stop > self.places:
            raise DataError(f"the model has {self.places} positions, and was given a text of {stop} tokens")
        return vectors + self.table.weight[self.unused + start : self.unused + stop]
