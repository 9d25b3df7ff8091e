"""The lecture's activations, and what the rest of the lab has to know about any of them: the gain and when it saturates.

The activations themselves are torch's: sigmoid, tanh, ReLU, leaky ReLU, ELU, GELU. A model gets a factory that makes one module
for every place that needs one, so each place can be watched by itself.
"""

import math

import torch
from torch import Tensor, nn

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU)
"""Every activation that can be chosen; `isinstance(module, ACTIVATIONS)` finds them inside any model."""


def gain(activation: nn.Module) -> float | None:
    """What the standard deviation of the weights before `activation` is multiplied with, where a source says so; else None.

    - ReLU √2: half of the signal's variance is lost (He et al. 2015, equation 10).
    - Leaky ReLU √(2 / (1 + slope²)) (He et al. 2015, equation 15).
    - Tanh 5/3: the recommended tanh is 1.7159·tanh(2x/3) (LeCun et al. 1998, "Efficient BackProp"), which `torch.nn.init.calculate_gain`
      carries over as 5/3.
    - Sigmoid 1: `torch.nn.init.calculate_gain` lists it so; identity 1, by definition.
    - ELU and GELU: their papers (Clevert et al. 2016; Hendrycks and Gimpel 2016) give none, and none is made up here.
    """
    match activation:
        case nn.ReLU():
            return math.sqrt(2)
        case nn.LeakyReLU(negative_slope=slope):
            return math.sqrt(2 / (1 + slope**2))
        case nn.Tanh():
            return 5 / 3
        case nn.Sigmoid() | nn.Identity():
            return 1.0
        case _:
            return None


def saturated(activation: nn.Module, output: Tensor, fraction: float = 0.05) -> Tensor:
    """Where `activation` nearly stops the gradient: its slope there is below `fraction` of its largest slope.

    The slope is read from the output alone: sigmoid y(1−y), at most 1/4; tanh 1−y²; ReLU 0 where y = 0; ELU y+α on the negative side.
    Leaky ReLU never saturates: its slope stays the same however far below 0. GELU's cannot be told from its output, which is not
    monotone: it is said never to saturate.

    Args:
        activation: one of `ACTIVATIONS`.
        output: what it returned, any shape.
        fraction: in (0, 1); 0.05 means |tanh| > 0.975, sigmoid outside [0.0127, 0.9873].

    Returns:
        bool, the shape of `output`.

    Raises:
        ValueError: `activation` is of another kind.
    """
    match activation:
        case nn.Sigmoid():
            return output * (1 - output) < fraction / 4
        case nn.Tanh():
            return 1 - output * output < fraction
        case nn.ReLU():
            return output <= 0
        case nn.ELU(alpha=alpha):
            return (output < 0) & (output + alpha < fraction * max(1.0, alpha))
        case nn.LeakyReLU() | nn.GELU():
            return torch.zeros_like(output, dtype=torch.bool)
        case _:
            names = ", ".join(kind.__name__ for kind in ACTIVATIONS)
            raise ValueError(f"cannot tell when {type(activation).__name__} saturates: known are {names}")
