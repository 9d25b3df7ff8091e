"""Weight initializers: the lecture's rules, walking any module and saying which tensor got what.

A rule turns a weight's fans into a `Law`, the distribution its numbers are drawn from; everything around it is shared:

- **weights** of linear, convolutional, transposed-convolutional and attention layers, and input weights of recurrent ones: the rule's
  law. `fan_in` is how many inputs one output reads, `fan_out` how many outputs one input feeds, kernel positions and groups counted.
  (For transposed convolutions `torch.nn.init` has the two the wrong way round, and for grouped ones its fan_out counts all groups.)
- **stacked weights** are drawn block by block, each on its own fans: query, key and value of an attention layer, the gates of an
  LSTM or GRU.
- **recurrent weights** (`weight_hh*` of any module with a `hidden_size`, in torch's layout): orthogonal, gate by gate, so that the state's
  length is kept from step to step (Saxe et al. 2014).
- **biases**: 0; an LSTM's forget gate `forget_bias`, 1 by default (Gers et al. 2000; Jozefowicz et al. 2015).
- **norms**: scale 1, shift 0. PReLU's slope: 0.25 (He et al. 2015).
- **embeddings**: N(0, `embedding_std`²), 0.02 by default as in BERT and GPT, and 0 in the padding row.
- **ends of steps** in a residual network of N blocks, with `by_depth`: the rule's numbers over √ their number, which is GPT-2's √(2N) in a
  stack of blocks with two steps each.
- **bare parameters** of any other module, by name: `*bias*` 0; `scale*` 1; `weight*` with one dimension 1; `*weight*` with more like
  a linear layer's (out, in, …); every other one with two dimensions or more is a table of vectors, drawn like an embedding.
  Anything else is refused, so nothing keeps numbers that nobody chose.

A tied parameter is set once, under its first name. Numbers are drawn on the generator's device and copied, so the same seed gives the same
weights on any device; on the meta device nothing is drawn, but the report is the same.

**Gain.** He's rules have the rectifier's in their formula and follow the chosen activation (√2 for ReLU, √(2/(1+a²)) for leaky ReLU);
for an activation that the paper says nothing about they keep √2, as Keras does. Glorot and Bengio's formulas have none and neither
do ours. One gain holds for all layers, the last included, as in He et al. 2015.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from annotated_types import Gt
from torch import Tensor, nn

from components.activations import gain
from components.parameters import NORMS, StepEnd, owned_parameters

Positive = Annotated[float, Gt(0)]


class Law(Protocol):
    """What a block of numbers is drawn from; `str(law)` is the law in words."""

    def fill(self, block: Tensor, generator: torch.Generator) -> None:
        """Draw `block` in place."""


@dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:g}"

    def fill(self, block: Tensor, generator: torch.Generator) -> None:  # noqa: ARG002 — the shape that all laws share
        """Set every number to the value."""
        block.fill_(self.value)


@dataclass(frozen=True)
class Uniform:
    """U(−bound, bound)."""

    bound: float

    def __str__(self) -> str:
        return f"U(±{self.bound:.4g})"

    def fill(self, block: Tensor, generator: torch.Generator) -> None:
        """Draw every number by itself."""
        block.uniform_(-self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class Normal:
    """N(0, std²)."""

    std: float

    def __str__(self) -> str:
        return f"N(0, {self.std:.4g}²)"

    def fill(self, block: Tensor, generator: torch.Generator) -> None:
        """Draw every number by itself."""
        block.normal_(0, self.std, generator=generator)


@dataclass(frozen=True)
class OrthogonalMatrix:
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer; dimensions after the first are columns."""

    gain: float

    def __str__(self) -> str:
        return f"orthogonal ×{self.gain:.4g}"

    def fill(self, block: Tensor, generator: torch.Generator) -> None:
        """Draw the matrix as a whole."""
        nn.init.orthogonal_(block, self.gain, generator=generator)


@dataclass(frozen=True)
class Divided:
    """Another law's numbers, divided by √`steps`."""

    law: Law
    steps: int

    def __str__(self) -> str:
        return f"{self.law} / √{self.steps}"

    def fill(self, block: Tensor, generator: torch.Generator) -> None:
        """Draw by the law, then divide."""
        self.law.fill(block, generator)
        block.div_(math.sqrt(self.steps))


