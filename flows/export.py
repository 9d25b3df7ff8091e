"""A trained model as a folder in Hugging Face's layout, for other programs."""

from __future__ import annotations

from pathlib import Path

from components.errors import CheckpointError, RequestError
from components.hugging_face import exchange, folder
from flows import runs
from flows.lab.settings import Settings
from flows.parts import load_model
from flows.pretrained import arguments_of


def export(address: str, into: Path, settings: Settings) -> tuple[str, list[str]]:
    """Write the model at `address` (see `runs.model_folder`) as the new folder `into`.

    Returns:
        The class that reads it in `transformers`, and the tensors in the folder that have no place in that class: they are there for
        `pretrained=hf:` only.

    Raises:
        RequestError: there is no such model, that layout has nothing like it, or the folder is there already.
        CheckpointError: the folder cannot be written.
    """
    if into.exists():
        raise RequestError(f"{into} exists already: choose another name")
    _, path = runs.model_folder(address, settings)
    loaded = load_model(path)
    arguments = arguments_of(loaded.config, loaded.data["facts"])
    vocabulary = loaded.data["facts"].get("vocabulary")
    try:
        made = exchange.checkpoint(loaded.config["model"]["_target_"], loaded.model.state_dict(), arguments, vocabulary)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    folder.write(into, made)
    reader = str(made.config["architectures"][0])
    return reader, sorted(exchange.heads(loaded.config["model"]["_target_"], made.tensors, arguments)) if reader.endswith("Model") else []
