"""A trained model, a run's or a registered one, asked about things that people give it."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.errors import DataError, LabError, RequestError, RunError
from components.protocols import Batch, DataSet
from flows.config.build import build, validate
from flows.config.overrides import parse
from flows.parts import Loaded, load_model, write_json

LONGEST_NAME = 255 - len(".") - len(".json.part")
"""Bytes of an answer's name: common file systems take 255, and its JSON is written under a longer name first."""


def predict_each(
    folder: Path, given: Iterable[str], settings: Iterable[str] = (), *, tell: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, dict[str, Any] | LabError]]:
    """What the model in `folder` answers to each of `given` (files of pictures; texts, or files of text), or why it cannot.

    `settings` (`objective.temperature=0.5`) change how it answers, and nothing that it has learned.

    An answer is the objective's: for classification `answers`, the likeliest classes with their probabilities; for translation, summaries
    and language models `text`; for detection `objects`. `truncated` is true where only the first `tokens_read` of a text's `tokens` were
    read, as in training. Everything needed, the vocabulary too, comes from the model folder, none of it from the prepared data. Where a
    model reads pictures, a folder stands for all files in it; `tell` gets one line where there are folders in it, which are left out.
    """
    loaded = _loaded(folder, settings)
    reader: DataSet = build(loaded.config["data"])
    of_pictures = "vocabulary" not in loaded.data["facts"]
    inner = 0
    for some in given:
        try:
            every, folders = _files(some) if of_pictures else ([some], 0)
            inner += folders
        except RequestError as error:
            yield some, error
            continue
        for one in every:
            try:
                yield one, _answer(loaded, reader.read(one, loaded.data["facts"]))
            except (DataError, RequestError) as error:
                yield one, error
    if inner:
        many = f"{inner:,} folders inside were not looked into: name them" if inner > 1 else "1 folder inside was not looked into: name it"
        tell(f"{many}, too, if the files in there are to be answered")


def _answer(loaded: Loaded, batch: Batch) -> dict[str, Any]:
    tokens, read = batch.pop("truncated", (0, 0))
    answer = loaded.objective.answer(loaded.model, batch)
    return answer | ({"truncated": True, "tokens": tokens, "tokens_read": read} if tokens else {})


def _loaded(folder: Path, settings: Iterable[str]) -> Loaded:
    """The model, answering by other settings of its objective.

    Raises:
        RequestError: a setting is no `objective.KEY=VALUE`.
        ConfigError: the objective has no such key, or not with this value.
    """
    loaded = load_model(folder)
    changed = dict(loaded.config["objective"])
    for setting in settings:
        key, value = parse(setting)
        section, _, name = key.partition(".")
        if section != "objective" or not name:
            raise RequestError(f"--set takes objective.KEY=VALUE, not {setting!r}: everything else is as the model was trained")
        changed[name] = value
    config = validate({**loaded.config, "objective": changed})
    return replace(loaded, objective=build(config["objective"], "objective", **loaded.data["facts"]), config=config)


def _files(given: str) -> tuple[list[str], int]:
    """A folder's files, in order, also links that lead nowhere, and how many folders are in it; anything else as it is."""
    path = Path(given).expanduser()
    if not given.strip():
        raise RequestError("there is nothing to answer: the file's name is empty")
    if not path.is_dir():
        return [given], 0
    try:
        seen = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror})") from error
    found = [str(each) for each in seen if each.is_file() or (each.is_symlink() and not each.exists())]
    if not found:
        raise RequestError(f"{path} has only folders in it: name one of them" if seen else f"{path} is an empty folder")
    return found, sum(each.is_dir() for each in seen)


def write_objects(given: str, answer: dict[str, Any], into: Path, *, taken: Container[str] = ()) -> Path:
    """Write the picture `given` with the boxes of a detector's answer, and the answer as JSON beside it; returns the picture's path.

    The folder is made; names are the given file's with .png and .json behind, so that a.jpg and a.png do not meet. Where another file has
    the name already (`taken`), its folder's name comes first, and a number where that is not enough. A name that is too long for a file
    system loses its middle.

    Raises:
        DataError: the picture cannot be read any more.
        RunError: the disk does not take it.
    """
    from components.data.pictures import open_picture_file
    from components.figures.detection import annotated

    source = Path(given).expanduser()
    picture = annotated(open_picture_file(source), answer["objects"])
    longer = f"{source.absolute().parent.name}-{source.name}"
    names = itertools.chain([source.name, longer], (f"{number}-{source.name}" for number in itertools.count(2)))
    name = next(name for name in map(_fitting, names) if name not in taken)
    target = into / f"{name}.png"
    try:
        into.mkdir(parents=True, exist_ok=True)
        picture.save(target)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}") from error
    readable = os.fsencode(given).decode("utf-8", "replace")  # a file's name may be no UTF-8
    write_json(into / f"{name}.json", {"given": readable, "size": [picture.height, picture.width], **answer})
    return target


def _fitting(name: str) -> str:
    """A file's name, if it is too long with its beginning, a hash of the whole, and its ending; those of different names differ."""
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    suffix = Path(name).suffix if len(os.fsencode(Path(name).suffix)) <= LONGEST_NAME // 2 else ""
    end = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{suffix}"
    begin = name
    while len(os.fsencode(begin + end)) > LONGEST_NAME:
        begin = begin[:-1]
    return begin + end


def stream(folder: Path, given: str, settings: Iterable[str] = ()) -> Iterator[str] | None:
    """How a language model goes on with a text, piece by piece as it is drawn; None where the model is of another kind.

    `settings` as for `predict_each`.

    Raises:
        RequestError: `given` cannot be read.
    """
    loaded = _loaded(folder, settings)
    if not hasattr(loaded.objective, "stream"):
        return None
    reader: DataSet = build(loaded.config["data"])
    try:
        batch = reader.read(given, loaded.data["facts"])
    except DataError as error:
        raise RequestError(str(error)) from error
    pieces: Iterator[str] = loaded.objective.stream(loaded.model, batch)
    return pieces
