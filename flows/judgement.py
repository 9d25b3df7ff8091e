"""Whether what is asked for can be done at all, said before any of it is: the configuration, and what does not go together in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import ConfigError
from flows import group
from flows.config.allowed import resolve
from flows.config.build import build, validate


def judge(config: Any) -> dict[str, Any]:
    """A composed configuration, validated.

    Raises:
        ConfigError: a key or value is wrong, or two choices do not go together.
        RequestError: this machine cannot train in so many processes.
    """
    try:
        found = validate(config)
    except ConfigError as error:
        of_regions = str(error).startswith(("data.of", "data.search")) and isinstance(config["objective"], Mapping)
        if of_regions and (why := _without_regions(config)):  # the keys are right, the data are not
            raise ConfigError(f"{error}; {why}") from error
        raise
    refuse_misfits(found)
    build(found["data"])  # whose constructor refuses settings that do not go together
    if (trainer := build(found["trainer"])).grouped:
        group.check(trainer)
    return found


def refuse_misfits(config: Mapping[str, Any]) -> None:
    """Raise ConfigError where an objective learns another stage than the model, or looks at regions that its data come without."""
    stages = [section["stage"] for section in (config["model"], config["objective"]) if "stage" in section]
    if len(set(stages)) > 1:
        raise ConfigError(f"objective.stage: {stages[1]} is not what the model learns (model.stage is {stages[0]})")
    if why := _without_regions(config):
        raise ConfigError(f"data: {why}")


def _without_regions(config: Mapping[str, Any]) -> str | None:
    """What to say where an objective looks at regions that its data come without."""
    objective, data = (resolve(config[name].get("_target_"), name, group=name) for name in ("objective", "data"))
    if not getattr(objective, "looks_at_regions", False) or getattr(data, "has_regions", False):
        return None
    return (
        f"{objective.__name__} looks at regions that come with the pictures, and {data.__name__} has none: "
        "choose data=scenes_regions, voc_regions or coco_regions"
    )
