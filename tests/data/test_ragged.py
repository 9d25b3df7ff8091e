"""Rows of different length: padding, lengths, texts."""

import torch

from components.data.ragged import Ragged


def test_rows_are_padded_to_the_longest_asked_for():
    rows = Ragged.of([[1, 2, 3], [], [4], [5, 6]])
    assert len(rows) == 4
    assert rows.lengths.tolist() == [3, 0, 1, 2]
    padded, lengths = rows.padded(torch.tensor([2, 3, 1]))
    assert padded.tolist() == [[4, 0], [5, 6], [0, 0]]
    assert (padded.dtype, lengths.tolist()) == (torch.int64, [1, 2, 0])
    assert rows.padded(torch.tensor([0]), pad=9)[0].tolist() == [[1, 2, 3]]


def test_only_empty_rows():
    padded, lengths = Ragged.of([[], [1]]).padded(torch.tensor([0]))
    assert (padded.tolist(), lengths.tolist()) == ([[0]], [0])


def test_texts_in_any_script():
    texts = ["naïve", "", "한국어", "שלום 🙂"]
    stored = Ragged.of_texts(texts)
    again = Ragged.load(stored.tensors("x"), "x")
    assert [again.text(place) for place in range(4)] == texts