@dataclass(frozen=True)
class Fans:
    """How many inputs one output reads, and how many outputs one input feeds."""

    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class _Rule(ABC):
    """What every initializer shares: all but the law of a weight.

    Args:
        embedding_std: standard deviation of embeddings and other tables of vectors.
        forget_bias: what an LSTM's forget gate starts with; its two biases add up to it.
        by_depth: whether weights that end a step of a residual network (`parameters.StepEnd`) are divided by the root of their number.
    """

    embedding_std: Positive = 0.02
    forget_bias: float = 1.0
    by_depth: bool = False

    @abstractmethod
    def law(self, fans: Fans, activation: nn.Module) -> Law:
        """What a weight with these fans is drawn from, in a network of this activation."""

    def initialize(self, model: nn.Module, *, activation: nn.Module, generator: torch.Generator) -> Sequence[tuple[str, str]]:
        """Set every parameter of `model`.

        Args:
            model: any module, on any device.
            activation: one of the network's activations; He's rules take their gain from it.
            generator: the only source of randomness.

        Returns:
            (parameter name, its law in words) for each, in order; tied parameters once, under their first name.

        Raises:
            ValueError: a parameter fits no rule above; it is named, with what would make it fit.
        """
        # Everything is planned before anything is drawn: a refusal leaves the model as it was.
        plans = [(name, parameter, self._plan(name, owner, parameter, activation)) for name, owner, parameter in owned_parameters(model)]
        if self.by_depth:
            ends = {module.weight for module in model.modules() if isinstance(module, StepEnd)}
            plans = [(n, p, [Divided(law, len(ends)) for law in laws] if p in ends else laws) for n, p, laws in plans]
        for _, parameter, laws in plans:
            if not parameter.is_meta:
                _draw(parameter, laws, generator)
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        return [(name, _in_words(laws)) for name, _, laws in plans]

    def _plan(  # noqa: PLR0912 — the module's docstring as code, one case a rule: cutting it up would hide the order
        self, full_name: str, owner: nn.Module, parameter: nn.Parameter, activation: nn.Module
    ) -> list[Law]:
        """The laws of the equal blocks that make up `parameter` along its first dimension: one law, or one for each gate or projection."""
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"cannot initialize {full_name!r} before its shape is known: run one batch through the lazy module first")
        name, shape = full_name.rpartition(".")[2], tuple(parameter.shape)
        laws: list[Law]
        match owner:
            case nn.Embedding() | nn.EmbeddingBag():
                laws = [Normal(self.embedding_std)]
            case nn.PReLU():
                laws = [Constant(0.25)]
            case _ if isinstance(owner, NORMS):
                laws = [Constant(1.0 if name == "weight" else 0.0)]
            case nn.MultiheadAttention() if name in ("bias_k", "bias_v"):  # despite their names, one more key and value
                laws = [Normal(self.embedding_std)]
            case nn.LSTM() | nn.LSTMCell() if name.startswith("bias_ih"):
                laws = [Constant(0.0), Constant(self.forget_bias), Constant(0.0), Constant(0.0)]  # input, forget, cell, output gate
            case _ if "bias" in name:
                laws = [Constant(0.0)]
            case nn.modules.conv._ConvNd() if name == "weight":
                laws = [self.law(_convolution_fans(owner), activation)]
            case nn.Module(hidden_size=int(hidden)) if name.startswith(("weight_ih", "weight_hh")):
                gates = shape[0] // hidden
                law = OrthogonalMatrix(1.0) if name.startswith("weight_hh") else self.law(Fans(shape[1], hidden), activation)
                laws = [law] * gates
            case nn.MultiheadAttention() if name == "in_proj_weight":
                laws = [self.law(Fans(shape[1], shape[0] // 3), activation)] * 3
            case _ if name.startswith("scale") or (name.startswith("weight") and len(shape) < 2):
                laws = [Constant(1.0)]
            case _ if len(shape) >= 2 and "weight" in name:
                positions = math.prod(shape[2:])
                laws = [self.law(Fans(shape[1] * positions, shape[0] * positions), activation)]
            case _ if len(shape) >= 2:
                laws = [Normal(self.embedding_std)]
            case _:
                raise ValueError(
                    f"no rule says how to initialize {full_name!r} of shape {shape} in {type(owner).__name__}: "
                    "call it '…bias…' to start at 0, or 'weight…' or 'scale…' to start at 1"
                )
        return laws


@dataclass(frozen=True, kw_only=True)
class RandomUniform(_Rule):
    """U(−bound, bound), whatever the layer's size.

    Args:
        bound: the largest weight; 0.05 is Keras's default.
    """

    bound: Positive = 0.05

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """The same for every weight."""
        return Uniform(self.bound)


@dataclass(frozen=True, kw_only=True)
class RandomNormal(_Rule):
    """N(0, std²), whatever the layer's size.

    Args:
        std: the standard deviation; 0.05 is Keras's default.
    """

    std: Positive = 0.05

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """The same for every weight."""
        return Normal(self.std)


@dataclass(frozen=True, kw_only=True)
class Xavier(_Rule):
    """U(±1/√fan_in): the heuristic that Glorot and Bengio 2010 start from (equation 1); the variance is 1/(3 fan_in)."""

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """By the inputs alone."""
        return Uniform(1 / math.sqrt(fans.inputs))


@dataclass(frozen=True, kw_only=True)
class NormalizedXavier(_Rule):
    """U(±√6/√(fan_in + fan_out)): Glorot and Bengio 2010, equation 16; Keras's `glorot_uniform`; the variance is 2/(fan_in + fan_out)."""

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """Between keeping the signal's variance and the gradient's."""
        return Uniform(math.sqrt(6 / (fans.inputs + fans.outputs)))


@dataclass(frozen=True, kw_only=True)
class XavierNormal(_Rule):
    """N(0, 2/(fan_in + fan_out)): the variance of Glorot and Bengio 2010, equation 12, drawn normal; Keras's `glorot_normal`, uncut."""

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """Between keeping the signal's variance and the gradient's."""
        return Normal(math.sqrt(2 / (fans.inputs + fans.outputs)))


@dataclass(frozen=True, kw_only=True)
class _He(_Rule):
    """What He's two rules share.

    Args:
        fan: `in` keeps the signal's variance (equation 10), `out` the gradient's (equation 14); the paper found both to work.
    """

    fan: Literal["in", "out"] = "in"

    def _std(self, fans: Fans, activation: nn.Module) -> float:
        rectifier = activation if isinstance(activation, nn.LeakyReLU) else nn.ReLU()
        factor = gain(rectifier)
        assert factor is not None
        return factor / math.sqrt(fans.inputs if self.fan == "in" else fans.outputs)


@dataclass(frozen=True, kw_only=True)
class HeUniform(_He):
    """U(±√3·gain/√fan): He et al. 2015's variance, gain²/fan, as a uniform distribution; Keras's `he_uniform` for ReLU."""

    def law(self, fans: Fans, activation: nn.Module) -> Law:
        """By one of the fans and the rectifier's slope."""
        return Uniform(math.sqrt(3) * self._std(fans, activation))


@dataclass(frozen=True, kw_only=True)
class HeNormal(_He):
    """N(0, gain²/fan): He et al. 2015, equations 10, 14 and 15; Keras's `he_normal`, uncut, for ReLU."""

    def law(self, fans: Fans, activation: nn.Module) -> Law:
        """By one of the fans and the rectifier's slope."""
        return Normal(self._std(fans, activation))


@dataclass(frozen=True, kw_only=True)
class Orthogonal(_Rule):
    """A random orthogonal matrix times `gain` (Saxe et al. 2014): no direction of the signal grows or shrinks.

    Args:
        gain: what every singular value is; the paper gives none for a particular activation.
    """

    gain: Positive = 1.0

    def law(self, fans: Fans, activation: nn.Module) -> Law:  # noqa: ARG002
        """The same for every weight."""
        return OrthogonalMatrix(self.gain)


def _convolution_fans(layer: nn.modules.conv._ConvNd) -> Fans:
    positions = math.prod(layer.kernel_size)
    return Fans(layer.in_channels // layer.groups * positions, layer.out_channels // layer.groups * positions)


def _draw(parameter: nn.Parameter, laws: Sequence[Law], generator: torch.Generator) -> None:
    with torch.no_grad():
        drawn = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
        for block, law in zip(drawn.chunk(len(laws)) if drawn.ndim else [drawn], laws, strict=True):
            law.fill(block, generator)
        parameter.copy_(drawn)


def _in_words(laws: Sequence[Law]) -> str:
    if len(set(laws)) == 1:
        return str(laws[0]) if len(laws) == 1 else f"{len(laws)} blocks of {laws[0]}"
    return ", ".join(str(law) for law in laws)
