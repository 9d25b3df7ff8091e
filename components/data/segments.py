"""Two texts one behind the other, as BERT reads them (Devlin et al. 2019): `[CLS] first [SEP] second [SEP]`, and which is which.

Shapes: B pairs, T the longest pair with its three marks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.data.tokens import Vocabulary

MARKS = 3
"""How many tokens a pair has besides its texts'."""


class Joined(NamedTuple):
    """Pairs as a model reads them."""

    inputs: Tensor
    """(B, T) int64."""
    lengths: Tensor
    """(B,) int64."""
    segments: Tensor
    """(B, T) int64: 0 up to the first [SEP] and with it, and on padding; behind it 1."""
    words: Tensor
    """(B, T) bool: the texts' own places, neither marks nor padding."""


def segments_of(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """(B, T) tokens of joined pairs → (B, T) segments: 1 behind the first [SEP] up to the second."""
    ends = (tokens == vocabulary.end).long()
    return ((ends.cumsum(1) - ends) == 1).long()


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], vocabulary: Vocabulary) -> Joined:
    """Join two texts each.

    Args:
        first, second: (B, F) and (B, S) int64 tokens with anything behind their ends, and their lengths (B,).
        vocabulary: whose marks.
    """
    (one, ones), (two, twos) = first, second
    ones, twos = ones.unsqueeze(1), twos.unsqueeze(1)
    lengths = ones + twos + MARKS
    place = torch.arange(int(lengths.max())).unsqueeze(0)
    in_first, in_second = (place >= 1) & (place <= ones), (place >= ones + 2) & (place < lengths - 1)
    shape = lengths.shape[0], place.shape[1]
    from_first = one.gather(1, (place - 1).clamp(0, one.shape[1] - 1).expand(shape))
    from_second = two.gather(1, (place - ones - 2).clamp(0, two.shape[1] - 1))
    inputs = torch.where(in_first, from_first, torch.where(in_second, from_second, vocabulary.pad))
    inputs = torch.where(place == 0, vocabulary.start, inputs)
    inputs = torch.where((place == ones + 1) | (place == lengths - 1), vocabulary.end, inputs)
    segments = ((place > ones + 1) & (place < lengths)).long()
    return Joined(inputs, lengths.squeeze(1), segments, in_first | in_second)
