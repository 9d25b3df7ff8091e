"""Which anchor answers for which object, and which of the very many others take part in the loss.

Matching by overlap is Faster R-CNN's (Ren et al. 2015, section 3.1.2) and SSD's (Liu et al. 2016, section 2.2); hard-negative mining is
SSD's, balanced sampling that of Fast and Faster R-CNN.

Shapes: G objects of one picture, A anchors, B pictures.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

BACKGROUND, IGNORED = -1, -2
"""What `match` gives an anchor that answers for no object, and one that takes no part because it is neither near nor far."""

Best = Literal["claimed", "kept", "none"]


def match(overlap: Tensor, *, positive: float, negative: float, best: Best = "none") -> Tensor:
    """For each anchor, the object it answers for: (A,) int64, place of the object, BACKGROUND or IGNORED.

    An anchor takes the object that it overlaps most, if the IoU is ≥ `positive`; below `negative` it is background.

    Args:
        overlap: (G, A) IoU; G may be 0, then all is background.
        positive, negative: 0 … 1, `negative` ≤ `positive`.
        best: what becomes of the anchors that overlap an object most (with low IoU even these may be background otherwise):
            `claimed`: the object takes the best one, though it may have preferred another object (SSD);
            `kept`: all of them, ties too, stay with the object that they overlap most (Faster R-CNN);
            `none`: nothing is done for them.
    """
    objects, anchors = overlap.shape
    if not objects:
        return torch.full((anchors,), BACKGROUND, dtype=torch.int64, device=overlap.device)
    value, place = overlap.max(dim=0)
    result = torch.where(value >= positive, place, IGNORED)
    result[value < negative] = BACKGROUND
    if best == "claimed":
        result[overlap.argmax(dim=1)] = torch.arange(objects, device=overlap.device)
    elif best == "kept":
        ties = (overlap == overlap.amax(dim=1, keepdim=True)).any(dim=0)
        result[ties] = place[ties]
    return result


def balanced_sample(matched: Tensor, *, count: int, positive_share: float) -> Tensor:
    """A random choice of anchors to learn from: places, objects' first, drawn from torch's own generator.

    Args:
        matched: (A,) as `match` gives it; those IGNORED are never chosen.
        count: how many in all, if there are as many.
        positive_share: at most this share answers for objects; where they are fewer, background fills up.

    Returns:
        (at most `count`,) int64.
    """
    objects, background = (matched >= 0).nonzero().flatten(), (matched == BACKGROUND).nonzero().flatten()
    positives = min(len(objects), int(count * positive_share))
    chosen = objects[torch.randperm(len(objects), device=matched.device)[:positives]]
    others = background[torch.randperm(len(background), device=matched.device)[: count - positives]]
    return torch.cat([chosen, others])


def hard_negatives(loss: Tensor, positive: Tensor, *, ratio: float) -> Tensor:
    """Of the background anchors of each picture those with the largest loss, `ratio` for each positive: (B, A) bool.

    Args:
        loss: (B, A) each anchor's classification loss.
        positive: (B, A) bool, anchors that answer for an object.
        ratio: negatives to a positive; SSD's is 3.
    """
    with torch.no_grad():
        wanted = (ratio * positive.sum(dim=1)).long()
        of_background = loss.masked_fill(positive, -torch.inf)
        most = min(int(wanted.max()), loss.shape[1]) if len(wanted) else 0
        chosen = torch.zeros_like(positive)
        if most:
            places = of_background.topk(most, dim=1).indices  # (B, most), largest first
            taken = torch.arange(most, device=loss.device) < wanted[:, None]
            chosen.scatter_(1, places, taken)
        return chosen & ~positive
