"""Starting from weights that were learned before: `pretrained=run:RUN`, `experiment:NAME`, `registry:NAME@ALIAS` or `file:PATH`.

Every tensor whose name and shape the new model has is taken over, all others keep their initialization (a new head, say), and both are
reported. The addresses lead to the same thing: a model folder, or a safetensors file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from components.errors import CheckpointError, RequestError, closest
from components.training.checkpoint import read_tensors
from flows import runs
from flows.lab.settings import Settings

KINDS = ("run", "experiment", "registry", "file")
WEIGHTS = "model.safetensors"


def load_pretrained(model: nn.Module, address: str, settings: Settings) -> dict[str, Any]:
    """Take over what fits from the weights at `address`; returns what was taken and what was not, as JSON values.

    Raises:
        RequestError: the address leads nowhere, or nothing in it fits this model.
        CheckpointError: the file there cannot be read.
    """
    path = locate(address, settings)
    try:
        found = read_tensors(path).tensors
    except CheckpointError as error:
        raise CheckpointError(f"pretrained: {error}") from error
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise RequestError(f"pretrained: nothing in {address} fits this model (no tensor has the same name and shape)")
    model.load_state_dict(fitting, strict=False)
    return {
        "address": address,
        "path": str(path),
        "taken": sorted(fitting),
        "initialized": sorted(own.keys() - fitting.keys()),
        "unused": sorted(found.keys() - fitting.keys()),
    }


def locate(address: str, settings: Settings) -> Path:
    """The safetensors file that `address` leads to; RequestError when there is none."""
    kind, _, name = address.partition(":")
    if kind not in KINDS or not name:
        raise RequestError(
            f"pretrained: {address!r} is none of run:RUN, experiment:NAME, registry:NAME@ALIAS, file:PATH{closest(kind, KINDS)}"
        )
    match kind:
        case "run":
            path = runs.find(name, settings) / "model" / WEIGHTS
        case "experiment":
            path = _best_of(name, settings) / "model" / WEIGHTS
        case "registry":
            from flows.records.registry import resolve
            from flows.records.tracking import tracking_uri

            path = resolve(address, tracking_uri(settings), home=settings.home) / WEIGHTS
        case _:
            path = Path(name).expanduser()
    if not path.is_file():
        raise RequestError(f"pretrained: {address} has no weights ({path} does not exist)")
    return path


def _best_of(experiment: str, settings: Settings) -> Path:
    """The finished run of `experiment` with the best monitored validation metric."""
    best: tuple[float, Path] | None = None
    for path in settings.runs.glob("*/config.json"):
        folder = path.parent
        found = runs.result(folder)
        if not found or runs.config(folder).get("name") != experiment:
            continue
        _, direction, value = found["monitor"]
        score = value if direction == "max" else -value
        if best is None or score > best[0]:
            best = (score, folder)
    if best is None:
        raise RequestError(f"pretrained: {experiment} has not been trained here yet: lab train experiment={experiment}")
    return best[1]
