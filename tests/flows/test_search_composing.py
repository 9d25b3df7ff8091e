"""Configurations put together from parts are the ones that a full composition gives."""

from pathlib import Path
from typing import Any

import pytest

from flows.config.compose import compose
from flows.search import composing
from flows.search.composing import Composer
from flows.search.space import overrides


@pytest.mark.parametrize(
    ("base", "chosen"),
    [
        (["experiment=mlp_mnist"], {"optimizer": "adam", "activation": "tanh", "initializer": "xavier"}),
        (["experiment=mlp_mnist"], {"optimizer": "adamw"}),
        (["experiment=mlp_mnist", "optimizer.weight_decay=0.2"], {"activation": "tanh", "optimizer.learning_rate": 0.25}),
        (["experiment=mlp_mnist", "trainer.epochs=3"], {"optimizer": "momentum", "optimizer.momentum": 0.5, "model.hidden": [64, 32]}),
        (["experiment=vgg_mnist"], {"schedule": "step", "initializer": "he_uniform", "model.dropout": 0.0}),
        (["experiment=vgg_mnist"], {"model": "mlp", "optimizer": "adagrad"}),
        (["model=mlp", "data=digits"], {"model": "vgg", "activation": "elu"}),
        (["model=mlp"], {"data": "mnist", "trainer": "quick", "trainer.batch_size": 7}),
        (["trainer.threads=1"], {"experiment": "mlp_digits", "optimizer": "rmsprop"}),
    ],
)
def test_parts_make_the_whole(base: list[str], chosen: dict[str, Any]) -> None:
    base = [text for text in base if text.partition("=")[0] not in chosen]
    composer = Composer(base)
    for _ in range(2):  # the second time nothing is composed
        assert composer(chosen, 3) == compose([*base, *overrides(chosen), "seed=3"])


def test_what_one_trial_has_is_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    composer = Composer(["experiment=mlp_digits"])
    first = composer({"model.hidden": [8], "optimizer": "momentum", "optimizer.momentum": 0.1}, 0)
    first["optimizer"]["learning_rate"] = 77.0
    first["model"]["hidden"].append(9)
    second = composer({"optimizer": "momentum"}, 1)
    assert second == compose(["experiment=mlp_digits", "optimizer=momentum", "seed=1"])


@pytest.mark.parametrize(
    ("choices", "composed"),
    [
        ({}, 1 + 3 + 2),
        ({"optimizer": ["adam", "momentum", "rmsprop"], "activation": ["relu", "tanh"], "model.hidden": [[8]], "model": ["mlp"]}, 1 + 3),
    ],
)
def test_choices_are_composed_once_each_and_those_of_all_groups_together(
    monkeypatch: pytest.MonkeyPatch, choices: dict[str, list[Any]], composed: int
) -> None:
    asked: list[Any] = []

    def counted(texts: Any, **options: Any) -> dict[str, Any]:
        asked.append(texts)
        return compose(texts, **options)

    monkeypatch.setattr(composing, "compose", counted)
    composer = Composer(["experiment=mlp_digits"], choices=choices)
    found = {}
    for optimizer in ("adam", "momentum", "rmsprop"):
        for activation in ("relu", "tanh"):
            for seed in range(3):
                found[optimizer, activation] = composer({"optimizer": optimizer, "activation": activation}, seed)
    assert len(asked) == composed
    for (optimizer, activation), config in found.items():
        assert config == compose(["experiment=mlp_digits", f"optimizer={optimizer}", f"activation={activation}", "seed=2"])


def test_with_references_everything_is_composed_in_full(tmp_path: Path) -> None:
    import shutil

    from flows.config.names import CONF

    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    path = conf / "schedule" / "cosine.yaml"
    path.write_text(path.read_text().replace("minimum: 0.0", "minimum: ${optimizer.learning_rate}"))
    composer = Composer(["experiment=mlp_digits", "schedule=cosine"], conf=conf)
    assert not composer.independent
    assert composer({"optimizer.learning_rate": 0.5}, 0)["schedule"]["minimum"] == 0.5
