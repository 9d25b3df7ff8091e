"""Detectors' times: the middle half, what the title says of it, and names that stand apart."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.transforms import Bbox

from components.figures.times import MARKER, times_figure, verdict
from components.metrics.times import Spent

CLOSE = " are too close to call as the fastest; "


def spent(low, median, high):
    return Spent(median, low, high, {"features": median})


def test_the_middle_half_by_hand():
    pictures = [{"features": 0.001 * total, "heads": 0.004} for total in (1, 2, 3, 4, 96)]
    pictures[0]["proposals"] = 0.5
    found = Spent.of(pictures[1:] + pictures[:1])
    assert (found.low, found.median, found.high) == pytest.approx((7, 8, 100))
    assert found.phases == pytest.approx({"features": 3, "heads": 4, "proposals": 0})


@pytest.mark.parametrize(
    ("times", "precision", "title"),
    [
        ([(1, 2, 3), (4, 5, 6)], (0.5, 0.8), "a is the fastest; b is the most accurate"),
        ([(4, 5, 6), (1, 2, 3)], (0.5, 0.8), "b is the fastest and the most accurate"),
        ([(1, 2, 3), (3, 5, 6)], (0.8, 0.5), "a and b" + CLOSE + "a is the most accurate"),
        ([(1, 2, 3), (3.1, 5, 6)], (0.5, 0.5), "a is the fastest; a and b are the most accurate"),
        (
            [(1, 2, 9), (2, 3, 9), (2, 4, 9), (8, 9, 9)],
            (1, 2, 3, 4),
            "a and 3 others are too close to call as the fastest; d is the most accurate",
        ),
    ],
)
def test_the_title_says_no_more_than_was_measured(times, precision, title):
    names = "abcd"[: len(times)]
    assert verdict({name: spent(*of) for name, of in zip(names, times, strict=True)}, dict(zip(names, precision, strict=True))) == title


def drawn(milliseconds, precision, share=0.1):
    """The figure of detectors whose pictures took a share more or less; its names' places on the screen, and the marks' with bars."""
    names = [f"{'ssd_scenes' if place % 2 else 'faster_rcnn_scenes'}_{place}" for place in range(len(milliseconds))]
    pictures = {
        name: [{"features": each * factor / 1000} for factor in (1 - share, 1 - share, 1, 1 + share, 1 + share)]
        for name, each in zip(names, milliseconds, strict=True)
    }
    figure = times_figure(pictures, dict(zip(names, precision, strict=True)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    written = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    marks = []
    for time, height in zip(milliseconds, precision, strict=True):
        (left, y), (right, _) = axes.transData.transform([((1 - share) * time, height), ((1 + share) * time, height)])
        radius = MARKER / 2 * figure.dpi / 72
        marks.append(Bbox.from_extents(left, y - radius, right, y + radius))
    return figure, written, marks


@pytest.mark.parametrize(
    ("milliseconds", "precision", "share"),
    [
        ([22, 21, 24, 25, 180, 600], [0.80, 0.79, 0.85, 0.81, 0.78, 0.56], 0.1),
        ([10, 10, 10, 10, 10, 10], [0.5] * 6, 0.1),
        ([7.3, 8, 10.4, 12.4, 71, 90], [0.67, 0.73, 0.82, 0.84, 0.60, 0.56], 0.1),
        ([280, 350, 330, 570, 300, 290], [0.82, 0.73, 0.67, 0.84, 0.6, 0.56], 0.97),
        ([10, 11, 12, 13, 14, 300], [0.01, 0.0, 0.02, 0.99, 1.0, 0.98], 0.1),
    ],
    ids=["a cluster", "one place", "scenes", "a busy machine", "the edges"],
)
def test_names_of_six_detectors_stand_apart(milliseconds, precision, share):
    figure, written, marks = drawn(milliseconds, precision, share)
    assert len(written) == 6
    for one, other in combinations(written.values(), 2):
        assert not one.overlaps(other)
    room = figure.axes[0].get_window_extent()
    for extent in written.values():
        assert not any(extent.overlaps(mark) for mark in marks)
        assert room.x0 - 1 <= extent.x0 < extent.x1 <= room.x1 + 1
        assert room.y0 - 1 <= extent.y0 < extent.y1 <= room.y1 + 1


def test_bars_are_the_middle_half():
    figure, _, _ = drawn([10, 100], [0.5, 0.8])
    above, below = figure.axes
    for axes in (above, below):
        ends = [segment[:, 0].tolist() for bar in axes.collections for segment in bar.get_segments()]
        assert np.array(ends) == pytest.approx(np.array([[9, 11], [90, 110]]))
    assert figure.get_suptitle() == "faster_rcnn_scenes_0 is the fastest; ssd_scenes_1 is the most accurate"
