"""What a stack's checkpoint holds of its trials, and how it is read again.

A thousand small tensors take a checkpoint longer than a few large ones of the same size, so trials of one form lie side by side in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from components.errors import NotFiniteError, RunError

Numbers = Mapping[str, Tensor]
"""A trial's tensors of one kind (weights, moments, best weights), by name."""


def packed(kind: str, trials: Mapping[int, Numbers]) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Trial's number → its tensors, as tensors (T, …) named `kind/form/name`, and the numbers of the trials of each form in their order."""
    forms: dict[Any, list[int]] = defaultdict(list)
    for number, tensors in trials.items():
        forms[tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())].append(number)
    found: dict[str, Tensor] = {}
    for form, (shapes, numbers) in enumerate(forms.items()):
        for name, *_ in shapes:
            found[f"{kind}/{form}/{name}"] = torch.stack([trials[number][name] for number in numbers])
    return found, list(forms.values())


def unpacked(kind: str, tensors: Numbers, forms: Sequence[Sequence[int]]) -> dict[int, dict[str, Tensor]]:
    """What `packed` was given; each trial with memory of its own."""
    found: dict[int, dict[str, Tensor]] = {number: {} for numbers in forms for number in numbers}
    for place, tensor in tensors.items():
        if place.startswith(f"{kind}/"):
            _, form, name = place.split("/", 2)
            for row, number in enumerate(forms[int(form)]):
                found[number][name] = tensor[row].clone()
    return found


def written(error: RunError | None) -> dict[str, Any] | None:
    """An error as JSON values."""
    if isinstance(error, NotFiniteError):
        return {"step": error.step, "layer": error.layer, "value": error.value}
    return None if error is None else {"text": str(error)}


def read(values: Mapping[str, Any] | None) -> RunError | None:
    """The error that `written` was given."""
    if values is None:
        return None
    return RunError(values["text"]) if "text" in values else NotFiniteError(**values)
