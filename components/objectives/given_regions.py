"""Fast R-CNN's losses: a softmax over classes and background, and offsets to the object's box (Girshick 2015, arXiv 1504.08083).

Of each picture's regions some are drawn at random, from torch's own generator: a quarter with objects (IoU ≥ 0.5), the others as background
with IoU in [0.1, 0.5), near misses that stand in for mined hard negatives (section 2.3). Where we differ: β of the smooth L1 is 1/9, as in
the authors' later code, and the objects' own boxes are among the regions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from components.errors import DataError
from components.layers.region_sampling import RegionSampler, region_losses
from components.objectives.detection import Candidates, Detection, crowded
from components.protocols import Batch, Model, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class GivenRegions(Detection):
    """A detector that returns `Judged` (see `components.layers.region_heads`) learns what the given regions hold. Batches have `regions`.

    Args:
        regions: of each picture, drawn from those of the batch and the objects' own boxes.
        positive_share: at most this share of them holds objects.
        positive: from this IoU on a region holds an object.
        least: background overlaps some object at least this much, and less than `positive`; 0 takes any.
    """

    regions: Annotated[int, Ge(1)] = 64
    positive_share: Annotated[float, Gt(0), Le(1)] = 0.25
    positive: Annotated[float, Gt(0), Le(1)] = 0.5
    least: Annotated[float, Ge(0), Lt(1)] = 0.1

    looks_at_regions: ClassVar[bool] = True
    """Of data without them it is told before anything begins."""

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`, the sum of `classes` and `boxes`."""
        sampler = RegionSampler(
            count=self.regions, positive_share=self.positive_share, positive=self.positive, negative=self.positive, least=self.least
        )
        sample = sampler.sample(given_regions(batch), batch["boxes"], batch["labels"])
        classes, boxes = region_losses(model(batch["inputs"], sample.regions), sample)
        return {"loss": classes + boxes, "classes": classes, "boxes": boxes}

    def candidates(self, model: Any, batch: Batch) -> list[Candidates]:
        """What the model says of each picture's regions."""
        found: list[Candidates] = model.candidates(batch["inputs"], given_regions(batch))
        return found

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`suppression`, and `regions`: those of one picture that hold its objects."""
        return {**super().explain(model, split), "regions": regions_shown(split)}

    def examine(self, model: nn.Module, split: Split) -> Iterator[dict[str, float]]:
        """As of any detector; `proposals` is what the search takes."""
        return with_search(super().examine(model, split), split)


def given_regions(batch: Batch) -> list[Tensor]:
    """The `regions` of a batch; DataError when its data have none."""
    if "regions" not in batch:
        raise DataError("the data have no regions, and this model proposes none: use data with them, such as data=scenes_regions")
    regions: list[Tensor] = batch["regions"]
    return regions


def with_search(examined: Iterable[dict[str, float]], split: Split) -> Iterator[dict[str, float]]:
    """What was measured of a detector, picture by picture, with the seconds of searching each for regions as `proposals`."""
    for place, spent in enumerate(examined):
        began = time.perf_counter()
        split.search(place)  # type: ignore[attr-defined]  # splits with regions have it
        yield {**spent, "proposals": time.perf_counter() - began}


def regions_shown(split: Split) -> Figure:
    """A picture of the split with the regions that hold its objects."""
    from components.figures.regions import matched_figure
    from components.layers.boxes import iou
    from components.layers.matching import match

    batch = split.batch(torch.tensor([crowded(split)]))
    (boxes,), (regions,) = batch["boxes"], given_regions(batch)
    matched = match(iou(boxes, regions), positive=0.5, negative=0.5)
    picture = split.picture(int(batch["index"][0]))  # type: ignore[attr-defined]  # splits of pictures have it
    return matched_figure(picture, regions[matched >= 0], matched[matched >= 0], boxes, what="regions")
