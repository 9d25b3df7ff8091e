import os
import threading
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigError
from flows.config.compose import compose

FILES = {
    "config.yaml": """
defaults: [_self_, model: mlp, data: digits, optimizer: adam, trainer: default, experiment: null]
name: null
seed: 0
tags: []
""",
    "model/mlp.yaml": "# MLP\n_target_: components.models.mlp.MLP\nhidden: [128]\n",
    "model/vgg.yaml": "# VGG\n_target_: components.models.vgg.VGG\nhead: [128]\n",
    "model/open.yaml": "# without a default\n_target_: components.models.mlp.MLP\nhidden: ???\n",
    "data/digits.yaml": "# digits\n_target_: components.data.images.Digits\n",
    "data/mnist.yaml": "# MNIST\n_target_: components.data.images.Mnist\nsplit_seed: ${seed}\n",
    "optimizer/adam.yaml": "# Adam\n_target_: components.optimizers.Adam\nlearning_rate: 0.001\n",
    "optimizer/momentum.yaml": "# Momentum\n_target_: components.optimizers.Momentum\nlearning_rate: 0.1\nmomentum: 0.9\n",
    "trainer/default.yaml": "# ten epochs\n_target_: components.training.settings.Trainer\nepochs: 10\n",
    "trainer/quick.yaml": "# one epoch\n_target_: components.training.settings.Trainer\nepochs: 1\n",
    "experiment/mlp_mnist.yaml": """# @package _global_
# An MLP on MNIST
defaults:
  - override /data: mnist
  - override /optimizer: momentum
  - _self_
name: mlp_mnist
model: {hidden: [256]}
optimizer: {learning_rate: 0.05}
trainer: {epochs: 5}
""",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        write(tmp_path / "conf", name, text)
    return tmp_path / "conf"


def write(conf: Path, name: str, text: str) -> None:
    path = conf / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def message(overrides: Any, conf: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, conf=conf)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    return text


def test_defaults_experiment_and_overrides_are_written_over_each_other_in_this_order(conf: Path) -> None:
    assert compose(["experiment=mlp_mnist", "model.hidden=[256,128]", "trainer.epochs=3", "seed=7"], conf=conf) == {
        "name": "mlp_mnist",
        "seed": 7,
        "tags": [],
        "model": {"_target_": "components.models.mlp.MLP", "hidden": [256, 128]},
        "data": {"_target_": "components.data.images.Mnist", "split_seed": 7},
        "optimizer": {"_target_": "components.optimizers.Momentum", "learning_rate": 0.05, "momentum": 0.9},
        "trainer": {"_target_": "components.training.settings.Trainer", "epochs": 3},
    }


def test_without_an_experiment_the_name_says_model_and_data(conf: Path) -> None:
    assert compose(["model=vgg"], conf=conf)["name"] == "vgg_digits"
    assert compose(["experiment=null"], conf=conf)["name"] == "mlp_digits"
    assert compose(["name=mine"], conf=conf)["name"] == "mine"


def test_an_experiments_values_go_with_the_choice_they_were_made_for(conf: Path) -> None:
    config = compose(["experiment=mlp_mnist", "model=vgg", "trainer=quick", "optimizer=adam"], conf=conf)
    assert config["model"] == {"_target_": "components.models.vgg.VGG", "head": [128]}
    assert config["trainer"]["epochs"] == 1
    assert config["optimizer"]["learning_rate"] == 0.001
    same = compose(["experiment=mlp_mnist", "model=mlp", "optimizer=momentum"], conf=conf)
    assert (same["model"]["hidden"], same["optimizer"]["learning_rate"]) == ([256], 0.05)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=vgg", "optimizer=momentum", "trainer.epochs=3"],
        ["experiment=mlp_mnist", "optimizer.momentum=0.5", "tags=[a,'b c']", "seed=3"],
        ["data=mnist", "name='x, y'", "model.hidden=[1,2]"],
    ],
)
def test_it_agrees_with_hydras_own_compose(conf: Path, overrides: list[str]) -> None:
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        expected = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    assert isinstance(expected, dict)
    assert compose(overrides, conf=conf) == {**expected, "name": expected["name"] or "_".join(names_of(overrides))}


