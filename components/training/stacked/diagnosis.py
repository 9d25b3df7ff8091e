"""What `components.training.diagnostics` says of one model at work, of T trials at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.activations import saturated
from components.training.diagnostics import in_order
from components.training.stacked.program import Program
from components.training.stacked.tape import Step


def diagnose(model: nn.Module, step: Step, program: Program, gradients: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """`gradients/LAYER` and `saturation/LAYER` after a run, a number for each trial; see `Diagnostics.read`.

    Args:
        model: of the trials' architecture; only its names and shapes count.
        program: of `step`.
        gradients: by parameter's name, (T, …) each; a parameter that no loss depended on is absent and has 0.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.ndim >= 2:
            norms = _norms(gradients[name]) if name in gradients else torch.zeros(program.trials, device=parameter.device)
            layers.setdefault(name.rpartition(".")[0], []).append(norms.double())
    series = {
        f"gradients/{_title(model, layer)}": torch.linalg.vector_norm(torch.stack(layers[layer]), dim=0)
        for layer in in_order(layers, step.called)
    }
    seen: dict[str, list[Tensor]] = {}
    for name, activation, slot in step.activations:
        seen.setdefault(name, []).append(saturated(activation, program.value(slot)).flatten(1))
    for name, outputs in seen.items():
        series[f"saturation/{_title(model, name)}"] = torch.cat(outputs, dim=1).double().mean(1)
    return {name: numbers.tolist() for name, numbers in series.items()}


def _title(model: nn.Module, name: str) -> str:
    return name or type(model).__name__


def _norms(gradient: Tensor) -> Tensor:
    """(T,) L2 norms that do not round to 0: the squares of a vanishing float32 gradient (below 1e-23) would."""
    flat = gradient.flatten(1)
    peak = flat.abs().amax(1)
    usual = (peak > 0) & peak.isfinite()
    safe = torch.where(usual, peak, 1.0)
    return torch.where(usual, torch.linalg.vector_norm(flat / safe[:, None], dim=1) * safe, peak)
