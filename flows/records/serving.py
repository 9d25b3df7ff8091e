"""Loads a run's model folder behind MLflow's pyfunc: named as `loader_module` in every logged model (docs/adr/0007).

A logged model carries the lab's code as it was, and MLflow imports this module from there when the lab itself is not installed. So
nothing is imported here before it is needed, and MLflow not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES_AT_ONCE = 256


class Served:
    """A trained model that takes and gives arrays.

    Args:
        model: the torch module, in evaluation mode.
        input_shape: the shape of one example.
    """

    def __init__(self, model: Any, input_shape: tuple[int, ...]) -> None:
        self._model, self._input_shape = model, input_shape

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:  # noqa: ARG002 — pyfunc's signature
        """The model's outputs (for a classifier its logits, (B, classes)).

        Args:
            model_input: (B, *input_shape) float32 array, or a data frame of one example a row, its columns in row-major order.
            params: not used.
        """
        import numpy as np
        import torch

        array = np.asarray(model_input, dtype=np.float32).reshape(-1, *self._input_shape)
        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(array)), EXAMPLES_AT_ONCE)
            return torch.cat([self._model(part) for part in parts]).float().cpu().numpy()


def _load_pyfunc(data_path: str) -> Served:
    """MLflow's entry point; `data_path` is the model folder (model.safetensors, config.json, data.json)."""
    from flows.parts import load_model

    loaded = load_model(Path(data_path))
    return Served(loaded.model.eval(), tuple(loaded.data["facts"]["input_shape"]))
