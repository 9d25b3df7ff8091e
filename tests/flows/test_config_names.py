import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import ConfigError
from flows.config.names import CONF, describe, groups, names


def test_names_are_the_stems_in_order(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("vgg", "mlp"):
        (tmp_path / "model" / f"{name}.yaml").write_text("# x\n")
    (tmp_path / "model" / "notes.txt").write_text("not a choice")
    assert names("model", conf=tmp_path) == ["mlp", "vgg"]
    assert names("data", conf=tmp_path) == []


def test_the_description_is_the_first_comment(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "a.yaml").write_text("# An MLP, é and 한국어\n# @package _global_\n", encoding="utf-8")
    (folder / "b.yaml").write_text("name: b\n")
    (folder / "c.yaml").write_text("# @package _global_\nname: c\n")
    (folder / "d.yaml").write_text("")
    assert describe("experiment", conf=tmp_path) == [("a", "An MLP, é and 한국어"), ("b", ""), ("c", ""), ("d", "")]


def test_an_unknown_group_is_named_with_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"^modle: no such group \(allowed: experiment, model, .*\) \(did you mean 'model'\?\)$"):
        names("modle")


def test_every_group_has_choices() -> None:
    assert {group: bool(names(group)) for group in groups()} == dict.fromkeys(groups(), True)
    assert CONF.is_dir()


def test_heavy_libraries_are_imported_only_where_they_are_used() -> None:
    program = """
import json, sys
heavy = ("torch", "prefect", "mlflow", "hydra", "omegaconf")
import flows.config.names, flows.config.compose, flows.config.build, flows.config.parameters, flows.config.sections
flows.config.names.describe("model")
first = [name for name in heavy if name in sys.modules]
flows.config.compose.compose(["trainer.epochs=3"])
print(json.dumps([first, [name for name in heavy if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], ["hydra", "omegaconf"]]
