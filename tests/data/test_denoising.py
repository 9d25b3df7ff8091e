"""Damage that can be counted: sentences moved, tokens gone, spans behind one mark; the same in evaluation, another in each epoch."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from components.data.denoising import DenoisedText, deleted, infilled, permuted
from components.data.prepared import prepare
from components.data.tokens import END, PAD, START
from components.errors import DataError, RequestError

MASK = 99


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nothing(source: object) -> Path:
    raise AssertionError("nothing is fetched")


def test_sentences_in_every_order_and_whole():
    found = {tuple(permuted([[1, 2], [3], [4, 5, 6]], chance(seed))) for seed in range(60)}
    assert len(found) == 6
    assert (3, 4, 5, 6, 1, 2) in found


def test_deletion_leaves_the_share_that_it_should_and_never_nothing():
    left = deleted(range(20_000), 0.2, chance())
    assert len(left) / 20_000 == pytest.approx(0.8, abs=0.01)
    assert left == sorted(left)
    assert deleted([7, 8], 0.999999, chance()) == [7]


def test_infilling_takes_the_share_and_no_two_spans_touch():
    tokens = list(range(1000))
    for seed in range(20):
        found = infilled(tokens, 0.3, 3.0, MASK + 1000, chance(seed))
        kept = [token for token in found if token < 1000]
        assert len(kept) == 700
        assert kept == sorted(kept)
        marks = [place for place, token in enumerate(found) if token >= 1000]
        assert all(after - before > 1 for before, after in pairwise(marks))
    spans = []
    for seed in range(200):
        found = infilled(tokens, 0.3, 3.0, -1, chance(seed))
        bounds = [-1, *found, 1000]
        spans += [bounds[place + 1] - bounds[place - 1] - 1 for place in range(1, len(bounds) - 1) if bounds[place] == -1 and place > 1]
    assert sum(spans) / len(spans) == pytest.approx(3.0, abs=0.1)
    assert spans.count(0) / len(spans) == pytest.approx(0.0498, abs=0.01)  # e^-3: a mark where nothing is missing


def test_infilling_of_short_texts():
    assert infilled([5], 0.3, 3.0, MASK, chance()) == [5]  # 0.3 of a token is none
    assert infilled([5, 6, 7], 0.0, 3.0, MASK, chance()) == [5, 6, 7]
    for seed in range(30):
        found = infilled([5, 6], 0.9, 0.1, MASK, chance(seed))  # 1.8 → both, in spans as short as these
        assert set(found) <= {5, 6, MASK}
        assert MASK in found


def test_a_batch_is_damaged_alike_in_evaluation_and_anew_in_training(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(f"the cat {number} sat. a dog ran to the house! where is it?" for number in range(40)))
    data = DenoisedText(path=str(path), tokens="word", validation=0.1, test=0.1)
    found = prepare(data, tmp_path / "data", nothing)
    assert {name: count["examples"] for name, count in found.card["counts"].items()} == {"train": 32, "validation": 4, "test": 4}
    split, index = found.splits["train"], torch.tensor([3, 0])
    one, again, trained, other = (split.batch(index, generator) for generator in (None, None, chance(1), chance(2)))
    assert torch.equal(one["inputs"], again["inputs"])
    assert trained["inputs"].shape != other["inputs"].shape or not torch.equal(trained["inputs"], other["inputs"])
    for batch in (one, trained, other):
        assert batch["references"] == [f"the cat {number} sat. a dog ran to the house! where is it?" for number in (3, 0)]
        assert torch.equal(batch["targets"], one["targets"])
        assert batch["decoder_inputs"][:, 0].tolist() == [START, START]
        assert (batch["targets"] == END).sum(1).tolist() == [1, 1]
        assert torch.equal(batch["decoder_inputs"][:, 1:], batch["targets"][:, :-1])
        marks = (batch["inputs"] == 4).sum(1)  # [MASK] is the fifth mark
        assert (marks > 0).all()
        assert (batch["lengths"] == (batch["inputs"] != PAD).sum(1)).all()
    whole = set(one["targets"][0].tolist()) - {END}
    assert set(one["inputs"][0].tolist()) - {4} <= whole
    ends = split.ends.row(0).tolist()
    assert ends == [5, 12, 16]  # three sentences of 5, 7 and 4 tokens


def test_what_cannot_be_used_is_one_line(tmp_path: Path):
    with pytest.raises(RequestError, match="there is no file"):
        DenoisedText(path=str(tmp_path / "none.txt")).recipe()
    path = tmp_path / "short.txt"
    path.write_text("one paragraph\n\nanother")
    with pytest.raises(DataError, match=r"has 2 paragraphs \(between empty lines\): too few to train, validate and test on"):
        prepare(DenoisedText(path=str(path)), tmp_path / "data", nothing)
    with pytest.raises(ValueError, match="leave nothing to train on"):
        DenoisedText(path="x", validation=0.6, test=0.5)
