"""Labels of boxes: inside the picture, off each other, the first with the first choice."""

import numpy as np
import pytest
import torch
from PIL import Image

from components.figures import style
from components.figures.boxes import draw_boxes, finish, row_height, show
from components.figures.detection import annotated

PICTURE = torch.zeros(100, 200, 3, dtype=torch.uint8)


def placed(boxes):
    """The figure of some boxes with labels, as it is drawn: each label's extent in the picture's pixels, None where it is not shown."""
    figure = style.new_figure(3.0)
    axes = figure.subplots()
    show(axes, PICTURE)
    labels = draw_boxes(axes, torch.tensor(boxes), colour=style.BLUE, texts=[f"RBC 0.{place}" for place in range(len(boxes))])
    finish(figure, labels)
    figure.draw_without_rendering()
    found = []
    for label in labels:
        (left, bottom), (right, top) = axes.transData.inverted().transform(label.text.get_window_extent())
        found.append((left, top, right, bottom) if label.text.get_visible() else None)
    return found


@pytest.mark.parametrize(
    "box",
    [(0.0, 0, 60, 50), (150, 0, 199, 40), (180, 30, 200, 60), (0, 60, 30, 100), (0, 0, 200, 100)],
    ids=["upper edge", "corner", "right edge", "lower edge", "everywhere"],
)
def test_a_label_is_inside_the_picture(box):
    ((left, top, right, bottom),) = placed([box])
    assert -1.5 <= left < right <= 200.5
    assert -1.5 <= top < bottom <= 100.5
    assert (top >= box[1] - 0.5) == (box[1] < 10), "above its box where there is room"


def test_labels_do_not_cover_each_other_and_the_first_has_its_place():
    alone = placed([(50.0, 40, 90, 80)])
    several = placed([(50.0, 40, 90, 80)] * 12)
    assert several[0] == pytest.approx(alone[0])
    shown = [each for each in several if each is not None]
    assert 4 <= len(shown) < 12
    for place, one in enumerate(shown):
        for other in shown[:place]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_row_is_as_high_as_its_pictures():
    assert row_height(PICTURE, 2) == pytest.approx((7.5 - 0.4) / 4)
    assert row_height(torch.zeros(400, 10), 1) == style.WIDTH


@pytest.mark.parametrize("corner", [(60, 2), (60, 8), (165, 50), (165, 0)], ids=["upper edge", "near it", "right edge", "corner"])
def test_a_label_written_into_a_picture_is_whole(corner):
    """As many pixels of it are there as in the middle, but for those that its box has, too."""

    def marked(left, top):
        found = {"label": "thrombocyte", "probability": 0.5, "box": [left, top, left + 30, top + 40]}
        pixels = np.asarray(annotated(Image.new("RGB", (200, 100), "black"), [found]))
        return (pixels > 0).any(axis=2)

    whole = marked(20, 50).sum()
    assert whole - 31 - 20 <= marked(*corner).sum() <= whole
    assert marked(20, 50)[:50].any(), "above its box"
    assert not marked(60, 2)[:2].any(), "in it"
