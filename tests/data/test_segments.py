"""Two texts as BERT reads them."""

import torch

from components.data.segments import join
from components.data.tokens import BERTS_SPECIALS, TokenSettings


def test_two_texts_stand_between_their_marks():
    vocabulary = TokenSettings(tokens="word").train(["a b c d"], specials=BERTS_SPECIALS)
    first = torch.tensor([[7, 8, 0], [5, 6, 7]]), torch.tensor([2, 3])
    second = torch.tensor([[9, 0], [8, 9]]), torch.tensor([1, 2])
    joined = join(first, second, vocabulary)
    pad, cls, sep = vocabulary.pad, vocabulary.start, vocabulary.end
    assert joined.inputs.tolist() == [[cls, 7, 8, sep, 9, sep, pad, pad], [cls, 5, 6, 7, sep, 8, 9, sep]]
    assert joined.lengths.tolist() == [6, 8]
    assert joined.segments.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert joined.words.int().tolist() == [[0, 1, 1, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1, 1, 0]]
    ids, segments = vocabulary.pair([5, 6, 7], [8, 9])
    assert (ids, segments) == (joined.inputs[1].tolist(), joined.segments[1].tolist())
