"""Prepared data: immutable folders named by what decides their content.

A data set's recipe (its sources' hashes and every setting that matters) gives the fingerprint before any work is done, so what is
already there is found without touching a source. The folder appears by one rename when all of it is written and synced; its
`card.json` says what it is. Of several who want the same data at once, one prepares them and the others wait for those.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.data.durable import publish, scratch, sha256_of, turn
from components.errors import DataError, OwnDataError, SourceError
from components.protocols import DataSet, Fetch, Split

CARD = "card.json"


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to be served.

    Attributes:
        name: the data set's name.
        fingerprint: SHA-256 of its recipe, in hex.
        folder: where its files are.
        card: source, licence, counts and everything else there is to say about it, as JSON values.
        facts: what models and objectives need to know of it: `input_shape`, `classes`, `class_names` …
        splits: `train`, `validation`, `test`.
    """

    name: str
    fingerprint: str
    folder: Path
    card: Mapping[str, Any]
    facts: Mapping[str, Any]
    splits: Mapping[str, Split]


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a recipe of JSON values: the same for the same content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def prepare(
    dataset: DataSet,
    root: Path,
    fetch: Fetch,
    *,
    progress: Callable[[str], None] | None = None,
    first: Callable[[], None] | None = None,
) -> Prepared:
    """The prepared data set, from `root`/name/fingerprint if it is there and whole, else prepared now.

    Args:
        dataset: what to prepare.
        root: the folder of all prepared data.
        fetch: brings source files.
        progress: told in one line when work begins and when it is done; silent when nothing had to be done.
        first: called before work begins; what it raises is passed on.

    Raises:
        SourceError: a source cannot be had, or the disk is full. Nothing half-written is left.
        DataError: a source is not what it should be.
        OwnDataError: the user's own files are not what they should be.
    """
    with _judged(dataset):
        recipe = dataset.recipe()
    mark = fingerprint(recipe)
    folder = root / dataset.name / mark
    if _fault(folder, mark) is None:
        return _open(dataset, folder, mark)
    tell = progress or (lambda _: None)
    with turn(folder.parent, lambda: tell(f"waiting for {dataset.name}: somebody else is preparing it")):
        if _fault(folder, mark) is not None:
            if first is not None:
                first()
            tell(f"preparing {dataset.name}")
            seconds = _prepare(dataset, folder, recipe, mark, fetch)
            tell(f"prepared {dataset.name} in {seconds:.1f} s")
    return _open(dataset, folder, mark)


def _prepare(dataset: DataSet, folder: Path, recipe: Mapping[str, Any], mark: str, fetch: Fetch) -> float:
    """Make `folder`, whole or not at all; returns the seconds that the work took."""
    begun = time.perf_counter()
    with scratch(folder.parent) as work:
        content = work / "content"
        content.mkdir()
        with _judged(dataset):
            card = dataset.prepare(fetch, content)
        files = sorted(path for path in content.rglob("*") if path.is_file())
        names = [path.relative_to(content).as_posix() for path in files]
        card |= {
            "name": dataset.name,
            "fingerprint": mark,
            "recipe": recipe,
            "content": {name: sha256_of(path) for name, path in zip(names, files, strict=True)},
            "sizes": {name: path.stat().st_size for name, path in zip(names, files, strict=True)},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - begun, 3),
        }
        (content / CARD).write_text(json.dumps(card, indent=1) + "\n")
        if folder.exists() and _fault(folder, mark) is not None:
            with suppress(FileNotFoundError):  # somebody else is mending it too
                folder.replace(work / "damaged")
        try:
            publish(content, folder)
        except OSError:
            if _fault(folder, mark) is not None:
                raise
        shutil.rmtree(work / "damaged", ignore_errors=True)
    return float(card["seconds"])


def is_users_own(dataset: DataSet) -> bool:
    """Whether the data are files of the user's own, which the data set, or the one that it is made of, finds at a `path`."""
    return any(hasattr(each, "path") for each in (dataset, getattr(dataset, "of", None)))


@contextmanager
def _judged(dataset: DataSet) -> Iterator[None]:
    """What is wrong in files of the user's own is a wrong request, and no failure of ours."""
    try:
        yield
    except DataError as error:
        if isinstance(error, SourceError) or not is_users_own(dataset):
            raise
        raise OwnDataError(str(error)) from error


def open_prepared(dataset: DataSet, root: Path, fingerprint: str, *, verify: bool = False) -> Prepared:
    """A data set that was prepared before; `verify` reads every file and compares its hash with the card's.

    Raises:
        DataError: it is not there, or not whole.
    """
    folder = root / dataset.name / fingerprint
    fault = _fault(folder, fingerprint, verify=verify)
    if fault is not None:
        raise DataError(f"prepared data {folder} cannot be used: {fault}")
    return _open(dataset, folder, fingerprint)


def _open(dataset: DataSet, folder: Path, mark: str) -> Prepared:
    card = json.loads((folder / CARD).read_text())
    return Prepared(dataset.name, mark, folder, card, card["facts"], dataset.open(folder, card))


def _fault(folder: Path, mark: str, *, verify: bool = False) -> str | None:
    """Why a prepared folder cannot be used, or None. Sizes are always compared, hashes only on demand."""
    try:
        card = json.loads((folder / CARD).read_text())
        if card["fingerprint"] != mark:
            return "its card is of other data"
        for name, size in card["sizes"].items():
            if (folder / name).stat().st_size != size:
                return f"{name} has not the size its card says"
            if verify and sha256_of(folder / name) != card["content"][name]:
                return f"{name} has not the content its card says"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its card cannot be read ({type(error).__name__})"
    return None
