import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from components.metrics.calibration import expected_calibration_error, reliability


def test_bins_and_error_by_hand():
    # Two bins: (0, 0.5] holds 0.25 and 0.5 (the edge belongs to the bin below it), (0.5, 1] holds 0.75, 1 and 1.
    confidence = torch.tensor([0.5, 1.0, 0.25, 0.75, 1.0])
    correct = torch.tensor([True, True, False, False, True])
    bins = reliability(confidence, correct, bins=2)
    assert bins.counts.tolist() == [2, 3]
    assert bins.confidence.tolist() == pytest.approx([0.375, 2.75 / 3])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 2 / 3])
    assert expected_calibration_error(bins) == pytest.approx(2 / 5 * 0.125 + 3 / 5 * 0.25)


def test_empty_bins_are_nan_and_cost_nothing():
    bins = reliability(torch.tensor([0.95, 0.95]), torch.tensor([True, False]), bins=10)
    assert bins.counts.tolist() == [0] * 9 + [2]
    assert math.isnan(bins.accuracy[0]) and math.isnan(bins.confidence[0])
    assert expected_calibration_error(bins) == pytest.approx(0.45)


def test_sure_and_right_is_perfect_sure_and_wrong_is_worst():
    sure = torch.ones(4)
    assert expected_calibration_error(reliability(sure, torch.ones(4, dtype=torch.bool))) == 0.0
    assert expected_calibration_error(reliability(sure, torch.zeros(4, dtype=torch.bool))) == 1.0


def test_zero_confidence_falls_into_the_first_bin():
    assert reliability(torch.zeros(1), torch.tensor([False]), bins=3).counts.tolist() == [1, 0, 0]


def test_agrees_with_scikit_learns_calibration_curve():
    generator = np.random.default_rng(0)
    confidence = np.concatenate([generator.random(500), np.arange(16) / 15])
    correct = generator.random(516) < confidence**2
    bins = reliability(torch.from_numpy(confidence), torch.from_numpy(correct))
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15, strategy="uniform")
    filled = bins.counts > 0
    assert bins.accuracy[filled].tolist() == pytest.approx(accuracy.tolist())
    assert bins.confidence[filled].tolist() == pytest.approx(mean.tolist())


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="not a probability"):
        reliability(torch.tensor([0.5, value]), torch.tensor([True, True]))


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        reliability(torch.empty(0), torch.empty(0, dtype=torch.bool))
