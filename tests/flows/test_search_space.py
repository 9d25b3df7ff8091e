"""Spaces: what may vary, when, and how each value is tried out on the experiment before the first trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import ConfigError
from flows.config.build import validate
from flows.config.compose import compose
from flows.search import plan
from flows.search.results import Range
from flows.search.space import Space, override_value, overrides, read

Read = Callable[..., Space]

TUNING = {
    "optimizer": ["gradient_descent", "momentum", "adam"],
    "optimizer.learning_rate": [
        {"low": 0.01, "high": 1.0, "log": True, "when": {"optimizer": ["gradient_descent", "momentum"]}},
        {"low": 0.0001, "high": 0.01, "log": True, "when": {"optimizer": "adam"}},
    ],
    "optimizer.momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "momentum"}},
}


@pytest.fixture
def space(tmp_path: Path) -> Read:
    def make(space: dict[str, Any], *base: str, **keys: Any) -> Space:
        folder = tmp_path / "conf" / "search"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.yaml").write_text("# Mine\n" + yaml.safe_dump({"space": space, **keys}, sort_keys=False))
        found, source = plan.read(["search=mine"], conf=tmp_path / "conf")
        return read(found, source, base or ["experiment=mlp_digits"])

    return make


def test_all_means_every_choice_of_the_group(space: Read) -> None:
    found = space({"activation": "all"}, sampler="grid")
    assert found.factors == {"activation": ("elu", "gelu", "leaky_relu", "relu", "sigmoid", "tanh")}
    assert found.grid() == [{"activation": name} for name in found.factors["activation"]]


def test_a_grid_has_every_combination_that_its_conditions_allow(space: Read) -> None:
    found = space(
        {"optimizer": ["adam", "momentum"], "optimizer.momentum": {"choices": [0.5, 0.9], "when": {"optimizer": "momentum"}}},
        sampler="grid",
    )
    assert found.grid() == [
        {"optimizer": "adam"},
        {"optimizer": "momentum", "optimizer.momentum": 0.5},
        {"optimizer": "momentum", "optimizer.momentum": 0.9},
    ]


def test_what_is_excluded_is_no_part_of_the_grid(space: Read) -> None:
    found = space(
        {"activation": ["relu", "tanh"], "initializer": ["xavier", "he_normal"]},
        sampler="grid",
        exclude=[{"activation": "tanh", "initializer": ["he_normal"]}],
    )
    assert [tuple(each.values()) for each in found.grid()] == [("relu", "xavier"), ("relu", "he_normal"), ("tanh", "xavier")]
    assert found.excluded({"activation": "tanh", "initializer": "he_normal"})
    assert not found.excluded({"activation": "tanh"})


def test_conditions_decide_which_range_counts(space: Read) -> None:
    found = space(TUNING)
    assert found.keys == ("optimizer", "optimizer.learning_rate", "optimizer.momentum")
    assert found.ranges == {"optimizer.learning_rate": Range(0.0001, 1.0, log=True), "optimizer.momentum": Range(0.5, 0.99)}

    def low(optimizer: str) -> dict[str, Any]:
        return found.choose(lambda parameter: optimizer if parameter.key == "optimizer" else parameter.range and parameter.range.low)

    assert low("adam") == {"optimizer": "adam", "optimizer.learning_rate": 0.0001}
    assert low("momentum") == {"optimizer": "momentum", "optimizer.learning_rate": 0.01, "optimizer.momentum": 0.5}


def test_a_key_may_stand_before_what_its_condition_asks_for(space: Read) -> None:
    found = space({"optimizer.momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "momentum"}}, "optimizer": ["adam", "momentum"]})
    assert found.keys == ("optimizer", "optimizer.momentum")


def test_whole_bounds_mean_whole_numbers(space: Read) -> None:
    found = space({"trainer.batch_size": {"low": 16, "high": 256, "log": True}})
    assert found.ranges["trainer.batch_size"] == Range(16, 256, log=True, whole=True)


@pytest.mark.parametrize(
    ("wrong", "keys", "message"),
    [
        ({"model.widht": [1, 2]}, {}, "3: space.model.widht: model.widht: no such key (allowed: hidden, dropout"),
        ({"optimiser": ["adam"]}, {}, "3: space.optimiser: optimiser: no such key (allowed: "),
        ({"optimizer": ["adam", "adan"]}, {}, "3: space.optimizer: optimizer: 'adan' is not one of "),
        (
            {"optimizer.learning_rate": {"low": 0.1, "high": 0.1}},
            {},
            "3: space.optimizer.learning_rate: nothing lies between low 0.1 and high 0.1",
        ),
        (
            {"optimizer.learning_rate": {"low": 0, "high": 1.0, "log": True}},
            {},
            "3: space.optimizer.learning_rate: low 0 is not allowed with log",
        ),
        (
            {"optimizer.learning_rate": {"low": -1.0, "high": 1.0}},
            {},
            "3: space.optimizer.learning_rate: optimizer.learning_rate: -1.0 is out of range",
        ),
        ({"optimizer.learning_rate": {"low": "a", "high": 1.0}}, {}, "3: space.optimizer.learning_rate: a range has numbers low and high"),
        (
            {"optimizer.learning_rate": {"lo": 0.1, "high": 1.0}},
            {},
            "4: space.optimizer.learning_rate.lo: no such key (allowed: choices, low, ",
        ),
        ({"model.hidden": []}, {}, "3: space.model.hidden: [] is no choice"),
        ({"model.hidden": "all"}, {}, "3: space.model.hidden: 'all' is for groups"),
        ({"model.dropout": [0.1, 0.1]}, {}, "5: space.model.dropout: 0.1 is there twice"),
        ({"seed": [0, 1]}, {}, "3: space.seed: cannot be searched; search.seeds says how many"),
        (
            {"optimizer": ["adam", "momentum"], "optimizer.momentum": {"low": 0.1, "high": 0.9}},
            {},
            "6: space.optimizer.momentum: optimizer.momentum: no such key (allowed: learning_rate, beta1, beta2, epsilon",
        ),
        (
            {"optimizer.momentum": {"low": 0.1, "high": 0.9, "when": {"optimizer": "momentum"}}},
            {},
            "7: space.optimizer.momentum.when.optimizer: is no choice of this space",
        ),
        (
            {"optimizer": ["adam"], "optimizer.momentum": {"low": 0.1, "high": 0.9, "when": {"optimizer": "momentum"}}},
            {},
            "9: space.optimizer.momentum.when.optimizer: 'momentum' never happens (the space has: adam)",
        ),
        (
            {
                "activation": {"choices": ["relu"], "when": {"initializer": "xavier"}},
                "initializer": {"choices": ["xavier"], "when": {"activation": "relu"}},
            },
            {},
            "6: space.activation.when: conditions that wait for each other",
        ),
        (
            {"optimizer.learning_rate": {"low": 0.1, "high": 1.0}},
            {"sampler": "grid"},
            "3: space.optimizer.learning_rate: a grid has no ranges",
        ),
        ({"activation": "all"}, {"sampler": "cmaes"}, "4: sampler: cmaes searches numbers, and this space has only choices"),
        ({"activation": "all"}, {"balance": "optimizer"}, "4: balance: 'optimizer' is no choice of this space"),
        ({"activation": "all"}, {"pruner": "wilcoxon"}, "4: pruner: wilcoxon compares seeds, so search.seeds has to be 2 or more"),
        ({"activation": "all"}, {"exclude": [{"optimizer": "adam"}]}, "5: exclude: 'optimizer' is no choice of this space"),
        ({"activation": ["relu"]}, {"sampler": "grid", "exclude": [{"activation": "relu"}]}, "6: exclude: leaves nothing of the grid"),
        (
            {"activation": ["relu", "tanh"]},
            {"exclude": [{"activation": "elu"}]},
            "7: exclude.activation: 'elu' never happens (the space has: relu, tanh)",
        ),
        ({"data": ["digits", "mnist"]}, {}, "3: space.data: values on different data cannot be compared; make one sweep for each"),
        ({"data.split_seed": [0, 1]}, {}, "3: space.data.split_seed: values on different data cannot be compared"),
        ({"activation": ["relu"]}, {"constraints": {"seconds": {}}}, "6: constraints.seconds: one of at_most and at_least"),
    ],
)
def test_a_space_that_cannot_work_is_refused_with_its_line(space: Read, wrong: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        space(wrong, **keys)
    text = str(raised.value)
    assert text.startswith("conf/search/mine.yaml:")
    assert text.removeprefix("conf/search/mine.yaml:").startswith(message)
    assert "\n" not in text


def test_experiments_with_other_data_cannot_be_compared(space: Read) -> None:
    with pytest.raises(
        ConfigError, match=r"space\.experiment: 'mlp_mnist' has other data, and values on different data cannot be compared$"
    ):
        space({"experiment": ["mlp_digits", "mlp_mnist"]}, "trainer.epochs=1")


def test_a_key_cannot_be_given_and_searched(space: Read) -> None:
    with pytest.raises(ConfigError, match=r"space\.optimizer: is given as an override, too; leave one of them out$"):
        space({"optimizer": ["adam", "momentum"]}, "experiment=mlp_digits", "optimizer=adam")


@pytest.mark.parametrize(
    "value",
    [
        *(True, None, 3, 0.0001, 1e30, -2, [64, 64], [], {"a": [1, "x y"]}),
        *("relu", "a b", "it's", "123", "null", "True", "1e5", "inf", "NaN", "ünïcode", "a\\b", "a\\'b", "ends\\", "[1,2]", ""),
    ],
)
def test_a_value_comes_back_through_an_override_as_it_was(value: Any) -> None:
    from flows.config.overrides import parse

    assert parse(f"model.hidden={override_value(value)}") == ("model.hidden", value)


def test_a_configuration_of_the_space_is_an_experiment(space: Read) -> None:
    found = space({"model.hidden": [[64], [32, 32]], "initializer": ["xavier"]}, sampler="grid")
    config = validate(compose(["experiment=mlp_digits", *overrides(found.grid()[1])]))
    assert config["model"]["hidden"] == [32, 32]
    assert config["initializer"]["_target_"] == "components.initializers.Xavier"
