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
    found = validate(config)
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
    objective, data = (resolve(config[name]["_target_"], name, group=name) for name in ("objective", "data"))
    if getattr(objective, "looks_at_regions", False) and not getattr(data, "has_regions", False):
        raise ConfigError(
            f"data: {objective.__name__} looks at regions that come with the pictures, and {data.__name__} has none: "
            "choose data=scenes_regions, voc_regions or coco_regions"
        )
