"""SSD's loss: cross-entropy on matched default boxes and the hardest background, smooth L1 for places (Liu et al. 2016, section 2.2).

Each object takes the default box that it overlaps most, and every default box with an IoU of `match_threshold` or more takes an object.
Almost all default boxes are background, so only the `negatives` hardest for each matched one take part. Both parts are divided by the
number of matched boxes of the whole batch. Objects marked difficult are learned from as well.

Shapes: B pictures, A default boxes, K classes (logit 0 is background), P matched default boxes of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from components.layers.boxes import iou
from components.layers.matching import hard_negatives, match
from components.objectives.detection import Detection, crowded
from components.protocols import Batch, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class MultiBox(Detection):
    """The objective of `SSD`: its model gives logits and offsets, and has `default_boxes` and a `coder`.

    Args:
        match_threshold: IoU from which on a default box takes an object.
        negatives: background boxes to a matched one.
        place_weight: of the smooth L1 part; α in the paper.
    """

    match_threshold: Annotated[float, Gt(0), Le(1)] = 0.5
    negatives: Annotated[float, Gt(0)] = 3.0
    place_weight: Annotated[float, Ge(0)] = 1.0

    needs: ClassVar[tuple[str, ...]] = (*Detection.needs, "default_boxes", "coder")

    def losses(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `class_loss` + `place_weight` · `place_loss`, each a sum over boxes divided by P (by 1 where there is none)."""
        logits, offsets = model(batch["inputs"])
        matched = self.matched(model.default_boxes, batch)  # (B, A)
        positive = matched >= 0
        picture, box = positive.nonzero(as_tuple=True)  # (P,)
        taken = matched[picture, box]
        firsts = torch.tensor([0, *(len(each) for each in batch["labels"])], device=matched.device).cumsum(0)[:-1]
        rows = firsts[picture] + taken  # places among all objects of the batch
        count = max(len(rows), 1)

        wanted = model.coder.encode(torch.cat(batch["boxes"])[rows], model.default_boxes[box])
        place_loss = F.smooth_l1_loss(offsets[picture, box], wanted, reduction="sum") / count

        with torch.no_grad():  # −log p of background, everywhere; only the chosen boxes need a gradient
            hardness = logits.logsumexp(dim=2) - logits[..., 0]
            chosen = hard_negatives(hardness, positive, ratio=self.negatives)
        background = logits[chosen]
        target = torch.cat([torch.cat(batch["labels"])[rows] + 1, rows.new_zeros(len(background))])
        class_loss = F.cross_entropy(torch.cat([logits[picture, box], background]), target, reduction="sum") / count
        return {"loss": class_loss + self.place_weight * place_loss, "class_loss": class_loss, "place_loss": place_loss}

    def matched(self, default_boxes: Tensor, batch: Batch) -> Tensor:
        """(B, A) int64: the object of its picture that each default box answers for, or a negative number for background."""
        threshold = self.match_threshold
        return torch.stack(
            [match(iou(boxes, default_boxes), positive=threshold, negative=threshold, best="claimed") for boxes in batch["boxes"]]
        )

    def explain(self, model: nn.Module, split: Split) -> dict[str, Figure]:
        """`suppression`, and `default_boxes`: those matched to each object of one picture."""
        from components.figures.detection import matched_figure

        batch, picture = split.batch(torch.tensor([crowded(split)])), getattr(split, "picture", None)
        drawn = super().explain(model, split)
        if picture is not None:
            boxes: Any = model.default_boxes
            drawn["default_boxes"] = matched_figure(
                picture(int(batch["index"][0])),
                objects=batch["boxes"][0],
                labels=batch["labels"][0],
                default_boxes=boxes,
                matched=self.matched(boxes, batch)[0],
                class_names=self.class_names,
            )
        return drawn
