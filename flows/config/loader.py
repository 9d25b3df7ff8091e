"""Hydra's defaults list and merge over one folder of YAML files, with nothing of Hydra's process-wide state.

This leans on internals of Hydra 1.3.8, which is pinned; `tests/flows/test_config_compose.py` compares it with `hydra.compose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf

from components.errors import ConfigError
from flows.config.overrides import refuse_resolvers


class _Folder(FileConfigSource):
    """The YAML files below one folder, checked before Hydra looks at them."""

    def load_config(self, config_path: str) -> ConfigResult:
        """One YAML with its `@package` header, which may stand anywhere in the comment at the top: the first line is the description."""
        path = Path(self.path, self._normalize_file_name(config_path))
        text = path.read_text(encoding="utf-8")
        config = OmegaConf.create(text) if text.strip() else OmegaConf.create()
        if not isinstance(config, DictConfig):
            raise ConfigError(f"{path.name}: is not a mapping of keys to values")
        refuse_resolvers(OmegaConf.to_container(config, resolve=False))
        header = "\n".join(line for line in text[:1000].splitlines() if line.lstrip().startswith("# @"))
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header=self._get_header_dict(header))


class _NoSchema(ConfigSource):
    """Hydra asks for a schema beside every YAML; ours are the constructors, which `validate` asks."""

    @staticmethod
    def scheme() -> str:
        return "none"

    def load_config(self, config_path: str) -> ConfigResult:
        raise ConfigLoadError(config_path)

    def is_group(self, config_path: str) -> bool:  # noqa: ARG002
        return False

    def is_config(self, config_path: str) -> bool:  # noqa: ARG002
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: Any) -> list[str]:  # noqa: ARG002
        return []


class _Repository(ConfigRepository):
    def __init__(self, folder: Path) -> None:
        self.sources = [_Folder(provider="main", path=f"file://{folder}")]

    def get_schema_source(self) -> ConfigSource:
        return _NoSchema(provider="schema", path="none://")


def load(conf: Path, choices: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """`conf/config.yaml` with the group `choices` (`model=vgg`) merged, and the final choice of every group.

    An experiment's values for a group belong to the choice that it makes there: where `choices` has another one, they go with it. So
    `experiment=mlp_mnist model=vgg` has no `model.hidden` left over from the MLP, and `trainer=quick` is quick.

    Raises:
        ConfigError: a YAML reaches for a resolver, or is no mapping.
        Exception: whatever Hydra, OmegaConf and the YAML reader raise; `compose` puts it into words.
    """
    repository = CachingConfigRepository(_Repository(conf))
    parsed = OverridesParser.create().parse_overrides(list(choices))
    result = create_defaults_list(repository, "config", parsed, prepend_hydra=False, skip_missing=False)
    chosen = dict(result.overrides.known_choices)
    experiment = [override for override in parsed if override.key_or_group == "experiment"]
    if experiment and len(parsed) > len(experiment):
        meant = create_defaults_list(repository, "config", experiment, prepend_hydra=False, skip_missing=False).overrides.known_choices
        others = {group for group, name in chosen.items() if name != meant.get(group)}
        for default in result.defaults:
            if str(default.config_path).startswith("experiment/"):
                values = cast(ConfigResult, repository.load_config(str(default.config_path))).config
                for group in others & set(values):
                    del values[group]
    loader = ConfigLoaderImpl(ConfigSearchPathImpl())
    return loader._compose_config_from_defaults_list(defaults=result.defaults, repo=repository), chosen


@contextmanager
def hydra_as_found() -> Iterator[None]:
    """Run with Hydra's current semantics (`version_base` 1.3), and leave its process-wide state as it was."""
    known = VersionBase in Singleton._instances
    version = VersionBase.instance().getbase()
    setbase("1.3")
    try:
        yield
    finally:
        VersionBase.instance().version_base = version
        if not known:
            del Singleton._instances[VersionBase]
