"""A look inside a model at work: does the gradient reach every layer, are the activations alive, where did a number break?

The vanishing gradient (Glorot & Bengio 2010, section 4; He et al. 2015) is visible as weight gradients that shrink from the last layer
to the first, with activations on the flat part of their curve. Hooks are attached for the measured step only, so that every other
step costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.activations import ACTIVATIONS, saturated
from components.training import randomness


class Diagnostics:
    """Gradient norm of each layer's weights and saturated share of each activation, every so many steps.

    Use: `with watch():` around the forward pass (and the backward pass, if you like), then `read()` before the gradients are cleared.

    Args:
        model: the module to look into (not its compiled wrapper).
        every: optimizer steps between two looks; 0 never looks. The first step is always looked at: it shows the initialization.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self.model, self.every = model, every
        self._called: dict[str, int] = {}
        self._saturated: dict[str, tuple[Tensor | int, int]] = {}

    def due(self, step: int) -> bool:
        """Whether optimizer step `step` (from 1) is to be measured."""
        return self.every > 0 and (step % self.every == 0 or step == 1)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Follow the modules' calls while the context is open; forgets what was seen before."""
        self._called.clear()
        self._saturated.clear()
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._on_call, name)))
            if isinstance(module, ACTIVATIONS):
                handles.append(module.register_forward_hook(partial(self._on_activation, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self) -> dict[str, float]:
        """What was measured, layers in the order of their first call.

        Returns:
            `gradients/LAYER`: L2 norm of the gradient of the layer's own weights (trainable parameters with two dimensions or more;
            biases and norm scales say little about depth). A weight that no loss depended on has gradient 0, a frozen one no entry; a
            weight shared by several layers counts for the first.
            `saturation/LAYER`: share of an activation module's outputs (0 … 1, over all its calls) that `components.activations.saturated`
            calls saturated.
            LAYER is the name in `named_modules()`, the class name for the model itself.
        """
        gradients: dict[str, list[float]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.ndim >= 2:
                norm = 0.0 if parameter.grad is None else _norm(parameter.grad)
                gradients.setdefault(name.rpartition(".")[0], []).append(norm)
        values = {f"gradients/{_title(self.model, layer)}": math.hypot(*gradients[layer]) for layer in in_order(gradients, self._called)}
        for layer, (count, elements) in self._saturated.items():
            values[f"saturation/{_title(self.model, layer)}"] = float(count) / max(elements, 1)
        return values

    def _on_call(self, layer: str, _module: nn.Module, _inputs: Any) -> None:
        self._called.setdefault(layer, len(self._called))

    def _on_activation(self, layer: str, module: nn.Module, _inputs: Any, output: Tensor) -> None:
        count, elements = self._saturated.get(layer, (0, 0))
        self._saturated[layer] = (count + saturated(module, output.detach()).sum(), elements + output.numel())


def in_order(layers: Iterable[str], called: Mapping[str, int]) -> list[str]:
    """Layers in the order in which they were first used.

    Args:
        layers: their names, as the model was built.
        called: module → its place among the modules' first calls. A layer whose weights are used without calling it stands where the
            nearest module around it was called; if only the model itself was, behind the layer that was built before it.
    """
    places: dict[str, int] = {}
    last = 0
    for layer in layers:
        around = layer
        while around and around not in called:
            around = around.rpartition(".")[0]
        last = called.get(around, 0) if around or not layer else last
        places[layer] = last
    return sorted(places, key=lambda layer: places[layer])


def first_not_finite(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """The first module, in the order in which they finish (so inner before outer), whose output has a NaN or an infinity.

    Args:
        model: the module to look into.
        run: runs the forward pass; called once, without gradients. Random generators and the model's buffers (running statistics) are
            put back afterwards, so the look leaves no trace.

    Returns:
        Its name in `named_modules()` (the class name for the model itself), or None if every output is finite.
    """
    found: list[str] = []

    def look(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not found and not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
            found.append(_title(model, name))

    generators, generator_values = randomness.capture()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handles = [module.register_forward_hook(partial(look, name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in buffers:
            buffer.copy_(before)
        randomness.restore(generators, generator_values)
    return found[0] if found else None


def _title(model: nn.Module, name: str) -> str:
    return name or type(model).__name__


def _norm(gradient: Tensor) -> float:
    """L2 norm that does not round to 0: the squares of a vanishing float32 gradient (below 1e-23) would."""
    if hasattr(gradient, "full_tensor"):  # each process of several holds a part (components/training/sharding.py)
        gradient = gradient.full_tensor()
    peak = gradient.abs().amax()
    if float(peak) == 0 or not math.isfinite(peak):
        return float(peak)
    return float(peak) * float(torch.linalg.vector_norm(gradient / peak))


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in a module's output, which may be nested tuples, lists and dicts."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
