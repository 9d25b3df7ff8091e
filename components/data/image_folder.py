"""A user's own images: a folder a class, divided by us (`root/CLASS/*`) or by the user (`root/{train,validation,test}/CLASS/*`).

What is prepared is decided by the files' paths below the root and their content, so moving the root changes nothing and changing
one picture does. What cannot be read is reported file by file in the data card. Models never resize: the size is fixed here.
"""

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import PIL
import torch
from annotated_types import Ge, Gt, Le, Len, Lt
from PIL import Image
from torch import Tensor

from components.data.durable import sha256_of
from components.data.image_split import ImageData, write_images
from components.data.pictures import Fit, read_picture
from components.data.splits import stratified
from components.errors import DataError, RequestError
from components.protocols import Fetch

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
LITTER = {"thumbs.db", "desktop.ini"}
"""Files that desktops leave behind; names that start with a dot are left out as well."""
UNOPENED = "cannot be opened"
PICTURES_AT_ONCE = 256
SHOWN = 5
"""How many files an error message names."""


@dataclass(frozen=True)
class Listing:
    """What is in a root folder.

    Attributes:
        root: the folder.
        divided: whether its first level is splits (then the second is classes) or classes.
        classes: sorted class names: the class folders (of `train`, where divided).
        files: path below the root, with /, of everything in a class folder → SHA-256; sorted.
        ignored: paths of files outside of any class folder.
    """

    root: Path
    divided: bool
    classes: list[str]
    files: dict[str, str]
    ignored: list[str]

    def class_of(self, name: str) -> str:
        """The class a file's folder says it is of."""
        return name.split("/")[1 if self.divided else 0]

    def split_of(self, name: str) -> str:
        """The split a file's folder says it is in; `train` where folders do not say."""
        return SPLIT_FOLDERS[name.partition("/")[0].lower()] if self.divided else "train"


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageData):
    """A user's own images, class = folder.

    Attributes:
        path: the root folder.
        size: [height, width] in pixels that every image is brought to.
        mode: colours.
        fit: how an image of other proportions is brought to size.
        validation: share of each class to validate on, where no folder says.
        test: share of each class to test on, where no folder says.
        split_seed: which examples are in which split.
        unreadable: what to do about files that cannot be read: leave them out and list them in the card, or fail.
    """

    path: str
    size: Annotated[list[Annotated[int, Ge(1), Le(4096)]], Len(2, 2)]
    mode: Literal["grayscale", "rgb"] = "rgb"
    fit: Fit = "crop"
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.1
    split_seed: Annotated[int, Ge(0)] = 0
    unreadable: Literal["drop", "fail"] = "drop"

    name: ClassVar[str] = "image_folder"

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def recipe(self) -> dict[str, Any]:
        """One hash over every file's path and content, every setting, and the decoder's version; reads every file.

        Raises:
            RequestError: there is no such folder.
            DataError: it holds no images in class folders, or those of one class only.
        """
        listing = _listed(self.path)
        lines = "".join(f"{digest}  {name}\n" for name, digest in listing.files.items())
        content = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
        settings = {key: value for key, value in asdict(self).items() if key != "path"}
        return {"name": self.name, "format": 1, "sources": [content], "classes": listing.classes, "pillow": PIL.__version__, **settings}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — the files are here already
        """Write the prepared files; the data card, with every unreadable file and the reason.

        `files.json` names the source file of every row of the prepared pixels.

        Raises:
            RequestError: there is no such folder.
            DataError: too few images of a class; or some cannot be read and `unreadable` is `fail`; or one changed meanwhile.
        """
        listing = _listed(self.path)
        raw = into / "pixels.raw"
        faults = self._read(listing, raw)
        if faults and self.unreadable == "fail":
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(faults.items())[:SHOWN])
            more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            raise DataError(f"{len(faults)} of {len(listing.files)} files in {listing.root} cannot be used: {shown}{more}")
        names = [name for name in listing.files if name not in faults]
        rows = self._divided(listing, names)
        shape = (len(names), self._channels, *self.size)
        pixels = torch.from_file(str(raw), size=torch.Size(shape).numel(), dtype=torch.uint8).reshape(shape)
        targets = torch.tensor([listing.classes.index(listing.class_of(name)) for name in names])
        written = write_images(into, pixels=pixels, targets=targets, rows=rows, class_names=listing.classes, fit=self.fit)
        raw.unlink()
        (into / "files.json").write_text(json.dumps(names, indent=0) + "\n")
        return {
            "source": str(listing.root),
            "upstream": "the user's own files",
            "licence": "the user's own",
            "pixels": f"{self.mode}, brought to {self.size[0]}×{self.size[1]} ({self.fit}), EXIF rotation applied, transparency on white",
            "unreadable": [{"file": name, "reason": reason} for name, reason in faults.items()],
            "ignored": listing.ignored,
            "repeated": len(names) - len({listing.files[name] for name in names}),
            **written,
        }

    @property
    def _channels(self) -> int:
        return 1 if self.mode == "grayscale" else 3

    def _read(self, listing: Listing, raw: Path) -> dict[str, str]:
        """Write every readable picture's (C, H, W) bytes to `raw`, in order; returns the others with the reason."""
        faults = {}
        names = list(listing.files)
        with raw.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool, _quiet_decoders():
            for start in range(0, len(names), PICTURES_AT_ONCE):
                part = names[start : start + PICTURES_AT_ONCE]
                for name, result in zip(part, pool.map(partial(self._picture, listing), part), strict=True):
                    if isinstance(result, str):
                        faults[name] = result
                    else:
                        file.write(result.numpy().data)
        return faults

    def _picture(self, listing: Listing, name: str) -> Tensor | str:
        """(C, H, W) uint8, or why not."""
        try:
            content = (listing.root / name).read_bytes()
        except OSError as error:
            return f"{UNOPENED} ({error.strerror})"
        if hashlib.sha256(content).hexdigest() != listing.files[name]:
            raise DataError(f"{listing.root / name} changed while it was being prepared; start again")
        try:
            return read_picture(content, channels=self._channels, size=self.size, fit=self.fit)
        except DataError as error:
            return str(error)

    def _divided(self, listing: Listing, names: Sequence[str]) -> dict[str, Tensor]:
        """Rows of each split: by the user's folders, and where these do not say, drawn from what trains."""
        splits = [listing.split_of(name) for name in names]
        missing = {name: share for name, share in (("validation", self.validation), ("test", self.test)) if name not in splits}
        training = torch.tensor([row for row, split in enumerate(splits) if split == "train"], dtype=torch.int64)
        classes = [listing.class_of(name) for name in names]
        counts = Counter(classes[row] for row in training.tolist())
        needed = 1 + len(missing)
        few = [f"{name} {counts[name]}" for name in listing.classes if counts[name] < needed]
        if few:
            raise DataError(
                f"{listing.root}: every class needs at least {needed} readable training images, but there are: {', '.join(few)}"
            )
        rows = {"train": training}
        if missing:
            targets = torch.tensor([listing.classes.index(classes[row]) for row in training.tolist()])
            take = {name: max(1, round(share * len(training))) for name, share in missing.items()}
            try:
                drawn = stratified(targets, take, seed=self.split_seed)
            except ValueError as error:
                raise DataError(f"{listing.root}: {error}") from error
            rows = {name: training[of] for name, of in drawn.items()}
        for name in ("validation", "test"):
            rows.setdefault(name, torch.tensor([row for row, split in enumerate(splits) if split == name], dtype=torch.int64))
        return {name: rows[name] for name in ("train", "validation", "test")}


