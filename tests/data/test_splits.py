"""Stratified splits: exact sizes, every class in proportion, every example once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.data.splits import stratified


def test_even_classes_divide_exactly() -> None:
    targets = torch.arange(5000) % 10
    rows = stratified(targets, {"validation": 500, "test": 500}, seed=0)
    assert {name: len(of) for name, of in rows.items()} == {"train": 4000, "validation": 500, "test": 500}
    for name, each in (("train", 400), ("validation", 50), ("test", 50)):
        assert torch.bincount(targets[rows[name]]).tolist() == [each] * 10


def test_a_case_by_hand() -> None:
    """6, 3 and 3 of three classes, 4 taken: shares 2, 1, 1."""
    targets = torch.tensor([0] * 6 + [1] * 3 + [2] * 3)
    rows = stratified(targets, {"test": 4}, seed=7)
    assert torch.bincount(targets[rows["test"]]).tolist() == [2, 1, 1]
    assert rows["test"].tolist() == sorted(rows["test"].tolist())


def test_the_same_seed_forever_and_another_seed_otherwise() -> None:
    """The rows are pinned: prepared data of years ago must stay what its fingerprint says."""
    targets = torch.tensor([0, 1] * 10)
    assert stratified(targets, {"test": 4}, seed=0)["test"].tolist() == [4, 7, 15, 18]
    assert stratified(targets, {"test": 4}, seed=1)["test"].tolist() == [4, 7, 8, 11]


def test_tiny_classes_are_in_every_split() -> None:
    targets = torch.tensor([0] * 97 + [1] * 3)
    rows = stratified(targets, {"validation": 10, "test": 10}, seed=0)
    assert [torch.bincount(targets[of], minlength=2)[1].item() for of in rows.values()] == [1, 1, 1]
    assert len(rows["test"]) == 10


@given(counts=st.lists(st.integers(3, 40), min_size=2, max_size=6), share=st.floats(0.01, 0.9), seed=st.integers(0, 2**40))
def test_every_row_once_and_every_class_everywhere(counts: list[int], share: float, seed: int) -> None:
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])[torch.randperm(sum(counts))]
    size = max(1, int(share * len(targets) / 2))
    take = {"validation": size, "test": size}
    rows = stratified(targets, take, seed=seed)
    assert torch.cat(list(rows.values())).sort().values.tolist() == list(range(len(targets)))
    for of in rows.values():
        assert torch.bincount(targets[of], minlength=len(counts)).min() >= 1


@given(counts=st.lists(st.integers(10, 40), min_size=2, max_size=6), shares=st.tuples(st.floats(0.1, 0.3), st.floats(0.1, 0.3)))
def test_sizes_are_exact_and_proportions_within_one(counts: list[int], shares: tuple[float, float]) -> None:
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    take = {name: -int(-share * len(targets)) for name, share in zip(("validation", "test"), shares, strict=True)}
    rows = stratified(targets, take, seed=0)
    for name, size in take.items():
        each = torch.bincount(targets[rows[name]]).tolist()
        assert sum(each) == size
        assert all(abs(got - size * count / len(targets)) <= 1 for got, count in zip(each, counts, strict=True))


@pytest.mark.parametrize(("take", "reason"), [({"test": 4}, "none is left"), ({"validation": 1, "test": 1}, "at least 3")])
def test_what_cannot_be_divided(take: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stratified(torch.tensor([0, 0, 1, 1]), take, seed=0)
