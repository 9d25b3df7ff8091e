import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from prefect import flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.config import names, parameters
from flows.config.build import validate
from flows.config.compose import compose
from flows.config.names import GROUPS
from flows.config.parameters import KEEP, choices, flat, from_overrides, to_overrides


@flat
def train(overrides: list[str], resume: str = "") -> tuple[list[str], str]:
    """Train one experiment.

    Args:
        resume: A run to go on with.
    """
    return overrides, resume


def test_the_form_is_made_of_drop_downs_bounds_and_descriptions() -> None:
    schema = parameter_schema(train).model_dump()
    properties = schema["properties"]
    assert list(properties) == [
        *("experiment", "model", "data", "optimizer", "activation", "initializer", "schedule"),
        *("epochs", "batch_size", "learning_rate", "seed", "device", "overrides", "resume"),
    ]
    assert schema["required"] == []
    assert not schema["definitions"]
    for group in ("model", "data", "optimizer", "activation", "initializer", "schedule"):
        assert properties[group]["enum"] == [KEEP, *names.names(group)]
        assert properties[group]["default"] == KEEP
    assert properties["experiment"]["enum"] == [*names.names("experiment"), "none"]
    assert (properties["epochs"]["type"], properties["epochs"]["minimum"], properties["epochs"]["default"]) == ("integer", 0, 0)
    assert (properties["learning_rate"]["type"], properties["learning_rate"]["maximum"]) == ("number", 100)
    assert properties["overrides"]["items"] == {"type": "string"}
    assert properties["resume"]["description"] == "A run to go on with."
    assert all(entry["description"] and "anyOf" not in entry for entry in properties.values())


def test_a_flow_takes_the_parameters_and_refuses_bad_ones() -> None:
    made = flow(name="train-for-a-test")(train)
    given = made.validate_parameters({"experiment": "mlp_mnist", "epochs": 3})
    assert made.fn(**given) == (["experiment=mlp_mnist", "trainer.epochs=3"], "")
    for bad in ({"experiment": "mlp_mnst"}, {"epochs": -1}, {"epochs": "many"}, {"overrides": "seed=1"}, {"device": "tpu"}):
        with pytest.raises(ParameterTypeError):
            made.validate_parameters(bad)


def test_parameters_become_overrides_that_compose() -> None:
    overrides = to_overrides(
        experiment="mlp_mnist",
        model="vgg",
        optimizer="adam",
        epochs=3,
        batch_size=16,
        learning_rate=1e-05,
        seed=0,
        device="cpu",
        overrides=["trainer.patience=2", "model.head=[8]"],
    )
    assert overrides == [
        *("experiment=mlp_mnist", "model=vgg", "optimizer=adam", "trainer.epochs=3", "trainer.batch_size=16"),
        *("optimizer.learning_rate=1e-05", "seed=0", "trainer.device=cpu", "trainer.patience=2", "model.head=[8]"),
    ]
    config = validate(compose(overrides))
    assert (config["model"]["head"], config["optimizer"]["learning_rate"], config["trainer"]["epochs"]) == ([8], 1e-05, 3)


def test_where_a_data_set_has_to_be_named_there_is_no_leaving_it() -> None:
    assert list(get_args(parameters.DataName)) == names.names("data")


def test_left_alone_they_ask_for_the_readmes_experiment_and_nothing_else() -> None:
    assert to_overrides() == ["experiment=mlp_mnist"]
    assert to_overrides(experiment="none") == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"experiment": "none", "overrides": []}),
        (["model=vgg", "seed=1"], {"experiment": "none", "model": "vgg", "overrides": ["seed=1"]}),
        (["experiment=mlp_mnist", "a", "model=x"], {"experiment": "mlp_mnist", "overrides": ["a", "model=x"]}),
        (["optimizer=adam", "optimizer=adamw"], {"experiment": "none", "optimizer": "adam", "overrides": ["optimizer=adamw"]}),
    ],
)
def test_overrides_become_parameters_that_mean_the_same(overrides: list[str], expected: dict[str, Any]) -> None:
    assert from_overrides(overrides) == expected
    assert sorted(to_overrides(**from_overrides(overrides))) == sorted(overrides)


@pytest.fixture
def other_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for group in GROUPS:
        (tmp_path / group).mkdir()
    monkeypatch.setattr(names, "CONF", tmp_path)
    yield tmp_path
    monkeypatch.undo()
    importlib.reload(parameters)


@pytest.mark.parametrize("experiments", [[], ["only"]])
def test_a_conf_with_no_or_one_experiment_still_makes_a_form(other_conf: Path, experiments: list[str]) -> None:
    for name in experiments:
        (other_conf / "experiment" / f"{name}.yaml").write_text("# x\n")
    assert choices("experiment", conf=other_conf) == (*experiments, "none")
    reloaded = importlib.reload(parameters)
    assert get_args(reloaded.Experiment) == (*experiments, "none")
    assert get_args(reloaded.DataName) == ("none",)
    assert reloaded.Model == Literal["as the experiment says"]
    properties = parameter_schema(reloaded.flat(lambda overrides: overrides)).model_dump()["properties"]
    assert properties["experiment"]["default"] == [*experiments, "none"][0]
    assert properties["model"].get("enum", [properties["model"].get("const")]) == [KEEP]
