"""Whatever is asked for, the answer is a configuration or one line; nothing is executed, written or imported on the way."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import ConfigError
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.config.overrides import split

CONFIG = validate(compose([]))
FORBIDDEN = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pty.", "webbrowser.")

_watching: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or (event.startswith(FORBIDDEN) and event not in ("os.listdir", "os.scandir", "os.walk")):
        _watching.append(f"{event} {arguments!r}")


sys.addaudithook(_watch)


@contextmanager
def harmless() -> Iterator[None]:
    """Fail when anything inside starts a process, opens a socket, or writes, removes or renames a file."""
    global _watching  # noqa: PLW0603 — an audit hook cannot be taken out again
    seen: list[str] = []
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _watching = seen
    try:
        yield
    finally:
        _watching = None
        sys.dont_write_bytecode = bytecode
    assert seen == []


def one_line_or(action: Any) -> Any:
    """What `action` returns; None where it raised a ConfigError, which has to be one printable line of reasonable length."""
    with harmless():
        try:
            return action()
        except ConfigError as error:
            text = str(error)
            assert text
            assert text.isprintable()
            assert len(text) < 1000
            return None


FEW = settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=150)

KEYS = st.sampled_from(
    [
        *("experiment", "model", "data", "optimizer", "activation", "schedule", "trainer", "model.hidden", "model._target_", "model.x"),
        *("activation._target_", "activation._partial_", "trainer.epochs", "optimizer.learning_rate", "seed", "name", "tags", "tags.0"),
        *("hydra.run.dir", "+a", "~model", "model@x", "a.b.c", "pretrained", "_target_", "model.hidden.0._target_"),
    ]
)
TARGETS = st.sampled_from(
    [
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "components.models.mlp.MLP",
        "components.models.vgg.nn.Linear",
        "components.errors.closest",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        ["mlp", "vgg", "adam", "mnist", "quick", "null", "nan", "-inf", "[]", "{}", "???", "1e400", "a,b", "${seed}", "${name}"]
    ),
    st.sampled_from(
        ["${oc.env:HOME}", "${hydra:cwd}", "{_target_:os.system,command:x}", "[{_target_: os.system}]", "int(x)", "shuffle([1,2])"]
    ),
    TARGETS,
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=20),
    st.recursive(st.text("ab,:'\"\\$ ", max_size=4), lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")),
)
OVERRIDES = st.one_of(st.builds("{}={}".format, KEYS, VALUES), st.text(max_size=40))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), TARGETS, st.binary(max_size=3))
NAMES = st.one_of(st.sampled_from(["_target_", "_partial_", "_args_", "hidden", "epochs", "learning_rate", "classes"]), st.text(max_size=6))
NESTED = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers(), inner, max_size=3), max_leaves=8
)


@MANY
@given(st.text())
def test_any_text_as_an_override(text: str) -> None:
    one_line_or(lambda: split([text]))


@MANY
@given(st.lists(OVERRIDES, max_size=3))
def test_any_overrides_are_read(overrides: list[str]) -> None:
    one_line_or(lambda: split(overrides))


@FEW
@given(st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=2))
def test_any_overrides_give_a_configuration_or_one_line(overrides: list[str]) -> None:
    config = one_line_or(lambda: validate(compose(overrides)))
    assert config is None or json.loads(json.dumps(config)) == config


@MANY
@given(NESTED)
def test_anything_as_a_configuration(value: Any) -> None:
    assert one_line_or(lambda: validate(value)) is None


@MANY
@given(st.sampled_from(sorted(CONFIG)), NAMES, NESTED)
def test_anything_in_a_place_of_a_configuration(key: str, name: str, value: Any) -> None:
    section = {**CONFIG[key], name: value} if isinstance(CONFIG[key], dict) else value
    config = one_line_or(lambda: validate({**CONFIG, key: section}))
    assert config is None or validate(config) == config


@MANY
@given(st.dictionaries(NAMES, NESTED, max_size=3), st.sampled_from(["os.system", "components.data.sources.os.system", "builtins.open"]))
def test_nothing_is_built_of_what_is_not_ours(section: dict[str, Any], target: str) -> None:
    assert one_line_or(lambda: build({**section, "_target_": target})) is None


def test_the_watch_sees_what_it_should(tmp_path: Any) -> None:
    with pytest.raises(AssertionError), harmless():
        (tmp_path / "canary").write_text("x")
