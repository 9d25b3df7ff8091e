"""Going on from weights that were learned before without losing them: layers that stay as they are, and lower ones that learn less.

A model's **layers** are its parts in the order in which it names them, the members of a `ModuleList` one by one: of BERT the embeddings,
each block, the head. Of L layers the last learns at the rate η, the one below it at ηd, the lowest at ηd^(L−1), where d is `layer_decay`:
what lies lower is more general and needs less change (Howard and Ruder 2018, section 3.2, with d = 1/2.6; Clark et al. 2020, 0.8 to 0.9).

A **frozen** part learns nothing and is computed as in evaluation, without dropout. Where everything below the head is frozen, that is
feature-based use (Devlin et al. 2019, section 5.3): see `components/training/features.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from components.errors import RequestError, closest


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's layers that have parameters, the lowest first, by name."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        members = [(f"{name}.{place}", member) for place, member in child.named_children()] if isinstance(child, nn.ModuleList) else []
        found += members or [(name, child)]
    return [(name, module) for name, module in found if any(True for _ in module.parameters())]


def freeze(model: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """Let the parts called so learn nothing; returns them. A part is a module's name in the model (`embeddings`, `blocks`, `blocks.0`).

    Raises:
        RequestError: the model has no part of such a name, or nothing is left that learns.
    """
    known = {name: module for name, module in model.named_modules() if name}
    for part in parts:
        if part not in known:
            offered = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in layers(model)))
            raise RequestError(f"trainer.frozen: the model has no part {part!r} (it has {offered}){closest(part, known)}")
        known[part].requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError("trainer.frozen: nothing is left that could learn")
    return [known[part] for part in parts]


def decay_by_layer(optimizer: torch.optim.Optimizer, model: nn.Module, decay: float) -> None:
    """Give each layer's parameters their own learning rate, before the first step. A parameter that no layer has counts as the lowest's."""
    if decay == 1:
        return
    named = layers(model)
    depth = {parameter: len(named) - 1 - place for place, (_, module) in reversed([*enumerate(named)]) for parameter in module.parameters()}
    groups = []
    for group in optimizer.param_groups:
        shared = {key: value for key, value in group.items() if key != "params"}
        for level in range(len(named)):
            held = [parameter for parameter in group["params"] if depth.get(parameter, len(named) - 1) == level]
            if held:
                groups.append({"params": held, **shared, "lr": group["lr"] * decay**level})
    optimizer.param_groups[:] = groups
