"""From names and overrides to one plain dict: Hydra's YAML groups and override grammar, without Hydra's application around them.

`hydra.compose` needs process-wide state (`GlobalHydra`), scans plugins and composes Hydra's own configuration every time. We use the
three parts that matter, through a loader of our own over one folder: the defaults list, the merge, and the override grammar. That is
thread-safe under a lock, leaves Hydra's state as it found it, and costs a fraction of the time (docs/adr/0003-typed-configuration.md).

Nothing that a configuration says is executed here. The only interpolation allowed is a plain reference to another value (`${seed}`);
resolvers, which reach for environment variables and more, are refused before anything is resolved.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from components.errors import ConfigError, closest
from flows.config.names import CONF, GROUPS, names, not_one_of
from flows.config.overrides import Choice, Setting, refuse_resolvers, split
from flows.config.words import one_line, quote, shown

if TYPE_CHECKING:
    from omegaconf import DictConfig

_lock = threading.Lock()


def compose(overrides: Sequence[str], *, conf: Path = CONF) -> dict[str, Any]:
    """The configuration that `overrides` ask for, fully resolved, as a plain JSON-able dict.

    It has the root keys of `conf/config.yaml` and a section for every group. It is well formed and its names exist; whether keys,
    types and ranges are right is for `validate` to say, which has to import what the sections name.

    Args:
        overrides: Hydra's override grammar: `experiment=mlp_mnist`, `model.hidden=[256,128]`, `optimizer=adam`.
        conf: folder with `config.yaml` and one sub-folder a group.

    Raises:
        ConfigError: one line, naming the key, what was given, what is allowed and the closest match.
    """
    from flows.config.loader import hydra_as_found

    with _lock, hydra_as_found():
        choices, settings = split(overrides)
        for choice in choices:
            options = names(choice.group, conf=conf)
            if choice.name is not None and choice.name not in options:
                raise not_one_of(choice.group, choice.name, options)
        return _compose(choices, settings, conf)


def _compose(choices: list[Choice], settings: list[Setting], conf: Path) -> dict[str, Any]:
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from flows.config.loader import load

    try:
        config, chosen = load(conf, [f"{choice.group}={choice.name}" for choice in choices if choice.name is not None])
        for setting in settings:
            _set(config, setting)
        refuse_resolvers(OmegaConf.to_container(config, resolve=False))
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise _in_words(error, conf) from error
    refuse_resolvers(plain)
    if plain.get("name", "") is None:
        plain["name"] = f"{chosen.get('model')}_{chosen.get('data')}"
    return plain


def _set(config: DictConfig, setting: Setting) -> None:
    """One value override. Whether its key exists below the root is for `validate` to say: a YAML need not repeat every default."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    root = setting.key.partition(".")[0]
    if root not in config:
        allowed = [*GROUPS, *(str(key) for key in config if key not in GROUPS)]
        raise ConfigError(f"{quote(setting.key)}: no such key (allowed: {', '.join(allowed)}){closest(root, allowed)}")
    try:
        OmegaConf.update(config, setting.key, setting.value, merge=True, force_add=True)
    except (OmegaConfBaseException, AttributeError, TypeError, LookupError, AssertionError) as error:
        raise ConfigError(f"{quote(setting.key)}: cannot be set to {shown(setting.value)}: there is no such place") from error


def _in_words(error: Exception, conf: Path) -> ConfigError:
    """What Hydra, OmegaConf or the YAML reader said, as one line that names the key where there is one."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, RecursionError):
        return ConfigError("configuration: nested too deeply, or values that refer to each other in a circle")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group in GROUPS:
            return not_one_of(group, name, names(group, conf=conf))
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        if isinstance(error, MissingMandatoryValue):
            return ConfigError(f"{error.full_key}: missing; it has no default, so give {error.full_key}=…")
        return ConfigError(f"{quote(error.full_key)}: {one_line(str(error).splitlines()[0])}")
    return ConfigError(f"configuration: {one_line(str(error))}")