def names_of(overrides: list[str]) -> tuple[str, str]:
    given = dict(override.split("=", 1) for override in overrides)
    return given.get("model", "mlp"), given.get("data", "digits")


def test_the_description_may_stand_before_the_package_header(conf: Path) -> None:
    write(conf, "experiment/other.yaml", "# Another\n# lab train experiment=other\n# @package _global_\nname: other\nseed: 9\n")
    config = compose(["experiment=other"], conf=conf)
    assert (config["name"], config["seed"]) == ("other", 9)


def test_sixty_threads_get_sixty_right_answers(conf: Path) -> None:
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: compose([f"trainer.epochs={n}"], conf=conf)})) for n in range(1, 61)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: config["trainer"]["epochs"] for n, config in found.items()} == {n: n for n in range(1, 61)}


def test_hydras_state_is_left_alone(conf: Path) -> None:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.version import VersionBase, getbase, setbase

    setbase("1.2")
    before = dict(Singleton._instances)
    compose(["model=vgg"], conf=conf)
    message(["model=vggg"], conf)
    assert str(getbase()) == "1.2"
    assert Singleton._instances == before
    assert not GlobalHydra.instance().is_initialized()
    del Singleton._instances[VersionBase]
    compose([], conf=conf)
    assert VersionBase not in Singleton._instances


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experiment=mlp_mnst", "experiment: 'mlp_mnst' is not one of mlp_mnist (did you mean 'mlp_mnist'?)"),
        ("optimizer=adm", "optimizer: 'adm' is not one of adam, momentum (did you mean 'adam'?)"),
        ("model=../../etc/passwd", "model: '../../etc/passwd' is not one of mlp, open, vgg"),
        ("model=null", "model: 'null' is not one of mlp, open, vgg"),
        ("model={hidden: 3}", "model: {'hidden': 3} is not a name; choose one, and set its values as model.key=value"),
        ("modle.hidden=3", "(did you mean 'model'?)"),
        ("experiment.name=x", "experiment.name: no such key"),
        ("trainer.epochs", "override 'trainer.epochs': has no '=' (allowed: key=value)"),
        ("", "override '': empty (allowed: key=value)"),
        ("   ", "override '': empty (allowed: key=value)"),
        ("+x=1", "override '+x=1': keys are neither added nor removed (allowed: key=value, without '+')"),
        ("++x=1", "override '++x=1': keys are neither added nor removed (allowed: key=value, without '+')"),
        ("~seed", "override '~seed': keys are neither added nor removed (allowed: key=value, without '~')"),
        ("hydra.run.dir=/tmp", "override 'hydra.run.dir=/tmp': Hydra's own settings cannot be changed here"),
        ("hydra/job_logging=x", "Hydra's own settings cannot be changed here"),
        ("hydra.searchpath=[file:///tmp]", "Hydra's own settings cannot be changed here"),
        ("model@x=mlp", "'model@x' is not a key"),
        ("model/x=mlp", "'model/x' is not a key"),
        ("model..hidden=1", "'model..hidden' is not a key"),
        ("=1", "'' is not a key"),
        ("optimizer=adam,momentum", "only one value can be given; write a list as [a,b] and a text with commas in quotes"),
        ("seed=range(1,10)", "only one value can be given"),
        ("model=glob(*)", "only one value can be given"),
        ("model.hidden=[1,", "the value cannot be read"),
        ("name='open", "the value cannot be read"),
        ("seed=\n1", r"override 'seed=\n1': has control or invisible characters"),
        ("name=\x1b[31mred", "has control or invisible characters"),
        ("name=\u202egnp", "has control or invisible characters"),
        ("name=\udcff", "has control or invisible characters"),
        ("seed=" + "1" * 3000, "3005 characters are too many (allowed: at most 2000)"),
        ("tags=" + "[" * 900, "the value cannot be read"),
        ("seed=${seed}", "seed: "),
        ("name=${nope}", "name: Interpolation key 'nope' not found"),
        ("seed=???", "seed: missing; it has no default, so give seed=…"),
        ("model=open", "model.hidden: missing; it has no default, so give model.hidden=…"),
        ("model.hidden.7=1", "model.hidden.7: cannot be set to 1: there is no such place"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(conf: Path, override: str, expected: str) -> None:
    assert expected in message([override], conf)


def test_misuse_of_the_whole_list(conf: Path) -> None:
    assert message(["seed=1", "seed=2"], conf) == "seed: given twice ('seed=1' and 'seed=2')"
    assert message(["model=mlp", "model=mlp"], conf) == "model: given twice ('model=mlp' and 'model=mlp')"
    assert "is not a list of texts" in message("seed=1", conf)
    assert message([3], conf) == "override 3: not a text (allowed: key=value)"
    assert message([f"a{n}=1" for n in range(101)], conf) == "overrides: 101 are too many (allowed: at most 100)"
    assert "too many references" in message(["tags=[" + ",".join(["${seed}"] * 17) + "]"], conf)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "'${oc.env:HOME}'",
        "[${oc.env:HOME}]",
        "{a: ${oc.env:HOME}}",
        "x${oc.env:HOME}y",
        "${hydra:runtime.cwd}",
        "${oc.decode:'1'}",
        "${now:%Y}",
        "${${seed}}",
        "${seed:1}",
        r"\${oc.env:HOME}",
        "$${seed}{oc.env:HOME}",
    ],
)
def test_resolvers_are_refused_on_the_command_line(conf: Path, value: str) -> None:
    text = message([f"tags={value}"], conf)
    assert os.environ["HOME"] not in text
    assert "refused" in text or "cannot be read" in text


