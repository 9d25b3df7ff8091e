"""What the tests of flows/records share: a run folder's content as a trainer leaves it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from flows.records.journal import Journal

CONFIG: dict[str, Any] = {
    "name": "mlp_digits",
    "description": "Two hidden layers on 8×8 digits",
    "seed": 7,
    "pretrained": None,
    "tags": ["lecture"],
    "model": {"_target_": "components.models.mlp.MLP", "hidden": [64, 32], "dropout": 0.1},
    "data": {"_target_": "components.data.images.Digits"},
    "objective": {"_target_": "components.objectives.classification.Classification", "label_smoothing": 0.0},
    "optimizer": {"_target_": "components.optimizers.Adam", "learning_rate": 0.001},
    "schedule": {"_target_": "components.schedules.Constant"},
    "activation": {"_target_": "torch.nn.ReLU", "_partial_": True},
    "initializer": {"_target_": "components.initializers.HeUniform"},
    "trainer": {"_target_": "components.training.settings.Trainer", "epochs": 3},
}
DATA = {
    "name": "digits",
    "fingerprint": "0123456789abcdef" * 4,
    "card": {"source": "scikit-learn", "licence": "BSD-3", "counts": {"train": 1400, "test": 397}, "facts": {"input_shape": [1, 8, 8]}},
}


def begin(journal: Journal, **changes: Any) -> None:
    """What a trainer says first."""
    journal.event(
        "started",
        run=journal.folder.name,
        config={**CONFIG, **changes},
        code={"commit": "a" * 40, "dirty": True},
        versions={"python": "3.11.7", "torch": "2.14.1"},
        machine={"threads": 2},
        pid=1,
    )
    journal.event("data", **DATA)
    journal.event("model", device="cpu", parameters=1234, text="MLP()")


def train(journal: Journal, first: int, last: int) -> None:
    """Steps `first` to `last` (inclusive): two series a step."""
    for step in range(first, last + 1):
        journal.metrics({"train/loss": 1 / step, "train/learning_rate": 0.001}, step=step, epoch=step / 10)


def result(journal: Journal, *, accuracy: float = 0.9, step: int = 20) -> None:
    """What a trainer says last."""
    journal.event(
        "result",
        metrics={"validation/accuracy": accuracy, "test/accuracy": 0.85},
        monitor=["accuracy", "max", accuracy],
        weights_sha256="f" * 64,
        best_step=step,
        seconds=1.5,
    )


def picture() -> Figure:
    """A small figure."""
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


def model_folder(folder: Path, scale: float = 1.0) -> Path:
    """A model folder whose weights are two numbers; nothing can be built from it."""
    (folder / "model").mkdir(exist_ok=True)
    save_file({"weight": np.array([scale, 2.0], dtype=np.float32)}, folder / "model" / "model.safetensors")
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model" / "data.json").write_text(json.dumps({**DATA, "facts": {"input_shape": [1, 8, 8], "classes": 10}}))
    return folder / "model"
