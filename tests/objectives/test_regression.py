"""Regression by hand."""

import pytest
import torch

from components.errors import DataError
from components.objectives.regression import Regression

BATCH = {"inputs": torch.tensor([[1.0], [2.0], [4.0]]), "targets": torch.tensor([[1.0], [3.0], [2.0]]), "index": torch.arange(3)}


def test_by_hand():
    objective = Regression()
    outcomes = objective.outcomes(lambda inputs: inputs, BATCH)
    assert outcomes["squared_error"].tolist() == [0, 1, 4]
    assert objective.metrics(outcomes) == pytest.approx({"squared_error": 5 / 3, "absolute_error": 1, "baseline_squared_error": 2 / 3})
    assert objective.losses(lambda inputs: inputs, BATCH)["loss"].item() == pytest.approx(5 / 3)
    assert objective.answer(lambda inputs: inputs, BATCH) == {"values": [1.0]}
    assert objective.monitor == ("squared_error", "min")
    with pytest.raises(DataError, match="no examples"):
        objective.metrics({})
    assert objective.explain(torch.nn.Linear(1, 1), None) == {}  # type: ignore[arg-type]
