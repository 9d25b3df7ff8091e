"""Pictures of any transformer that says where it looks (`attentions`) and has learned places: shared by the objectives that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.layers.positions import Learned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def transformer_pictures(model: nn.Module, inputs: Tensor, words: Sequence[str]) -> dict[str, Figure]:
    """`attention` over one text by layer and head, and `positions`: how like each other learned places are. What there is of it.

    Args:
        model: in evaluation mode.
        inputs: (1, T) the text's tokens.
        words: how they are written.
    """
    from components.figures.attention import attention_maps, positions

    figures: dict[str, Figure] = {}
    if hasattr(model, "attentions"):
        with torch.no_grad():
            figures["attention"] = attention_maps(words, torch.cat(model.attentions(inputs)))  # type: ignore[operator]
    learned = next((module for module in model.modules() if isinstance(module, Learned)), None)
    if learned is not None and len(learned.table.weight) > 1:
        figures["positions"] = positions({"learned": learned.table.weight.detach()})
    return figures
