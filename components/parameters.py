"""Whose a parameter is: what both the initializers and weight decay have to ask before they touch one, and what else they have to know."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Normalizations with a learned scale and shift; `_NormBase` is every batch and instance norm."""


class StepEnd(nn.Linear):
    """A linear layer whose result is added to what came in: the end of a residual network's step.

    The more such steps, the larger the sum; an initializer may begin with smaller ones (GPT-2, Radford et al. 2019).
    """


def owned_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """(full name, the module that holds it, parameter), in the order of `named_parameters`: a tied parameter once, by its first name."""
    seen: set[nn.Parameter] = set()
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield f"{place}.{name}" if place else name, module, parameter
