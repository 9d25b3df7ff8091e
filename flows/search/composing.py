"""Configurations of many trials, composed from few: a full composition takes tens of milliseconds, as long as a small trial.

The sections of optimizers, activations … do not depend on each other, so each choice is composed once and put into the
experiment's configuration; what decides more than its own section (`experiment`, `model`, `data`) is composed with it. Where a YAML
refers to other values (`${…}`) sections do depend on each other, and every configuration is composed in full.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from flows.config.compose import compose
from flows.config.names import CONF, SECTIONS
from flows.search.space import overrides

WHOLE = ("experiment", "model", "data")
"""Groups whose choice decides more than its own section."""


class Composer:
    """Composes configurations that share `base`, a list of overrides, as `compose([*base, *overrides(chosen), f"seed={seed}"])` would.

    Args:
        choices: group → choices that will be asked for. A composition takes as long for one section as for several, so where one is needed
            a choice of every other group is composed with it.
    """

    def __init__(self, base: Sequence[str], *, conf: Path = CONF, choices: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.base, self.conf = tuple(base), conf
        self.choices = {key: tuple(values) for key, values in (choices or {}).items() if key in SECTIONS and key not in WHOLE}
        self._sections: dict[tuple[tuple[str, ...], str, str], Any] = {}
        self.independent = "${" not in "".join(
            path.read_text(encoding="utf-8", errors="replace") for path in sorted(conf.rglob("*.yaml"))
        ) + "".join(base)
        self._composed = cache(lambda texts: compose(texts, conf=conf))

    def __call__(self, chosen: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The configuration of one trial, resolved but not yet validated."""
        if not self.independent:
            return compose([*self.base, *overrides(chosen), f"seed={seed}"], conf=self.conf)
        whole = (*self.base, *overrides({key: value for key, value in chosen.items() if key in WHOLE}))
        config: dict[str, Any] = copy.deepcopy(self._composed(whole))
        for key, value in chosen.items():
            if key in SECTIONS and key not in WHOLE:
                config[key] = copy.deepcopy(self._section(whole, key, value))
        for key, value in chosen.items():
            if key not in SECTIONS and key not in WHOLE:
                _put(config, key.split("."), value)
        config["seed"] = seed
        return config

    def _section(self, whole: tuple[str, ...], key: str, value: Any) -> Any:
        place = (whole, key, repr(value))
        if place not in self._sections:
            together = {key: value}
            for other, values in self.choices.items():
                missing = [each for each in values if (whole, other, repr(each)) not in self._sections]
                if other != key and missing:
                    together[other] = missing[0]
            config = compose([*whole, *overrides(together)], conf=self.conf)
            self._sections |= {(whole, other, repr(each)): config[other] for other, each in together.items()}
        return self._sections[place]


def _put(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        config = config.setdefault(part, {})
    config[path[-1]] = copy.deepcopy(value)
