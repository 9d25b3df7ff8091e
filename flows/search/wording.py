"""How levels, settings and numbers are said in a sweep's sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.search.statistics import level_name

_PROPER = {
    "adadelta": "Adadelta",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamw": "AdamW",
    "elu": "ELU",
    "gelu": "GELU",
    "gradient_descent": "gradient descent",
    "he_normal": "He (normal)",
    "he_uniform": "He (uniform)",
    "leaky_relu": "leaky ReLU",
    "nesterov": "Nesterov",
    "normalized_xavier": "normalized Xavier",
    "random_normal": "random (normal)",
    "random_uniform": "random (uniform)",
    "relu": "ReLU",
    "rmsprop": "RMSprop",
    "xavier": "Xavier",
    "xavier_normal": "Xavier (normal)",
}


def in_words(name: str) -> str:
    """A level as it is called in a sentence: `he_uniform` → "He (uniform)"."""
    return _PROPER.get(name, name)


def settings(params: Mapping[str, Any]) -> str:
    """A configuration for people: `optimizer=adam, optimizer.learning_rate=0.0123`."""
    return ", ".join(f"{key}={f'{value:.4g}' if isinstance(value, float) else level_name(value)}" for key, value in params.items())


def seeds(count: int) -> str:
    """ "one seed", "5 seeds"."""
    return "one seed" if count == 1 else f"{count} seeds"


def count(number: int, noun: str) -> str:
    """ "1 trial", "1,200 trials"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"; there is at least one."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
