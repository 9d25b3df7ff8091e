"""A checkpoint in Hugging Face's layout as weights of one of our models, and the other way round.

A model is known by its dotted path and `arguments`: what its constructor was given, the facts of the data too, and its activation's name.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from components.errors import CheckpointError
from components.hugging_face.architectures import architecture, architecture_of, head_rules
from components.hugging_face.folder import Checkpoint

DECIDES = ("vocabulary_size", "context", "segments", "channels", "heads", "expansion", "epsilon", "activation")
"""What has to be the same on both sides for weights to mean the same. A model may have fewer layers: the first ones."""


def activation_name(activation: nn.Module) -> str:
    """What an activation is called here: `gelu`, `gelu_tanh`, `relu`, or its class's name."""
    if isinstance(activation, nn.GELU):
        return "gelu" if activation.approximate == "none" else "gelu_tanh"
    return type(activation).__name__.lower()


def activation_factory(name: str) -> Callable[[], nn.Module]:
    """What makes the activation that `activation_name` calls so; CheckpointError when none of those of a checkpoint is."""
    factories: dict[str, Callable[[], nn.Module]] = {
        "gelu": nn.GELU,
        "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
        "relu": nn.ReLU,
    }
    if name not in factories:
        raise CheckpointError(f"the activation {name} has no name in Hugging Face's layout")
    return factories[name]


def weights(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, for a model made with `arguments`; CheckpointError when we have no such architecture."""
    return architecture(checkpoint.config).ours(checkpoint.tensors, arguments)


def differences(checkpoint: Checkpoint, target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the model has to be made with for the checkpoint's weights to mean the same in it, where it is not: parameter → value.

    `_target_` is the only one when the checkpoint is of another architecture. Raises CheckpointError when it is of none that we have.
    """
    theirs = architecture(checkpoint.config)
    if theirs.target != target:
        return {"_target_": theirs.target}
    wanted = theirs.arguments(checkpoint.config)
    return {name: wanted[name] for name in DECIDES if name in wanted and wanted[name] != arguments.get(name)}


def heads(target: str, theirs: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> set[str]:
    """Which of a checkpoint's tensors are a head's, and no part of the bare model."""
    return {rule.theirs for rule in head_rules(architecture_of(target).model_type, arguments)} & theirs.keys()


def checkpoint(target: str, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], tokenizer: str | None = None) -> Checkpoint:
    """Our model as others keep it.

    Args:
        target: our model's dotted path.
        tensors: its `state_dict`.
        arguments: what it was made with; `class_names` may be among them.
        tokenizer: its vocabulary as `tokenizer.json`.

    Raises:
        CheckpointError: Hugging Face's layout has nothing like it.
    """
    ours = architecture_of(target)
    if not arguments.get("biases", True):
        tensors = with_biases(tensors)
    return Checkpoint(ours.configuration(arguments), ours.theirs(tensors, arguments), tokenizer)


def with_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model without biases, and zeros for those of its layers and norms: the same function in a layout that has them."""
    layers = [name for name in tensors if name.endswith(".weight") and (name.startswith("blocks.") or name.split(".")[-2].endswith("norm"))]
    return {**tensors, **{f"{name.removesuffix('weight')}bias": tensors[name].new_zeros(len(tensors[name])) for name in layers}}
