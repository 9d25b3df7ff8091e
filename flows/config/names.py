"""The names a configuration can be made of: the groups of `conf/`, the choices in each, and one line about every choice.

Everything here reads file names and first lines only, so that `lab list`, tab completion and drop-downs answer in milliseconds.
"""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigError, closest

CONF = Path(__file__).resolve().parents[2] / "conf"
"""The configuration folder of this project."""

SECTIONS = ("model", "data", "objective", "optimizer", "schedule", "activation", "initializer", "trainer")
"""The groups whose choice becomes a section `{_target_: …}` of the configuration."""

GROUPS = ("experiment", *SECTIONS)
"""Every group; an experiment is written over the whole configuration and has no section of its own."""

SEARCH = "search"
"""The folder of `conf/` beside the groups: what a sweep searches. It is about experiments and no part of one."""


def groups() -> list[str]:
    """The groups of `conf/`, in the order in which a person thinks of them."""
    return list(GROUPS)


def names(group: str, *, conf: Path = CONF) -> list[str]:
    """The choices of `group`, sorted: the stems of its YAML files. Raises ConfigError for an unknown group."""
    if group not in (*GROUPS, SEARCH):
        raise ConfigError(f"{group}: no such group (allowed: {', '.join(GROUPS)}){closest(group, GROUPS)}")
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def describe(group: str, *, conf: Path = CONF) -> list[tuple[str, str]]:
    """Every choice of `group` with its one-line description: the comment in the first line of its YAML, "" where there is none."""
    return [(name, _first_comment(conf / group / f"{name}.yaml")) for name in names(group, conf=conf)]


def not_one_of(key: str, given: str, allowed: list[str]) -> ConfigError:
    """The error for a choice that does not exist: names the key, what was given, what there is, and the closest match."""
    shown = given if len(given) <= 60 else f"{given[:57]}…"
    choices = f"is not one of {', '.join(allowed)}" if allowed else "cannot be chosen: there is nothing to choose from"
    return ConfigError(f"{key}: {shown!r} {choices}{closest(shown, allowed)}")


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(1000).strip()
    return line.lstrip("#").strip() if line.startswith("#") and not line.lstrip("# ").startswith("@") else ""
