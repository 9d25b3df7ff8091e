"""Pictures of regions: what stands in them, read back from the drawn figure."""

import torch

from components.figures.regions import matched_figure, proposals_figure

PICTURE = torch.zeros(40, 60, 3, dtype=torch.uint8)
OBJECTS = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])


def test_proposals_say_how_many_objects_they_meet():
    regions = torch.cat([torch.tensor([[0.0, 0, 10, 9]]), torch.tensor([[50.0, 0, 60, 10]]).repeat(19, 1), OBJECTS[1:]])
    figure = proposals_figure(PICTURE, regions, OBJECTS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["the first 10: 1 of 2 objects", "the first 21: 2 of 2 objects", "the best of all 21: 2 of 2 objects"]
    assert [len(axes.patches) for axes in figure.axes] == [12, 23, 4]
    assert [patch.get_bbox().bounds for patch in figure.axes[2].patches[2:]] == [(-0.5, -0.5, 10, 9), (19.5, 19.5, 20, 20)]
    assert proposals_figure(PICTURE, torch.zeros(0, 4), OBJECTS).axes[0].get_title() == "the first 0: 0 of 2 objects"


def test_what_answers_for_an_object_has_its_colour():
    boxes, matched = torch.cat([OBJECTS, OBJECTS[:1] + 1]), torch.tensor([0, 1, 0])
    figure = matched_figure(PICTURE, boxes, matched, OBJECTS, what="anchors")
    plain, marked = figure.axes
    assert plain.get_title() == "2 objects"
    assert marked.get_title() == "3 anchors for 2 of them"
    colours = [patch.get_edgecolor() for patch in marked.patches]
    assert colours[0] == colours[1] != colours[2]
    assert [patch.get_xy() for patch in marked.patches] == [(-0.5, -0.5), (0.5, 0.5), (19.5, 19.5)]
