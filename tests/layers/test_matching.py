"""Matching, sampling and mining by hand, and against torchvision's."""

import pytest
import torch
from torchvision.models.detection import _utils as theirs

from components.layers.matching import BACKGROUND, IGNORED, balanced_sample, hard_negatives, match

OVERLAP = torch.tensor([[0.8, 0.45, 0.2, 0.1], [0.6, 0.5, 0.25, 0.0]])
"""The first object prefers anchor 0; so does the second, which has no better one."""


def test_thresholds_by_hand():
    assert match(OVERLAP, positive=0.5, negative=0.3).tolist() == [0, 1, BACKGROUND, BACKGROUND]
    assert match(OVERLAP, positive=0.7, negative=0.3).tolist() == [0, IGNORED, BACKGROUND, BACKGROUND]
    assert match(torch.zeros(0, 3), positive=0.5, negative=0.5).tolist() == [BACKGROUND] * 3


def test_the_best_anchor_of_an_object():
    low = torch.tensor([[0.3, 0.1, 0.3], [0.0, 0.2, 0.4]])
    # The second object's best anchor is 2; the first one's are 0 and 2 alike.
    assert match(low, positive=0.5, negative=0.5, best="claimed").tolist() == [0, BACKGROUND, 1]
    assert match(low, positive=0.5, negative=0.5, best="kept").tolist() == [0, BACKGROUND, 1]
    # Claimed takes an anchor from the object that it overlaps more; kept leaves it there.
    taken = torch.tensor([[0.6, 0.0], [0.4, 0.0]])
    assert match(taken, positive=0.5, negative=0.5, best="claimed").tolist() == [1, BACKGROUND]
    assert match(taken, positive=0.5, negative=0.5, best="kept").tolist() == [0, BACKGROUND]


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_torchvisions(seed):
    overlap = torch.rand(4, 50, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(match(overlap, positive=0.6, negative=0.6, best="claimed"), theirs.SSDMatcher(0.6)(overlap))
    reference = theirs.Matcher(0.9, 0.7, allow_low_quality_matches=True)(overlap)
    assert torch.equal(match(overlap, positive=0.9, negative=0.7, best="kept"), reference)


def test_samples_are_torchvisions():
    matched = torch.tensor([0, BACKGROUND, 1, IGNORED, BACKGROUND, 0, BACKGROUND, BACKGROUND, 2])
    torch.manual_seed(3)
    chosen = balanced_sample(matched, count=6, positive_share=0.5)
    torch.manual_seed(3)
    labels = torch.where(matched == IGNORED, -1, (matched >= 0).long())
    positive, negative = theirs.BalancedPositiveNegativeSampler(6, 0.5)([labels])
    assert sorted(chosen.tolist()) == (positive[0] | negative[0]).nonzero().flatten().tolist()
    assert (matched[chosen[:3]] >= 0).all()
    assert (matched[chosen[3:]] == BACKGROUND).all()


def test_background_fills_up_where_objects_are_few():
    matched = torch.tensor([BACKGROUND] * 10 + [0])
    chosen = balanced_sample(matched, count=6, positive_share=0.5)
    assert chosen[0] == 10
    assert len(set(chosen.tolist())) == 6
    assert len(balanced_sample(matched, count=100, positive_share=0.5)) == 11


def test_hard_negatives_by_hand():
    loss = torch.tensor([[9.0, 1, 2, 3, 4], [5, 1, 7, 3, 4], [1, 2, 3, 4, 5]])
    positive = torch.tensor([[True, False, False, False, False], [True, False, True, False, False], [False] * 5])
    chosen = hard_negatives(loss, positive, ratio=1.5)
    assert chosen.tolist() == [[False] * 4 + [True], [False, True, False, True, True], [False] * 5]
