"""VGG against torchvision's, by hand on one stage, and that it can learn a batch by heart."""

import pytest
import torch
from torch import nn

from components.initializers import HeNormal
from components.layers.convolutions import VGG16
from components.models.vgg import VGG

TORCHVISIONS = {"input_shape": [3, 224, 224], "classes": 1000, "head": [4096, 4096], "pool_to": 7, "dropout": 0.5, "activation": nn.ReLU}


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_torchvisions_weights_have_a_place_each(name):
    from torchvision import models

    with torch.device("meta"):
        theirs = getattr(models, name)(weights=None)
        ours = VGG(stages=VGG16, batch_norm=name.endswith("_bn"), **TORCHVISIONS)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in ours.parameters()) == (138_357_544 if name == "vgg16" else 138_365_992)
    assert ours.load_state_dict(theirs.state_dict(), strict=True, assign=True).missing_keys == []


@pytest.mark.parametrize("batch_norm", [False, True])
def test_output_is_torchvisions(batch_norm):
    """The whole computation with VGG16's stages cut to an eighth of their channels and a small head of the same form."""
    from torchvision.models import vgg

    stages = [[width // 8 for width in stage] for stage in VGG16]
    layers = [layer for stage in stages for layer in [*stage, "M"]]
    theirs = vgg.VGG(vgg.make_layers(layers, batch_norm=batch_norm), num_classes=9, init_weights=False)
    theirs.classifier[0], theirs.classifier[3], theirs.classifier[6] = nn.Linear(64 * 49, 24), nn.Linear(24, 16), nn.Linear(16, 9)
    ours = VGG(stages=stages, batch_norm=batch_norm, **TORCHVISIONS | {"input_shape": [3, 64, 96], "classes": 9, "head": [24, 16]})
    HeNormal().initialize(theirs, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pictures = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))  # 2×3 features: the average pooling has work
    expected = theirs.eval()(pictures)
    assert expected.std() > 0.01
    assert torch.equal(ours.eval()(pictures), expected)


def test_forward_by_hand():
    """One stage whose convolution sums each 3×3 neighbourhood, a 2×2 maximum, the mean of what is left, no head."""
    model = VGG(input_shape=[1, 4, 4], classes=1, stages=[[1]], head=[], pool_to=1, activation=nn.ReLU)
    nn.init.ones_(model.features[0].weight)
    nn.init.zeros_(model.features[0].bias)
    nn.init.constant_(model.classifier[0].weight, 2.0)
    nn.init.constant_(model.classifier[0].bias, 0.5)
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, 0, 0], picture[0, 0, 3, 3] = 8.0, -5.0
    # The 8 reaches the four pixels of the upper left quarter and no other; the −5 those of the lower right, where ReLU leaves 0.
    # So the quarters' maxima are 8, 0, 0, 0 and their mean is 2.
    assert model(picture).item() == 2 * 2 + 0.5


def test_names_and_depth():
    model = VGG(input_shape=[1, 28, 28], classes=10, stages=[[4, 4], [8]], head=[5], pool_to=2, activation=nn.ELU)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "features.0.weight": (4, 1, 3, 3),
        "features.0.bias": (4,),
        "features.2.weight": (4, 4, 3, 3),
        "features.2.bias": (4,),
        "features.5.weight": (8, 4, 3, 3),
        "features.5.bias": (8,),
        "classifier.0.weight": (5, 32),
        "classifier.0.bias": (5,),
        "classifier.3.weight": (10, 5),
        "classifier.3.bias": (10,),
    }
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert sum(isinstance(module, nn.ELU) for module in model.modules()) == 4


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = VGG(input_shape=[1, 8, 8], classes=4, stages=[[8, 8], [16]], head=[16], pool_to=2, activation=nn.ReLU, batch_norm=True)
    HeNormal().initialize(model, activation=nn.ReLU(), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    assert torch.equal(model(inputs).argmax(dim=1), targets)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_shape": [1, 28, 15], "stages": [[4]] * 4}, "28×15 is too small for 4 stages.*must be 16 or more"),
        ({"input_shape": [28, 28]}, r"must be \[channels, height, width\], not \[28, 28\]"),
        ({"stages": []}, r"stages needs a stage, and each stage a convolution, not \[\]"),
        ({"stages": [[4], []]}, r"not \[\[4\], \[\]\]"),
        ({"stages": [[4], [0]]}, "must all be 1 or more"),
        ({"head": [0]}, "must all be 1 or more"),
        ({"pool_to": 0}, "must all be 1 or more"),
        ({"classes": 0}, "must all be 1 or more"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), not -0.1"),
    ],
)
def test_bad_arguments(wrong, message):
    arguments = {"input_shape": [1, 28, 28], "classes": 2, "stages": [[4]], "head": [8], "pool_to": 2, "activation": nn.ReLU}
    with pytest.raises(ValueError, match=message):
        VGG(**(arguments | wrong))


def test_the_smallest_picture_that_fits():
    model = VGG(input_shape=[1, 16, 17], classes=2, stages=[[2]] * 4, head=[], pool_to=1, activation=nn.ReLU)
    assert model(torch.randn(1, 1, 16, 17)).shape == (1, 2)
