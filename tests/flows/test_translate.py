"""The journal's words in MLflow's: names, parameters and endings by value."""

from typing import Any

import pytest
from run_folders import CONFIG

from flows.records import translate


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train/loss", "train/loss"),
        ("gradients/layers.0.weight", "gradients/layers.0.weight"),
        ("a//b", "a/b"),
        ("../../etc", "etc"),
        ("/abs", "abs"),
        ("F1 (macro)", "F1 _macro_"),
        ("정확도", "___"),
        ("", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_become_ones_that_mlflow_takes(given: str, expected: str) -> None:
    assert translate.name(given) == expected


def test_a_configuration_becomes_flat_parameters() -> None:
    config = {"a": {"_target_": "x.Y", "_partial_": True, "deep": {"n": 1, "on": True}}, "none": None, "list": [1, "b"], "empty": {}}
    assert translate.parameters(config) == {
        "a._target_": "x.Y",
        "a.deep.n": "1",
        "a.deep.on": "true",
        "none": "null",
        "list": '[1, "b"]',
        "empty": "{}",
    }


def test_a_registered_model_is_named_by_data_and_objective() -> None:
    assert translate.problem(CONFIG, "digits", "0123456789abcdef") == "digits-classification"
    for data in ({"path": "mine"}, {"of": {"path": "mine"}, "search": {}}):
        name = translate.problem({**CONFIG, "data": data}, "voc", "0123456789abcdef")
        assert name == "voc-01234567-classification", "models of different data of people's own do not compete"
    assert translate.architecture(CONFIG) == "mlp"


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"t": 1, "kind": "event", "event": name, "facts": facts}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([event("started"), event("result"), event("drawn")], ("FINISHED", None)),
        ([event("started"), event("failed", reason="no data")], ("FAILED", "no data")),
        ([event("started"), event("interrupted", reason="asked")], ("KILLED", "asked")),
        (
            [event("interrupted", reason="asked"), event("started")],
            ("FAILED", "the training process ended without a word; it can be resumed"),
        ),
        ([], ("FAILED", "the training process ended without a word; it can be resumed")),
        ([event("started"), event("result"), {"t": 1, "kind": "figure", "name": "curves", "step": 1}], ("FINISHED", None)),
    ],
)
def test_how_a_run_ended_is_in_its_last_words(said: list[dict[str, Any]], expected: tuple[str, str | None]) -> None:
    assert translate.ending(said) == expected
