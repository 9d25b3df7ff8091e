"""Pictures with regions that may hold objects, found once when the data are prepared: for detectors that propose none themselves.

Beside what the data set writes stands `regions.safetensors`, with the regions of each split's pictures one after the other (see `ragged`).
Batches get `regions`, a list of B × (r, 4) float32 `xyxy` in pixels.

Searching takes far longer than a training step, and its answer never changes; so it belongs to the data. What it takes is measured while
preparing and stands in the card (`milliseconds`, a picture): at a new picture a detector has to wait for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from components.data.ragged import Ragged
from components.protocols import Batch, DataSet, Fetch, Split

FILE = "regions.safetensors"


class Search(Protocol):
    """What finds regions; `components.layers.selective_search` has one."""

    def recipe(self) -> dict[str, Any]:
        """Everything that decides what is found, as JSON values."""

    def regions(self, picture: Tensor) -> Tensor:
        """(H, W) grey or (H, W, 3) RGB uint8 → (r, 4) float32 `xyxy` in pixels."""


class RegionSplit:
    """The examples of another split, with their regions. They are never augmented: a region is one of the picture as it is."""

    def __init__(self, of: Split, regions: Ragged, search: Search) -> None:
        """`regions` has a row of r·4 numbers for each example of `of`, which `search` has found."""
        self._of, self._regions, self._search = of, regions, search

    @property
    def lengths(self) -> Tensor | None:
        """As the split's own."""
        return self._of.lengths

    def __len__(self) -> int:
        return len(self._of)

    def batch(self, index: Tensor, generator: Generator | None = None) -> Batch:  # noqa: ARG002 — never augmented
        """The split's batch with `regions`."""
        return {**self._of.batch(index), "regions": [self.regions(place) for place in index.tolist()]}

    def regions(self, place: int) -> Tensor:
        """(r, 4) of example `place`."""
        return self._regions.row(place).reshape(-1, 4)

    def search(self, place: int) -> Tensor:
        """(r, 4) of example `place`, searched for now: what a detector has to wait for at a new picture."""
        return self._search.regions(self.picture(place))

    def picture(self, place: int) -> Tensor:
        """Example `place` to look at, as the split shows it."""
        picture: Tensor = self._of.picture(place)  # type: ignore[attr-defined]  # splits of pictures have it
        return picture


@dataclass(frozen=True, kw_only=True)
class Regions:
    """A data set of pictures, and regions of each.

    Attributes:
        of: the data set; its splits show their examples with `picture(i)`.
        search: finds the regions of a picture.
    """

    of: DataSet
    search: Search

    has_regions: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The data set's with what is added."""
        return f"{self.of.name}_regions"

    def recipe(self) -> dict[str, Any]:
        """The data set's and the search's."""
        return {"name": self.name, "format": 1, "of": self.of.recipe(), "search": self.search.recipe()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Prepare the data set, then search its pictures one by one; the data set's card, with `regions`."""
        card = self.of.prepare(fetch, into)
        tensors: dict[str, Tensor] = {}
        found, seconds = [], []
        for name, split in self.of.open(into, card).items():
            rows = []
            for place in range(len(split)):
                picture = split.picture(place)  # type: ignore[attr-defined]  # splits of pictures have it
                began = time.perf_counter()
                rows.append(self.search.regions(picture))
                seconds.append(time.perf_counter() - began)
            lengths = torch.tensor([0, *(row.numel() for row in rows)])
            tensors |= {name: torch.cat(rows).flatten(), f"{name}.bounds": lengths.cumsum(0)}
            found += [len(row) for row in rows]
        save_file(tensors, into / FILE)
        counted = {"fewest": min(found), "median": statistics.median(found), "most": max(found)}
        return {**card, "regions": {**counted, "milliseconds": round(1000 * statistics.median(seconds), 1)}}

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Split]:
        """The data set's splits with their regions."""
        with safe_open(folder / FILE, framework="pt") as file:
            return {
                name: RegionSplit(split, Ragged(file.get_tensor(name), file.get_tensor(f"{name}.bounds")), self.search)
                for name, split in self.of.open(folder, card).items()
            }

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        """Something new as the data set reads it, with the regions that are found in it now."""
        batch = self.of.read(given, facts)
        mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
        pixels = ((batch["inputs"][0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        picture = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
        return {**batch, "regions": [self.search.regions(picture)]}
