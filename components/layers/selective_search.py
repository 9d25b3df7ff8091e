"""Selective search: regions of a picture that may be objects, from its colours and textures alone (Uijlings et al. 2013).

The picture is cut into small even pieces (Felzenszwalb and Huttenlocher 2004), the two most alike neighbours are joined, and again, until
one piece is left; every piece that ever was gives its bounding box. Several colour spaces, scales and measures of likeness give several
such trees. OpenCV's implementation is used; what we add is an order that can be repeated. Its own ranks are drawn from C's `rand()`,
which nothing seeds, so the same picture gives the same regions in another order each time; ours are ordered by size.
"""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

Strategy = Literal["single", "fast", "quality"]
"""How many trees: one, several, or many."""


@dataclass(frozen=True, kw_only=True)
class SelectiveSearch:
    """The search and its settings; the same for the same picture on every machine with the same OpenCV.

    Args:
        strategy: how many trees of joined pieces are grown.
        base: the scale of the first pieces; smaller gives more and smaller regions.
        sigma: standard deviation in pixels of the blur before the picture is cut.
        smallest: regions whose shorter side is below this many pixels are left out.
        limit: at most so many regions; of more, every so manieth by size is kept, so that all sizes stay. The papers use about 2,000.
    """

    strategy: Strategy = "fast"
    base: Annotated[int, Ge(1)] = 150
    sigma: Annotated[float, Gt(0)] = 0.8
    smallest: Annotated[int, Ge(1)] = 4
    limit: Annotated[int, Ge(1)] = 2000

    def recipe(self) -> dict[str, Any]:
        """What decides the regions: the settings, and OpenCV's version."""
        return {"search": "selective_search", "opencv": version("opencv-contrib-python-headless"), **asdict(self)}

    def regions(self, picture: Tensor) -> Tensor:
        """The regions of one picture, the largest first.

        Args:
            picture: (H, W, 3) RGB or (H, W) grey, uint8.

        Returns:
            (R, 4) float32 `xyxy` in pixels, no two the same; the whole picture is among them.
        """
        height, width = picture.shape[:2]
        whole = np.array([[0, 0, width, height]], dtype=np.int64)
        boxes = np.concatenate([whole, self._search(picture.numpy())]) if min(height, width) > 1 else whole
        boxes = np.unique(boxes, axis=0)
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = (sides.min(axis=1) >= self.smallest) | (boxes == whole).all(axis=1)
        boxes, areas = boxes[kept], sides.prod(axis=1)[kept]
        boxes = boxes[np.argsort(-areas, kind="stable")]  # equal ones stay in the order of their coordinates
        if len(boxes) > self.limit:
            boxes = boxes[np.linspace(0, len(boxes) - 1, self.limit).round().astype(np.int64)]
        return torch.from_numpy(boxes.astype(np.float32))

    def _search(self, picture: Any) -> Any:
        """OpenCV's regions as `xyxy` (N, 4) int64, in no order."""
        import cv2

        colour = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., ::-1]
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(colour))
        match self.strategy:
            case "single":
                search.switchToSingleStrategy(self.base, self.sigma)
            case "fast":
                search.switchToSelectiveSearchFast(self.base, self.base, self.sigma)
            case "quality":
                search.switchToSelectiveSearchQuality(self.base, self.base, self.sigma)
        found = np.asarray(search.process(), dtype=np.int64).reshape(-1, 4)  # x, y, width, height
        return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
