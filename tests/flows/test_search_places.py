"""Where stacks keep their checkpoints, and who gets which."""

from pathlib import Path

import pytest
import torch

from flows.lab.settings import Settings
from flows.search.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(Settings(tmp_path / "lab"), "s")


def test_everybody_gets_one_of_its_own_and_what_was_let_go_is_used_again(places: Places) -> None:
    with places.taken() as first:
        with places.taken() as second:
            assert (first.number, second.number) == (0, 1)
        with places.taken() as again:
            assert again.number == 1
    with places.taken() as free:
        assert free.number == 0


def test_a_stack_that_was_left_comes_first(places: Places) -> None:
    with places.taken(), places.taken() as second:
        second.checkpoints.save(5, {"x": torch.zeros(2)}, {})
        assert [places.begun(number) for number in range(3)] == [False, True, False]
    with places.taken() as left:
        assert (left.number, left.begun) == (1, True)
        with places.taken() as other:
            assert other.number == 0
        left.checkpoints.clear()
        assert not left.begun
