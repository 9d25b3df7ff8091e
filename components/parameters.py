"""Whose a parameter is: what both the initializers and weight decay have to ask before they touch one."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Normalizations with a learned scale and shift; `_NormBase` is every batch and instance norm."""


def owned_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """(full name, the module that holds it, parameter), in the order of `named_parameters`: a tied parameter once, by its first name."""
    seen: set[nn.Parameter] = set()
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield f"{place}.{name}" if place else name, module, parameter
