"""The lecture's optimizers behind one shape: a rule's numbers under their textbook names, and `build(model)`.

The rules are `torch.optim`'s; `tests/test_optimizers.py` checks their steps against the papers' formulas. Notation: θ parameters,
g gradient, η learning rate, all operations element by element.

**Weight decay** holds for every parameter with two dimensions or more (weights of linear and convolutional layers, recurrent weights,
embeddings and other tables of vectors, as in BERT and nanoGPT), and not for those with fewer (biases, scales) nor for any parameter
of a normalization, whatever its shape. In all rules but AdamW it is the L2 penalty's gradient, g + λθ, which the rule then scales
like the rest of the gradient; AdamW shrinks θ by ηλθ beside the rule's own step (Loshchilov and Hutter 2019).

**Fused kernels** (one pass over the memory for the whole update) are taken on CPU and CUDA wherever torch has one that pays. Measured
with torch 2.14 on two CPU cores, microseconds a step for an MLP 32-64-64-10 and for 784-256-128-10, torch's default against fused:
momentum 61 → 39 and 108 → 64, Adagrad 121 → 60 and 288 → 131, Adam 191 → 72 and 459 → 170. Plain gradient descent gains nothing
(28 → 33, 47 → 50). For the same reason there are two parameter groups only where weight decay makes a difference between them.

**No compiler.** torch wraps its optimizers' methods for `torch.compile`, and the first call of any imports the whole compiler, which
takes longer than importing the rest of torch, and every later call goes through the wrapper. What is built here are subclasses with
the bare methods: the same arithmetic, bit for bit. The optimizer's step is never compiled by the lab, so nothing is lost by it.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

from components.parameters import NORMS, owned_parameters

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Average = Annotated[float, Ge(0), Lt(1)]
"""The weight of the past in a running average or sum, in [0, 1)."""


def decays(model: nn.Module) -> dict[str, bool]:
    """Parameter name → whether weight decay holds for it; the rule is this module's docstring's."""
    return {name: parameter.ndim >= 2 and not isinstance(owner, NORMS) for name, owner, parameter in owned_parameters(model)}


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """θ ← θ − η g, with g from one batch (stochastic gradient descent).

    Args:
        learning_rate: η.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.1
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        return _eager(torch.optim.SGD)(_groups(model, self.weight_decay), lr=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """v ← μv + g, θ ← θ − ηv (Polyak 1964, the heavy ball; the textbook's v ← μv + ηg is the same while η stays the same).

    Args:
        learning_rate: η.
        momentum: μ, the part of the velocity that is kept.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.05
    momentum: Average = 0.9
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        groups = _groups(model, self.weight_decay)
        return _eager(torch.optim.SGD)(groups, lr=self.learning_rate, momentum=self.momentum, fused=_fused(model))


@dataclass(frozen=True, kw_only=True)
class Nesterov:
    """v ← μv + g, θ ← θ − η(g + μv): the gradient is taken where the velocity is about to carry θ.

    Nesterov 1983 in the form of Sutskever et al. 2013, equations 3 and 4, with the looked-ahead point itself kept as θ.

    Args:
        learning_rate: η.
        momentum: μ, the part of the velocity that is kept; above 0.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.05
    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        groups = _groups(model, self.weight_decay)
        return _eager(torch.optim.SGD)(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=True, fused=_fused(model))


@dataclass(frozen=True, kw_only=True)
class Adagrad:
    """G ← G + g², θ ← θ − η g / (√G + ε) (Duchi et al. 2011). G only grows, so the steps shrink until they stop.

    Args:
        learning_rate: η.
        epsilon: ε.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.01
    epsilon: Positive = 1e-10
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        groups = _groups(model, self.weight_decay)
        return _eager(torch.optim.Adagrad)(groups, lr=self.learning_rate, eps=self.epsilon, fused=_fused(model))


@dataclass(frozen=True, kw_only=True)
class Adadelta:
    """E[g²] ← ρE[g²] + (1−ρ)g², Δ = g·√(E[Δ²]+ε) / √(E[g²]+ε), θ ← θ − ηΔ, E[Δ²] ← ρE[Δ²] + (1−ρ)Δ² (Zeiler 2012, algorithm 1).

    A mean of squares in Adagrad's place, and steps in the parameter's own unit; the paper has no learning rate, which is η = 1.

    Args:
        learning_rate: η; 1 is the paper's.
        rho: ρ, the weight of the past in both means.
        epsilon: ε.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 1.0
    rho: Average = 0.95
    epsilon: Positive = 1e-6
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        return _eager(torch.optim.Adadelta)(_groups(model, self.weight_decay), lr=self.learning_rate, rho=self.rho, eps=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class RMSprop:
    """E[g²] ← ρE[g²] + (1−ρ)g², θ ← θ − η g / (√E[g²] + ε) (Tieleman and Hinton 2012, Coursera lecture 6e).

    Args:
        learning_rate: η.
        decay: ρ, the weight of the past in the mean; 0.9 is the lecture's.
        epsilon: ε.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.001
    decay: Average = 0.9
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        return _eager(torch.optim.RMSprop)(_groups(model, self.weight_decay), lr=self.learning_rate, alpha=self.decay, eps=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − η m̂ / (√v̂ + ε), m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ) (Kingma and Ba 2015, algorithm 1).

    Args:
        learning_rate: η.
        beta1: β₁, the weight of the past in the mean of gradients (the momentum).
        beta2: β₂, the weight of the past in the mean of squares.
        epsilon: ε.
        weight_decay: λ of the L2 penalty.
    """

    learning_rate: Positive = 0.001
    beta1: Average = 0.9
    beta2: Average = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        groups, betas = _groups(model, self.weight_decay), (float(self.beta1), float(self.beta2))
        return _eager(torch.optim.Adam)(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, fused=_fused(model))


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay: θ ← θ − ηλθ beside Adam's own step (Loshchilov and Hutter 2019, algorithm 2).

    Args:
        learning_rate: η.
        beta1: β₁, the weight of the past in the mean of gradients (the momentum).
        beta2: β₂, the weight of the past in the mean of squares.
        epsilon: ε.
        weight_decay: λ.
    """

    learning_rate: Positive = 0.001
    beta1: Average = 0.9
    beta2: Average = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.01

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the model's trainable parameters; ValueError if there are none."""
        groups, betas = _groups(model, self.weight_decay), (float(self.beta1), float(self.beta2))
        return _eager(torch.optim.AdamW)(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, fused=_fused(model))


@cache
def _eager(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The torch optimizer class `kind` without what torch puts around its methods for the compiler."""
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "__module__": kind.__module__, **bare, "step": step})


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups that hold something: decayed and undecayed, or all in one where no weight decay is asked for."""
    decayed = decays(model)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameter to optimize")
    if weight_decay == 0:
        return [_group(trainable.values(), 0.0)]
    groups = (
        _group((parameter for name, parameter in trainable.items() if decayed[name]), weight_decay),
        _group((parameter for name, parameter in trainable.items() if not decayed[name]), 0.0),
    )
    return [group for group in groups if group["params"]]


def _group(parameters: Iterable[nn.Parameter], weight_decay: float) -> dict[str, Any]:
    return {"params": list(parameters), "weight_decay": weight_decay}


def _fused(model: nn.Module) -> bool | None:
    """True where every parameter is on a device whose fused kernels are known to agree; None leaves the choice to torch."""
    return True if all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in model.parameters()) else None