def _listed(path: str) -> Listing:
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        raise RequestError(f"data.path: {root} {fault}; give the folder that holds a folder of images for each class")
    found = sorted(_below(root))
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    divided = bool(folders) and all(name.lower() in SPLIT_FOLDERS for name in folders)
    depth = 2 if divided else 1
    files = [name for name in found if name.count("/") >= depth]
    if not files:
        raise DataError(f"{root} has no images in class folders: expected {root.name}/CLASS/*.png or {root.name}/train/CLASS/*.png")
    if divided:
        training = [name for name in folders if SPLIT_FOLDERS[name.lower()] == "train"]
        if not training:
            raise DataError(f"{root} has the split folders {', '.join(folders)}, but no train")
        folders = sorted({entry.name for name in training for entry in (root / name).iterdir() if entry.is_dir() and entry.name[0] != "."})
    if len(folders) < 2:
        raise DataError(f"{root} has images of one class only ({', '.join(folders)}); at least two class folders are needed")
    unknown = sorted({name.split("/")[depth - 1] for name in files} - set(folders))
    if unknown:
        raise DataError(f"{root} has classes to validate or test on that are not in train: {', '.join(unknown)}")
    return Listing(root, divided, folders, {name: _digest(root / name) for name in files}, sorted(set(found) - set(files)))


def _below(root: Path) -> Iterator[str]:
    """Paths below `root` of all files that are not litter."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower() not in LITTER:
                yield (Path(folder) / name).relative_to(root).as_posix()


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return UNOPENED


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Pillow's remarks about odd files stay unsaid, but a picture so large that it may be an attack is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
