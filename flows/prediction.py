"""A finished run's model, asked about things that people give it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.errors import DataError, RequestError
from components.protocols import DataSet
from flows.config.build import build
from flows.parts import load_model


def predict_each(folder: Path, given: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """The model's answer to each of `given` (files of pictures; texts, or files of text), or the DataError that says why there is none.

    An answer is the objective's: for classification `answers`, the likeliest classes with their probabilities; for translation and language
    models `text`. Everything needed, the vocabulary too, comes from the run itself, none of it from the prepared data.
    """
    if not (folder / "model").is_dir():
        raise RequestError(f"{folder.name} has no model yet: finish it first (lab train --resume {folder.name})")
    loaded = load_model(folder / "model")
    reader: DataSet = build(loaded.config["data"])
    for one in given:
        try:
            yield one, loaded.objective.answer(loaded.model, reader.read(one, loaded.data["facts"]))
        except DataError as error:
            yield one, error
