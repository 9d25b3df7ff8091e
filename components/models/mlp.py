"""The multilayer perceptron: linear maps with an activation after each but the last.

    h₀ = x,  hₗ = φ(Wₗ hₗ₋₁ + bₗ),  logits = W h_L + b

The lecture's model for comparing activations, initializers and optimizers: depth and width are all there is to choose.

Shapes: B batch, D inputs (all of `input_shape` in one row), H a hidden layer's width, K classes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from components.protocols import ActivationFactory


class MLP(nn.Module):
    """A multilayer perceptron.

    Args:
        input_shape: shape of one example, such as [1, 28, 28]; it is flattened.
        classes: number of logits.
        hidden: the hidden layers' widths, from the input on; empty for a linear classifier.
        activation: makes the activation after each hidden layer.
        dropout: probability of dropping a hidden unit in training (Srivastava et al. 2014).

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[Annotated[int, Ge(1)]],
        classes: Annotated[int, Ge(1)],
        hidden: Sequence[Annotated[int, Ge(1)]],
        activation: ActivationFactory,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__()
        if min([*input_shape, *hidden, classes]) < 1:
            raise ValueError(f"sizes must be 1 or more: input_shape={list(input_shape)}, hidden={list(hidden)}, classes={classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        widths = [math.prod(input_shape), *hidden]
        # Named by what they are, so that a parameter's name does not depend on whether there is dropout.
        self.layers = nn.Sequential()
        for layer, (before, after) in enumerate(pairwise(widths), start=1):
            self.layers.add_module(f"hidden{layer}", nn.Linear(before, after))
            self.layers.add_module(f"activation{layer}", activation())
            if dropout:
                self.layers.add_module(f"dropout{layer}", nn.Dropout(dropout))
        self.layers.add_module("output", nn.Linear(widths[-1], classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) → logits (B, K)."""
        logits: Tensor = self.layers(inputs.flatten(1))  # (B, D) → (B, H) → … → (B, K)
        return logits
