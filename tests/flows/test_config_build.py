import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import components.models
from components.errors import ConfigError
from components.models.mlp import MLP
from components.optimizers import Adam
from components.training.settings import Trainer
from flows.config.allowed import TORCH, group_of, resolve
from flows.config.build import build, needs, validate
from flows.config.compose import compose
from flows.config.names import SECTIONS

CONFIG = compose(["model=mlp", "data=digits", "optimizer=adam", "schedule=constant", "trainer=default"])

TOY = """
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from os import system
from typing import Annotated, Protocol

from annotated_types import Ge
from torch import nn

run = os.system
made = subprocess.Popen
lie = type("lie", (), {"__module__": "components.models.nowhere"})


class Widen(Protocol):
    def widen(self, width: int) -> int: ...


class Twice:
    def __init__(self, *, times: Annotated[int, Ge(1)] = 2) -> None:
        self.times = times

    def widen(self, width: int) -> int:
        return self.times * width


class Base(ABC):
    @abstractmethod
    def forward(self) -> None: ...


class Toy(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        activation: Callable[[], nn.Module],
        widen: Widen | None = None,
        parts: Sequence[nn.Module] = (),
        named: Mapping[str, nn.Module] | None = None,
        shape: tuple[int, ...] = (),
        options: dict[str, int] | None = None,
        limit: int = 9,
    ) -> None:
        super().__init__()
        if classes > limit:
            raise ValueError(f"{classes} classes are more than {limit}")
        self.classes, self.activation, self.widen, self.parts, self.named = classes, activation, widen, parts, named
        self.shape, self.options = shape, options

    def forward(self) -> None: ...


def toy(*, classes: int, activation: Callable[[], nn.Module]) -> Toy:
    return Toy(classes=classes, activation=activation)


def remove(*, path: str) -> None:
    os.remove(path)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A valid configuration whose model is a module with everything in it that a configuration might reach for."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(components.models, "__path__", [*components.models.__path__, str(tmp_path)])
    yield {**CONFIG, "model": {"_target_": "components.models.toy.Toy"}}
    sys.modules.pop("components.models.toy", None)
    vars(components.models).pop("toy", None)


def message(config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    text = str(caught.value)
    assert text.isprintable()
    return text


def changed(key: str, value: Any, config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    section, _, name = key.partition(".")
    return {**config, section: {**config[section], name: value} if name else value}


def test_a_valid_configuration_comes_back_with_its_values_typed() -> None:
    assert validate(CONFIG) == CONFIG
    learning_rate = validate(changed("optimizer.learning_rate", 1))["optimizer"]["learning_rate"]
    assert (learning_rate, type(learning_rate)) == (1.0, float)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer.epochs", 0, "trainer.epochs: 0 is out of range (allowed: a whole number ≥ 1)"),
        ("trainer.epochs", "3", "trainer.epochs: '3' is not allowed (allowed: a whole number ≥ 1)"),
        ("trainer.epochs", True, "trainer.epochs: true is not allowed (allowed: a whole number ≥ 1)"),
        ("trainer.epochs", 3.0, "trainer.epochs: 3.0 is not allowed (allowed: a whole number ≥ 1)"),
        ("trainer.epochs", None, "trainer.epochs: null is not allowed (allowed: a whole number ≥ 1)"),
        ("trainer.epochs", 10**30, "trainer.epochs: a whole number of 100 bits is out of range (allowed: 63 bits)"),
        ("trainer.compile", 1, "trainer.compile: 1 is not allowed (allowed: true or false)"),
        ("trainer.device", "cud", "trainer.device: 'cud' is not one of auto, cpu, cuda, mps (did you mean 'cuda'?)"),
        ("trainer.device", 1, "trainer.device: 1 is not allowed (allowed: auto, cpu, cuda, mps)"),
        ("optimizer.learning_rate", 0, "optimizer.learning_rate: 0 is out of range (allowed: a number > 0)"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate: nan is out of range (allowed: finite numbers)"),
        ("optimizer.learning_rate", float("-inf"), "optimizer.learning_rate: -inf is out of range (allowed: finite numbers)"),
        ("model.hidden", [64, 0], "model.hidden: [64, 0] is out of range (allowed: a list of whole numbers ≥ 1)"),
        ("model.hidden", 64, "model.hidden: 64 is not allowed (allowed: a list of whole numbers ≥ 1)"),
        ("model.hiden", [64], "model.hiden: no such key (allowed: hidden, dropout; did you mean 'hidden'?)"),
        ("schedule.minimum", 0.1, "schedule.minimum: no such key (it has no settings)"),
        ("model.activation", "relu", "model.activation: 'relu' is not allowed (allowed: a factory (_partial_: true))"),
        ("model._args_", [1], "model._args_: no such key (keys do not begin with _, but for _target_ and _partial_)"),
        ("model._recursive_", False, "model._recursive_: no such key (keys do not begin with _, but for _target_ and _partial_)"),
        ("model._convert_", "all", "model._convert_: no such key (keys do not begin with _, but for _target_ and _partial_)"),
        ("model._partial_", True, "model._partial_: true is not allowed (allowed: false)"),
        ("activation._partial_", False, "activation._partial_: false is not allowed (allowed: true)"),
        ("seed", -1, "seed: -1 is out of range (allowed: a whole number ≥ 0 and ≤ 4294967295)"),
        ("name", "../../escape", "name: '../../escape' is not allowed (allowed: at most 80 letters, digits, '_', '-' and '.')"),
        (
            "pretrained",
            "http://x",
            "(allowed: null, run:ID, registry:NAME@ALIAS, experiment:NAME, stage:NAME, file:PATH, hf:PATH, package:NAME, torchvision:NAME)",
        ),
        ("tags", [1], "tags: [1] is not allowed (allowed: a list of texts)"),
        ("description", "a\x1bb", r"description: 'a\x1bb' has control or invisible characters"),
        ("description", b"bytes", "description: b'bytes' is not plain data"),
        ("optimiser", {}, "optimiser: no such key"),
        ("model", None, "model: missing; choose one with model=…"),
        ("model", [1], "model: [1] is not a section (allowed: a mapping with _target_)"),
        ("model", {}, "model: has no _target_"),
        ("model", {"_target_": "components.models.mlp.MLP"}, "model.hidden: missing (allowed: a list of whole numbers ≥ 1)"),
        ("model", {3: 4}, "model: the key 3 is not a text"),
    ],
)
def test_every_problem_is_one_line_with_the_full_key(key: str, value: Any, expected: str) -> None:
    assert expected in message(changed(key, value))


def test_what_is_not_a_configuration_at_all() -> None:
    assert message([1]) == "configuration: [1] is not a mapping of keys to values"
    assert message({}) == "name: missing"
    assert message({name: value for name, value in CONFIG.items() if name != "data"}) == "data: missing; choose one with data=…"
    assert "of 16610 bits is out of range" in message(changed("seed", 10**5000))
    assert message([10**5000]) == "configuration: a list is not a mapping of keys to values"
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    assert "nested too deeply" in message(changed("model.hidden", deep))


REFUSED = [
    "os.system",
    "torch.hub.load",
    "torch.load",
    "builtins.eval",
    "builtins.open",
    "logging.os.system",
    "functools.partial",
    "hydra.utils.instantiate",
    "subprocess.run",
    "canary_module.run",
    "torch.nn.Linear",
    "torch.nn.modules.activation.torch.hub.load",
    "components.models.toy.os.system",
    "components.models.toy.subprocess.run",
    "components.models.toy.run",
    "components.models.toy.made",
    "components.models.toy.system",
    "components.models.toy.nn",
    "components.models.toy.nn.Linear",
    "components.models.toy.lie",
    "components.models.toy.Base",
    "components.models.toy.Widen",
    "components.models.toy.Twice",
    "components.models.toy.Toy.forward",
    "components.models.toy.Toy.__init__",
    "components.models.toy.remove",
    "components.models.toy",
    "components.models.toy.__builtins__",
    "components.models",
    "components",
    "components.errors.LabError",
    "components.optimizers.Adam",
    "components.models.toy.toy.__globals__",
    "components..models.toy.Toy",
    "components.models.toy.Toy ",
    " components.models.toy.Toy",
    "components/models/toy.Toy",
    "cоmponents.models.toy.Toy",  # the first o is Cyrillic
    "flows.config.build.build",
    "__main__.x",
    "",
    ".",
    "Toy",
    None,
    3,
    ["components.models.toy.Toy"],
    {"_target_": "components.models.toy.Toy"},
    "components." + "a" * 300,
]


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_a_model_of_ours_is_refused(toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert message(changed("model._target_", target, toy)).startswith("model._target_: ")
    assert "canary_module" not in sys.modules


@pytest.mark.parametrize("target", [target for target in REFUSED if target != "components.models.toy.Twice"])
def test_nested_sections_are_held_to_the_same(toy: dict[str, Any], target: Any) -> None:
    for value in ({"_target_": target}, [{"_target_": target}], {"a": {"_target_": target}}, {"a": [{"_target_": target}]}):
        for name in ("widen", "parts", "named", "options", "shape", "activation", "limit", "unknown"):
            assert message(changed(f"model.{name}", value, toy)).startswith(f"model.{name}")


def test_nested_sections_are_read_and_built(toy: dict[str, Any]) -> None:
    tanh = {"_target_": "torch.nn.Tanh", "_partial_": True}
    inner = {"_target_": "components.models.toy.toy"}
    model = {
        "_target_": "components.models.toy.Toy",
        "activation": tanh,
        "widen": {"_target_": "components.models.toy.Twice", "times": 3},
        "parts": [inner, {"_target_": "torch.nn.ReLU"}],
        "named": {"head": inner},
        "shape": [1, 2],
        "options": {"a": 1},
    }
    assert validate({**toy, "model": model})["model"] == model
    assert needs(model) == {"classes", "activation"}
    built = build(model, classes=5, activation=nn.GELU, input_shape=[1])
    assert isinstance(built.activation(), nn.Tanh)
    assert built.widen.widen(7) == 21
    assert (built.classes, built.shape, built.options, built.parts[0].classes) == (5, (1, 2), {"a": 1}, 5)
    assert isinstance(built.named["head"].activation(), nn.GELU)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("widen", {"_target_": "components.models.toy.Twice", "times": 0}, "model.widen.times: 0 is out of range"),
        ("widen", {"_target_": "components.models.toy.Toy"}, "model.widen._target_: Toy is not a Widen or null"),
        ("parts", [{"_target_": "components.models.toy.Twice"}], "model.parts.0._target_: Twice is not a Module"),
        ("limit", {"_target_": "components.models.toy.Twice"}, "model.limit: a section with _target_ is not allowed here"),
        ("activation", {"_target_": "torch.nn.ReLU"}, "model.activation._partial_: false is not allowed (allowed: true)"),
        ("activation", {"_target_": "components.models.toy.Twice", "_partial_": True}, "model.activation._target_: Twice is not a factory"),
        ("shape", [1, "2"], "model.shape: [1, '2'] is not allowed (allowed: a list of whole numbers)"),
    ],
)
def test_nested_sections_fit_their_place(toy: dict[str, Any], name: str, value: Any, expected: str) -> None:
    assert expected in message(changed(f"model.{name}", value, toy))


def test_building_fills_by_name_what_the_section_leaves_open() -> None:
    factory = build({"_target_": "torch.nn.LeakyReLU", "_partial_": True, "negative_slope": 0.2})
    assert isinstance(factory, functools.partial)
    assert factory().negative_slope == 0.2
    section = {"_target_": "components.models.mlp.MLP", "hidden": [3]}
    assert needs(section) == {"input_shape", "classes", "activation"}
    model = build(section, activation=factory, input_shape=[1, 2, 2], classes=5, class_names=["unused"])
    assert isinstance(model, MLP)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(3, 4), (3,), (5, 3), (5,)]
    given = build({**section, "classes": 2}, activation=factory, input_shape=[4], classes=5)
    assert list(given.parameters())[-1].shape == (2,)
    assert build({"_target_": "components.training.settings.Trainer", "epochs": 2}) == Trainer(epochs=2)
    assert build({"_target_": "components.optimizers.Adam", "learning_rate": 1}) == Adam(learning_rate=1.0)


def test_building_says_what_is_missing_and_what_the_constructor_refused(toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.classes: missing, and neither the activation nor the data give it$"):
        build(toy["model"], "model", activation=nn.ReLU)
    with pytest.raises(ConfigError, match=r"^model: 12 classes are more than 9$"):
        build(toy["model"], "model", activation=nn.ReLU, classes=12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=localized_dates", "data.source=xx"], "data: 'xx' is no locale that Babel knows (such as en, de_CH, ko), nor iso"),
        (
            ["data=text_csv", "data.path=t.csv", "data.validation=0.9", "data.test=0.5"],
            "data: validation 0.9 and test 0.5 leave nothing to train on",
        ),
    ],
)
def test_what_a_constructor_refuses_has_its_place_without_being_told(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build(validate(compose(["model=mlp", *overrides]))["data"])


def test_every_group_is_known_by_its_targets() -> None:
    config = compose(["experiment=mlp_mnist"])
    assert {group: group_of(config[group]) for group in SECTIONS} == {group: group for group in SECTIONS}
    assert group_of({"_target_": "torch.nn.LeakyReLU", "_partial_": True}) == "activation"
    assert [group_of(other) for other in ({"_target_": "os.system"}, {}, [1], {"_target_": 3})] == [None] * 4


def test_nothing_unchecked_is_ever_called(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for section in (
        {"_target_": "os.system", "command": f"touch {canary}"},
        {"_target_": "os.system", "command": f"touch {canary}", "_partial_": True},
        {"_target_": "components.models.mlp.MLP", "hidden": {"_target_": "pathlib.Path.touch", "self": str(canary)}},
        {"_target_": "components.models.mlp.MLP", "_args_": [{"_target_": "os.mkdir", "path": str(canary)}]},
        [1],
    ):
        with pytest.raises(ConfigError):
            build(section, activation=nn.ReLU)  # type: ignore[arg-type]
    assert not canary.exists()


def test_every_torch_name_resolves_to_what_it_says() -> None:
    for name in TORCH:
        assert resolve(name, "activation", group="activation") is getattr(nn, name.rpartition(".")[2])
