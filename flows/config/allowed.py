"""What a configuration may name: the objects behind `_target_`, resolved without importing anything that is not ours.

Hydra checks names against a list of what is forbidden. Here the *object* is checked against what is allowed: a public class or
function that is defined in `components.*`, reached through the module that holds it, or one of a few names of torch. A path whose
first part is anything else is refused before any import. What a module of ours has itself imported (`components.data.sources.os`)
is not defined in it and is refused too, and so is everything below a class.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from components.errors import ConfigError, closest
from flows.config.words import shown

ROOT = "components"

TORCH = frozenset({"torch.nn.ELU", "torch.nn.GELU", "torch.nn.LeakyReLU", "torch.nn.ReLU", "torch.nn.Sigmoid", "torch.nn.Tanh"})
"""The names outside `components` that a configuration may use. They compute; none reads, writes or runs anything."""

_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")


@dataclass(frozen=True)
class Kind:
    """What the target of a group has to be: where it lives and what it can do."""

    home: str
    abilities: tuple[str, ...] = ()


KINDS = {
    "model": Kind("components.models", ("forward",)),
    "data": Kind("components.data", ("recipe", "prepare", "open")),
    "objective": Kind("components.objectives", ("losses", "outcomes", "metrics")),
    "optimizer": Kind("components.optimizers", ("build",)),
    "schedule": Kind("components.schedules", ("factor",)),
    "activation": Kind("components.activations", ("forward",)),
    "initializer": Kind("components.initializers", ("initialize",)),
    "trainer": Kind("components.training.settings"),
}


def group_of(section: Any) -> str | None:
    """The group whose choices live where the section's `_target_` does; None where there is none."""
    path = section.get("_target_") if isinstance(section, Mapping) else None
    if not isinstance(path, str):
        return None
    if path in TORCH:
        return "activation"
    return next((group for group, kind in KINDS.items() if path.startswith(f"{kind.home}.")), None)


def resolve(path: Any, key: str, *, group: str | None = None) -> Callable[..., Any]:
    """The class or function that `path` names.

    Args:
        path: dotted path, as a YAML's `_target_` has it.
        key: the section, for the message.
        group: the group whose choice it is, if it is one: then it also has to be of that group's kind.

    Raises:
        ConfigError: it is not allowed, or does not exist.
    """
    kind = KINDS.get(group or "")
    home = kind.home if kind else ROOT
    refused = ConfigError(f"{key}._target_: {shown(path)} is not allowed (allowed: a class of {home}{_torch(group)})")
    if not isinstance(path, str) or len(path) > 200 or not _PATH.fullmatch(path):
        raise refused
    if path in TORCH and group in (None, "activation"):
        outside, _, name = path.rpartition(".")
        return _callable(vars(importlib.import_module(outside))[name])
    if path.partition(".")[0] != ROOT or not (path == home or path.startswith(f"{home}.")):
        raise refused
    module, name = _module_and_name(path, key)
    found = vars(module).get(name)
    if found is None:
        public = [other for other, value in vars(module).items() if _is_ours(value) and not other.startswith("_")]
        raise ConfigError(f"{key}._target_: {module.__name__} has no {name!r}{closest(name, public)}")
    if not _is_ours(found):
        raise refused
    result = _result(found)
    if kind and not all(callable(getattr(result, ability, None)) for ability in kind.abilities):
        abilities = ", ".join(kind.abilities)
        raise ConfigError(f"{key}._target_: {shown(path)} is no choice for {group} (it would have {abilities})")
    return _callable(found)


def _module_and_name(path: str, key: str) -> tuple[ModuleType, str]:
    """The innermost module of `components` on `path`, imported, and the one name that remains."""
    parts = path.split(".")
    module = importlib.import_module(ROOT)
    for place, part in enumerate(parts[1:], start=1):
        inner = f"{module.__name__}.{part}"
        if not hasattr(module, "__path__") or importlib.util.find_spec(inner) is None:
            if len(parts) > place + 1:
                raise ConfigError(f"{key}._target_: {shown(path)} is not allowed (there is no module {inner})")
            return module, part
        module = importlib.import_module(inner)
    raise ConfigError(f"{key}._target_: {shown(path)} is a module (allowed: a class in it)")


def _is_ours(found: Any) -> bool:
    """Whether `found` is a class or function that is defined, under its own name, in a module of `components`."""
    if not (inspect.isclass(found) or inspect.isfunction(found)) or inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        return False
    module = found.__module__
    if module != ROOT and not module.startswith(f"{ROOT}."):
        return False
    return getattr(sys.modules.get(module), found.__name__, None) is found


def _result(found: Callable[..., Any]) -> Any:
    """The class of what calling `found` gives: itself, or what a function says that it returns (None when it says nothing)."""
    if inspect.isclass(found):
        return found
    returned = inspect.get_annotations(found, eval_str=True).get("return")
    return returned if inspect.isclass(returned) else None


def _callable(found: Any) -> Callable[..., Any]:
    assert callable(found)
    return found  # type: ignore[no-any-return]


def _torch(group: str | None) -> str:
    return f", or torch.nn: {', '.join(sorted(name.rpartition('.')[2] for name in TORCH))}" if group in (None, "activation") else ""