def test_a_resolver_cannot_be_put_together_from_pieces(conf: Path) -> None:
    assert "refused" in message(["tags=['$','{oc.env:HOME}']", "name=${tags.0}${tags.1}"], conf)


@pytest.mark.parametrize(
    "text",
    [
        "# x\n_target_: components.models.mlp.MLP\nhidden: ${oc.env:HOME}\n",
        "# x\n_target_: ${oc.env:HOME}\n",
        "# x\n_target_: ${name}\n",
        "# x\n_target_: components.models.mlp.MLP\nhidden: [{_target_: '${name}'}]\n",
        "# x\n${oc.env:HOME}: 3\n",
        "# x\ndefaults: ['${oc.env:HOME}']\n",
    ],
)
def test_resolvers_are_refused_in_a_yaml(conf: Path, text: str) -> None:
    write(conf, "model/bad.yaml", text)
    assert "refused" in message(["model=bad"], conf)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# x\n- a\n- b\n", "bad.yaml: is not a mapping"),
        ("# x\na: [1\n", "configuration: "),
        ("# x\na: 1\na: 2\n", "configuration: "),
        ("# x\na: !!python/object/apply:os.system ['true']\n", "configuration: could not determine a constructor"),
        ("# x\ndefaults: [override /model: vggg]\n", "model: 'vggg' is not one of"),
        ("# x\ndefaults: [nowhere: x]\n", "configuration: "),
    ],
)
def test_a_broken_yaml_is_one_line(conf: Path, text: str, expected: str) -> None:
    write(conf, "experiment/bad.yaml", text.replace("# x", "# x\n# @package _global_"))
    assert expected in message(["experiment=bad"], conf)


def test_a_plain_reference_is_followed(conf: Path) -> None:
    assert compose(["seed=5", "name=run_${seed}", "tags=[${name}]"], conf=conf)["tags"] == ["run_5"]
