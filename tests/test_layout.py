"""The rules of the house that a tree of files can break: what belongs together is there, and every YAML can be used."""

import importlib
import pkgutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import components
import flows
from components.data.tokens import TokenSettings
from flows.config.build import build, needs, validate
from flows.config.compose import compose
from flows.config.names import CONF, GROUPS, SEARCH, SECTIONS, describe, names
from flows.config.sections import FILLED, read, signature
from flows.search.request import read as read_request

ROOT = CONF.parent
MODELS = sorted(path.stem for path in (ROOT / "components" / "models").glob("*.py") if path.stem != "__init__")
CHOICES = [(group, name) for group in GROUPS for name in names(group)]
UNSAID = {"inplace", "approximate", "embedding_std", "forget_bias", "by_depth"}
"""Parameters that no YAML repeats: torch's switches for memory and speed, and what all initializers share. They can be set all the same."""

SHAPE_OF = {
    "components.data.images.Digits": [1, 8, 8],
    "components.data.long_range.Adding": [200, 2],
    "components.models.yolo.YOLO": [3, 128, 128],
    "components.models.ssd.SSD": [3, 128, 128],
}
"""Shape of one example where it is not that of an MNIST digit, by the model where it can't take every picture, or by the data."""

PREDICTS = {
    "components.objectives.language_modelling.LanguageModelling": "each",
    "components.objectives.pretraining.Pretraining": "pretraining",
    "components.objectives.question_answering.QuestionAnswering": "span",
    "components.objectives.relations.Relations": "relation",
    "components.models.gpt.GPT": "next",
}
"""What is asked of a sequence where it is not one class, by the objective or the model; a bidirectional model refuses `next`."""


def facts(config: dict[str, Any]) -> dict[str, Any]:
    """What prepared data and the activation would fill in: exactly the names in FILLED."""
    vocabulary = TokenSettings(tokens="character").train(["0123456789"])
    return {
        "activation": nn.Tanh,  # which the fused recurrent kernels have
        "input_shape": SHAPE_OF.get(config["model"]["_target_"], SHAPE_OF.get(config["data"]["_target_"], [1, 28, 28])),
        "classes": 10,
        "class_names": [str(digit) for digit in range(10)],
        "vocabulary": vocabulary.dump(),
        "vocabulary_size": len(vocabulary),
        "target_vocabulary": vocabulary.dump(),
        "target_vocabulary_size": len(vocabulary),
        "predicts": PREDICTS.get(config["model"]["_target_"], PREDICTS.get(config["objective"]["_target_"], "sequence")),
    }


def test_the_facts_are_those_that_can_be_filled() -> None:
    assert set(facts(validate(compose([])))) == FILLED


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_a_yaml_and_a_test_of_the_same_stem(model: str) -> None:
    assert (CONF / "model" / f"{model}.yaml").is_file()
    assert (ROOT / "tests" / "models" / f"test_{model}.py").is_file()


@pytest.mark.parametrize("model", MODELS)
def test_one_architecture_is_one_file_that_can_be_read_at_a_sitting(model: str) -> None:
    assert len((ROOT / "components" / "models" / f"{model}.py").read_text(encoding="utf-8").splitlines()) <= 350


def test_every_yaml_in_conf_is_a_choice_or_the_root() -> None:
    searches = [(SEARCH, name) for name in names(SEARCH)]
    known = {CONF / "config.yaml", *(CONF / group / f"{name}.yaml" for group, name in [*CHOICES, *searches])}
    assert set(CONF.rglob("*.y*ml")) == known


COMPARE_EXPERIMENTS = {"adding": "validation/squared_error", "reviews": "validation/accuracy"}
"""Searches over whole experiments, and what they compare them by."""


@pytest.mark.parametrize("search", names(SEARCH))
def test_every_search_fits_an_experiment(search: str) -> None:
    found = read_request([f"search={search}", *([] if search in COMPARE_EXPERIMENTS else ["experiment=mlp_digits"])])
    assert found.plan.name == search
    assert found.objectives[0].metric == COMPARE_EXPERIMENTS.get(search, "validation/accuracy")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_begins_with_its_description(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert 10 <= len(first) <= 140
    assert "@package" not in first


def test_no_two_choices_of_a_group_are_described_alike() -> None:
    for group in GROUPS:
        repeated = [text for text, times in Counter(text for _, text in describe(group)).items() if times > 1]
        assert not repeated, f"{group}: {repeated}"


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda part: part)
def test_every_yaml_composes_and_builds(group: str, name: str) -> None:
    config = validate(compose([f"{group}={name}"]))
    available = facts(config)
    for section in SECTIONS if group == "experiment" else (group,):
        with torch.device("meta"):
            built = build(config[section], section, **available)
        if section == "model":
            assert isinstance(built, nn.Module)
            assert {parameter.device.type for parameter in built.parameters()} <= {"meta"}
        if section == "activation":
            assert isinstance(built(), nn.Module)
        assert needs(config[section]) <= FILLED


@pytest.mark.parametrize("group", SECTIONS)
def test_a_yamls_keys_are_its_constructors_parameters(group: str) -> None:
    """All of them but UNSAID, so that `lab config` shows what there is to set."""
    for name in names(group):
        found = read(compose([f"{group}={name}"])[group], group, group=group)
        unsaid = set(signature(found.target, group)) - set(found.given) - FILLED - UNSAID
        assert not unsaid, f"conf/{group}/{name}.yaml does not say {sorted(unsaid)}"


def modules() -> list[str]:
    packages = [(package.__path__, f"{package.__name__}.") for package in (components, flows)]
    return [module.name for path, prefix in packages for module in pkgutil.walk_packages(path, prefix)]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports_and_what_it_exports_exists(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), f"{name} exports {exported}, which it does not have"


def test_tests_have_names_of_their_own_and_no_package() -> None:
    tests = list((ROOT / "tests").rglob("*.py"))
    assert not [path for path in tests if path.name == "__init__.py"]
    assert not [stem for stem, times in Counter(path.stem for path in tests if path.stem != "conftest").items() if times > 1]


def test_no_file_is_called_utils() -> None:
    sources = [path for folder in ("components", "flows", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in sources if path.stem in ("utils", "util", "helpers", "misc", "common")]
