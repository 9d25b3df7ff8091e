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


class ServedTokens:
    """A trained model that takes token numbers, in the vocabulary of its data (`vocabulary` among the facts in data.json), 0 as padding.

    Args:
        answer: (B, T) tokens, (B,) lengths → array-like answers: logits, or the tokens of a translation.
    """

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> NDArray[Any]:  # noqa: ARG002 — pyfunc's signature
        """The model's answers.

        Args:
            model_input: (B, T) int64 array, padded with 0 behind each text's end.
            params: not used.
        """
        import numpy as np
        import torch

        tokens = torch.from_numpy(np.ascontiguousarray(np.asarray(model_input, dtype=np.int64)))
        lengths = (tokens != 0).sum(1).clamp(min=1)
        with torch.inference_mode():
            answers: NDArray[Any] = self._answer(tokens, lengths).cpu().numpy()
        return answers


class ServedDetector:
    """A trained detector that takes pictures, normalised as its data were, and gives boxes.

    Args:
        detect: (B, *input_shape) pictures → for each the detections.
    """

    def __init__(self, detect: Any) -> None:
        self._detect = detect

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:  # noqa: ARG002 — pyfunc's signature
        """(B, D, 6) float32: class, probability, left, top, right, bottom in pixels; rows of −1 behind a picture's last.

        Args:
            model_input: (B, *input_shape) float32 array.
            params: not used.
        """
        import numpy as np
        import torch

        found = self._detect(torch.from_numpy(np.ascontiguousarray(np.asarray(model_input, dtype=np.float32))))
        rows = np.full((len(found), max((len(each) for each in found), default=0), 6), -1, dtype=np.float32)
        for place, each in enumerate(found):
            parts = (each.labels.float().unsqueeze(1), each.scores.unsqueeze(1), each.boxes)
            rows[place, : len(each)] = torch.cat(parts, dim=1).cpu().numpy()
        return rows


def _load_pyfunc(data_path: str) -> Served | ServedTokens | ServedDetector:
    """MLflow's entry point; `data_path` is the model folder (model.safetensors, config.json, data.json)."""
    from flows.parts import load_model

    loaded = load_model(Path(data_path))
    model, facts = loaded.model.eval(), loaded.data["facts"]
    objective: Any = loaded.objective
    if facts.get("predicts") == "boxes":
        return ServedDetector(lambda pictures: objective.detect(model, objective.propose({"inputs": pictures})))
    if "target_vocabulary" in facts:
        return ServedTokens(lambda tokens, lengths: objective.write(model, {"inputs": tokens, "lengths": lengths}))
    if hasattr(objective, "served"):
        return ServedTokens(lambda tokens, lengths: objective.served(model, tokens, lengths).float())
    if "vocabulary_size" in facts:
        return ServedTokens(lambda tokens, lengths: model(tokens, lengths).float())
    return Served(model, tuple(facts["input_shape"]))
