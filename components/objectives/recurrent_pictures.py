"""The picture of any recurrent model that hands out its gates: shared by the objectives that draw it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gates_picture(model: Any, inputs: Tensor, words: Sequence[str]) -> Figure:
    """The gates of the first layer, in each direction that it reads, over one text.

    Args:
        model: one of `components.layers.sequence_model`, in evaluation mode.
        inputs: (1, T) the text's tokens.
        words: how they are written.
    """
    from components.figures.sequences import gate_traces

    with torch.no_grad():
        found = model.gates(inputs)
    cell = model.recurrent.cell
    first = [{name: gate[0].cpu() for name, gate in gates.items()} for gates in found[: 2 if cell.bidirectional else 1]]
    return gate_traces(words, first, layers=cell.num_layers)
