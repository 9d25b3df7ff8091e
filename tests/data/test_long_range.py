"""The two made-up problems: what is asked can be computed from what is shown, and nothing else is."""

from pathlib import Path

import pytest
import torch

from components.data.long_range import BLANK, RECALL, Adding, Copying
from components.data.prepared import prepare
from components.data.text_stream import IGNORED
from components.errors import DataError

SIZES = {"train": 400, "validation": 5, "test": 6}


def test_adding(tmp_path: Path):
    found = prepare(Adding(gap=10, **SIZES), tmp_path, lambda _: tmp_path)
    batch = found.splits["train"].batch(torch.arange(400))
    numbers, marks = batch["inputs"].unbind(-1)
    assert batch["inputs"].shape == (400, 10, 2)
    assert torch.equal(marks[:, :5].sum(1), torch.ones(400))
    assert torch.equal(marks[:, 5:].sum(1), torch.ones(400))
    assert torch.allclose(batch["targets"], (numbers * marks).sum(1, keepdim=True))
    assert batch["targets"].sub(1).square().mean().item() == pytest.approx(1 / 6, abs=0.02)
    assert set(marks.argmax(1).tolist()) == set(range(5))
    assert found.facts == {"input_shape": [10, 2], "classes": 1, "predicts": "sequence"}


def test_copying(tmp_path: Path):
    found = prepare(Copying(gap=7, symbols=3, **SIZES), tmp_path, lambda _: tmp_path)
    batch = found.splits["test"].batch(torch.tensor([2]))
    inputs, targets = batch["inputs"][0].tolist(), batch["targets"][0].tolist()
    assert len(inputs) == len(targets) == 13
    assert all(symbol > RECALL for symbol in inputs[:3])
    assert inputs[3:] == [BLANK] * 6 + [RECALL] + [BLANK] * 3
    assert targets == [IGNORED] * 10 + inputs[:3]


def test_it_is_a_function_of_the_seed(tmp_path: Path):
    one, same, other = (
        prepare(Adding(gap=4, split_seed=seed, **SIZES), tmp_path / str(place), lambda _: tmp_path).splits["test"].batch(torch.arange(6))
        for place, seed in enumerate((0, 0, 1))
    )
    assert torch.equal(one["inputs"], same["inputs"])
    assert not torch.equal(one["inputs"], other["inputs"])


def test_a_person_can_give_nothing():
    with pytest.raises(DataError, match="adding is a made-up problem"):
        Adding().read("1 2", {})
