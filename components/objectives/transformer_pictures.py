"""Pictures of any transformer that says where it looks (`attentions`) and has learned places: shared by the objectives that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.data.tokens import Vocabulary
from components.layers.positions import Learned
from components.protocols import Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN_TOKENS = 40
"""Of a longer text the beginning is shown."""


def pictures_of(model: nn.Module, split: Split, vocabulary: Vocabulary) -> dict[str, Figure]:
    """The pictures of `transformer_pictures` for the beginning of what is read of the split's first example."""
    batch = split.batch(torch.tensor([0]))
    read = min(int(batch["lengths"][0]), SHOWN_TOKENS)
    inputs = batch["inputs"][:1, :read]
    segments = batch["segments"][:1, :read] if "segments" in batch else None
    return transformer_pictures(model, inputs, vocabulary.tokens(inputs[0].tolist()), segments)


def transformer_pictures(model: nn.Module, inputs: Tensor, words: Sequence[str], segments: Tensor | None = None) -> dict[str, Figure]:
    """`attention` over one text by layer and head, and `positions`: how like each other learned places are. What there is of it.

    Of an encoder with a decoder both are the encoder's.

    Args:
        model: in evaluation mode.
        inputs: (1, T) the text's tokens.
        words: how they are written.
        segments: (1, T), where the model is told which text a token belongs to.
    """
    from components.figures.attention import attention_maps, positions

    figures: dict[str, Figure] = {}
    if hasattr(model, "attentions"):
        told = {} if segments is None else {"segments": segments}
        with torch.no_grad():
            figures["attention"] = attention_maps(words, torch.cat(model.attentions(inputs, **told)))  # type: ignore[operator]
    learned = next((module for module in model.modules() if isinstance(module, Learned)), None)
    if learned is not None and learned.places > 1:
        figures["positions"] = positions({"learned": learned.table.weight[-learned.places :].detach()})
    return figures
