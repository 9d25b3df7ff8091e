"""Tab completion of overrides: names of groups, and the choices of each. Reads folder listings only, so that a tab is answered at once."""

from __future__ import annotations

ROOT_KEYS = ("seed", "pretrained", "name", "tags")


def overrides(incomplete: str) -> list[str]:
    """What `incomplete` may become: `opt` → `optimizer=`, `optimizer=ad` → `optimizer=adam`, `optimizer=adamw` …"""
    from flows.config import names

    key, equals, value = incomplete.partition("=")
    groups = [*names.groups(), "experiment"]
    if equals:
        return [f"{key}={name}" for name in names.names(key) if name.startswith(value)] if key in groups else []
    return [f"{name}=" for name in sorted({*groups, *ROOT_KEYS}) if name.startswith(key)]


def data(incomplete: str) -> list[str]:
    """As `overrides`, for commands that take only data."""
    return [text for text in overrides(incomplete) if text.startswith("data")]


def searches(incomplete: str) -> list[str]:
    """As `overrides`, with what a sweep takes besides."""
    from flows.config import names

    if incomplete.startswith("search="):
        return [f"search={name}" for name in names.names(names.SEARCH) if name.startswith(incomplete.removeprefix("search="))]
    return [*overrides(incomplete), *(["search="] if "search=".startswith(incomplete) else [])]


def sweeps(incomplete: str) -> list[str]:
    """Names of sweeps, the newest first."""
    from components.errors import LabError
    from flows.lab.settings import Settings

    try:
        folders = sorted(Settings.load().sweeps.glob("*/journal.jsonl"), key=lambda path: -path.stat().st_mtime)
    except LabError:
        return []
    return [name for name in ["last", *(path.parent.name for path in folders)] if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Names of runs, the newest first."""
    from components.errors import LabError
    from flows.lab.settings import Settings

    try:
        folders = Settings.load().runs.glob("*/config.json")
    except LabError:
        return []
    names = sorted((path.parent.name for path in folders), reverse=True)
    return [name for name in ["last", *names] if name.startswith(incomplete)]
