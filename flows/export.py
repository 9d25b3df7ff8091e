"""A trained model as a folder in Hugging Face's layout, for other programs."""

from __future__ import annotations

from pathlib import Path

from components.hugging_face import exchange, folder
from flows import runs
from flows.lab.settings import Settings
from flows.parts import load_model
from flows.pretrained import arguments_of


def export(address: str, into: Path, settings: Settings) -> str:
    """Write the model at `address` (see `runs.model_folder`) as the new folder `into`; returns the class that reads it in `transformers`.

    Raises:
        RequestError: there is no such model.
        CheckpointError: that layout has nothing like it, or the folder is there already.
    """
    _, path = runs.model_folder(address, settings)
    loaded = load_model(path)
    arguments = arguments_of(loaded.config, loaded.data["facts"])
    vocabulary = loaded.data["facts"].get("vocabulary")
    made = exchange.checkpoint(loaded.config["model"]["_target_"], loaded.model.state_dict(), arguments, vocabulary)
    folder.write(into, made)
    return str(made.config["architectures"][0])
