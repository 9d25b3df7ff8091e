"""R-CNN: warped crops, three stages that leave each other alone, SVMs and regression that reach what solvers reach."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import nn

from components.data.batches import Batches
from components.errors import ConfigError, Interrupted
from components.layers.region_heads import CODER
from components.models.rcnn import RCNN, Warp
from components.objectives.region_stages import RegionStages, hinge, svm_verdicts
from components.optimizers import Momentum
from components.schedules import Constant
from components.training.checkpoint import Checkpoints
from components.training.loop import fit
from components.training.settings import Trainer


def small(stage="features", **given) -> RCNN:
    torch.manual_seed(0)
    settings = {
        "input_shape": [1, 48, 48],
        "classes": 2,
        "crop": 16,
        "context": 2,
        "stages": [[8], [16]],
        "head": [24],
        "activation": nn.ReLU,
    }
    return RCNN(stage=stage, **{**settings, **given})


def objective(stage="features", **given) -> RegionStages:
    return RegionStages(classes=2, class_names=["dark", "bright"], stage=stage, **given)


def test_warping_by_hand():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8)
    plain = Warp(4, 0)(picture, [torch.tensor([[2.0, 2, 6, 6]])])
    assert plain[0, 0].tolist() == picture[0, 0, 2:6, 2:6].tolist()  # as large as it is: the pixels themselves
    around = Warp(4, 1)(picture, [torch.tensor([[3.0, 3, 5, 5]])])  # two pixels become two, with one around
    assert around[0, 0].tolist() == picture[0, 0, 2:6, 2:6].tolist()
    squeezed = Warp(2, 0)(picture, [torch.tensor([[0.0, 0, 8, 4]])])  # proportions are not kept
    assert squeezed[0, 0].tolist() == [[5.5, 9.5], [21.5, 25.5]]
    beyond = Warp(8, 2)(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])])  # from two pixels outside on
    assert beyond[0, 0, 0].tolist() == [0.0] * 8
    assert beyond[0, 0, 2:, 2:].tolist() == [[1.0] * 6] * 6


@pytest.mark.parametrize(
    ("stage", "learning"), [("features", {"features", "layers", "logits"}), ("svms", {"svms"}), ("boxes", {"offsets"})]
)
def test_a_stage_learns_its_part_and_nothing_else(stage, learning):
    model = small(stage, batch_norm=True).train()
    assert {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == learning
    assert {name for name, part in model.named_children() if part.training} == learning
    boxes, labels = [torch.tensor([[4.0, 4, 20, 20]])], [torch.tensor([1])]
    batch = {
        "inputs": torch.randn(1, 1, 48, 48),
        "boxes": boxes,
        "labels": labels,
        "regions": [torch.tensor([[5.0, 4, 21, 20], [25, 25, 40, 40]])],
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Momentum(learning_rate=0.1).build(model)
    objective(stage).losses(model, batch)["loss"].backward()
    optimizer.step()
    changed = {name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == learning


def test_what_a_stage_needs_first_is_in_no_earlier_ones_weights():
    """Else a stage would begin with numbers that nobody has learned, and not with its own experiment's initializer."""
    heads = {stage: {name.partition(".")[0] for name in small(stage).state_dict()} for stage in ("features", "svms", "boxes")}
    assert heads["svms"] - heads["features"] == {"svms"}
    assert heads["boxes"] - heads["svms"] == {"offsets"}


def test_what_each_stage_says():
    inputs, regions = torch.randn(1, 1, 48, 48), [torch.tensor([[4.0, 4, 20, 20], [8, 8, 40, 30]])]
    by_stage = {stage: small(stage).eval() for stage in ("features", "svms", "boxes")}
    said = {stage: model(inputs, regions) for stage, model in by_stage.items()}
    assert [value is None for value in said["features"]] == [False, True, True]
    assert [value is None for value in said["svms"]] == [True, False, True]
    assert [value is None for value in said["boxes"]] == [True, False, False]
    assert torch.equal(said["svms"].margins, said["boxes"].margins)
    ((boxes, scores),) = by_stage["features"].candidates(inputs, regions)
    assert torch.equal(boxes, regions[0])
    assert torch.allclose(scores, said["features"].logits.softmax(1)[:, 1:])
    ((boxes, scores),) = by_stage["boxes"].candidates(inputs, regions)
    assert torch.allclose(boxes, CODER.decode(said["boxes"].offsets, regions[0][:, None]))
    assert torch.allclose(scores, torch.sigmoid(said["boxes"].margins))


def test_verdicts_by_hand():
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([0, 1])
    regions = torch.cat([boxes, torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 2.5], [50, 50, 60, 60]])])
    # An object is its class's positive and the other class's negative; IoU 0.8 is neither, 0.25 and 0 are negatives.
    assert svm_verdicts(regions, boxes, labels, classes=2, far=0.3).tolist() == [[1, -1], [-1, 1], [0, -1], [-1, -1], [-1, -1]]
    nothing = svm_verdicts(regions[:2], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), classes=2, far=0.3)
    assert nothing.tolist() == [[-1, -1], [-1, -1]]


def test_hinge_by_hand():
    margins = torch.tensor([[0.5], [2.0], [0.0], [-3.0], [9.0]])
    verdicts = torch.tensor([[1.0], [-1], [-1], [-1], [0]])
    # The positive lacks 0.5, twice; the two hardest negatives are 3 and 1 over; what is neither does not count.
    assert hinge(margins, verdicts, hardest=2, positive_weight=2.0).item() == pytest.approx((2 * 0.5 + 3 + 1) / 4)
    assert hinge(margins, verdicts, hardest=1, positive_weight=1.0).item() == pytest.approx((0.5 + 3) / 2)
    assert hinge(margins[3:], verdicts[3:], hardest=5, positive_weight=1.0).item() == 0.0


def test_an_svm_by_gradient_steps_is_the_one_that_liblinear_finds():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    positive = points[:, 0] + 0.5 * points[:, 1] + 0.5 * torch.randn(200, generator=generator, dtype=torch.float64) > 0.3
    verdicts = torch.where(positive, 1.0, -1.0)[:, None].double()
    decay = 0.02
    solver = LinearSVC(loss="hinge", C=1 / (decay * 200), fit_intercept=False, tol=1e-8, max_iter=200_000).fit(points, positive)

    svm = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    optimizer = torch.optim.SGD(svm.parameters(), lr=1.0, weight_decay=decay)
    for step in range(1200):
        optimizer.param_groups[0]["lr"] = 1 / (1 + 0.1 * step)
        optimizer.zero_grad()
        hinge(svm(points), verdicts, hardest=200, positive_weight=1.0).backward()
        optimizer.step()
    assert svm.weight.detach().numpy()[0] == pytest.approx(solver.coef_[0], abs=0.02)


def test_regression_by_gradient_steps_is_ridge():
    model = small("boxes", classes=1)
    torch.manual_seed(1)
    inputs = torch.randn(4, 1, 48, 48)
    boxes = [torch.tensor([[8.0 + 2 * place, 8, 28 + 2 * place, 30]]) for place in range(4)]
    regions = [box + torch.randn(12, 4) for box in boxes]
    batch = {"inputs": inputs, "boxes": boxes, "labels": [torch.tensor([0])] * 4, "regions": regions}
    task = RegionStages(classes=1, class_names=["one"], stage="boxes", regions=100)
    near = [torch.cat([of_one, box]) for of_one, box in zip(regions, boxes, strict=True)]
    with torch.no_grad():
        features = model.features(model.warp(inputs, near)).flatten(1).double().numpy()
    wanted = torch.cat([CODER.encode(box.expand(len(of_one), 4), of_one) for box, of_one in zip(boxes, near, strict=True)]).double().numpy()
    expected = Ridge(alpha=len(features) * 0.05).fit(features, wanted)  # Σ squares + N λ |w|²: the mean loss with λ/2 · 2

    optimizer = torch.optim.LBFGS(model.offsets.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = task.losses(model.train(), batch)["loss"] + 0.05 * model.offsets.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    said = model.offsets.weight.detach().numpy() @ features.T + model.offsets.bias.detach().numpy()[:, None]
    assert np.abs(said.T - expected.predict(features)).max() < 0.02
    assert np.abs(wanted).max() > 0.5


def test_an_objective_of_another_stage_says_so():
    batch = {"inputs": torch.randn(1, 1, 48, 48), "boxes": [torch.tensor([[4.0, 4, 20, 20]])], "labels": [torch.tensor([1])]}
    batch["regions"] = [torch.tensor([[25.0, 25, 40, 40]])]
    with pytest.raises(ConfigError, match=r"objective\.stage: svms is not what the model learns"):
        objective("svms").losses(small("features"), batch)


def test_impossible_crops_are_refused():
    with pytest.raises(ValueError, match="a crop of 3×3 is too small for 2 stages"):
        small(crop=3)
    with pytest.raises(ValueError, match="a crop of 16 pixels with 8 of context on each side has none of the region"):
        small(context=8)


def test_one_batch_can_be_learned_by_heart():
    boxes = [torch.tensor([[4.0, 4, 20, 20], [28, 26, 40, 38]]), torch.tensor([[20.0, 8, 36, 24]])]
    labels = [torch.tensor([0, 1]), torch.tensor([0])]
    inputs = torch.zeros(2, 1, 48, 48)
    for picture, box, label in zip(inputs, boxes, labels, strict=True):
        for (left, top, right, bottom), kind in zip(box.long().tolist(), label.tolist(), strict=True):
            picture[0, top:bottom, left:right] = 2.0 if kind else -2.0
    torch.manual_seed(2)
    corners = torch.rand(2, 40, 2) * 30
    regions = [torch.cat([corner, corner + 6 + torch.rand(40, 2) * 14], dim=1) for corner in corners]
    given = [torch.cat([(box + torch.randn(6, *box.shape)).flatten(0, 1), some]) for box, some in zip(boxes, regions, strict=True)]
    learned = {"inputs": inputs, "boxes": boxes, "labels": labels, "regions": given, "index": torch.arange(2)}
    weights: dict[str, torch.Tensor] = {}
    for stage, steps in (("features", 40), ("svms", 40), ("boxes", 60)):
        model, task = small(stage), objective(stage)
        model.load_state_dict(weights, strict=False)
        optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            task.losses(model.train(), learned)["loss"].backward()
            optimizer.step()
        weights = model.state_dict()
        for one, label in zip(task.detect(model.eval(), learned), labels, strict=True):
            assert sorted(set(one.labels[one.scores > 0.5].tolist())) == label.tolist(), stage
    assert task.losses(model, learned)["loss"].item() < 0.1


class _Scenes:
    """Four pictures of noise with a bright square each, and regions near it."""

    lengths = None

    def __len__(self):
        return 4

    def batch(self, index, generator=None):
        box = torch.tensor([[10.0, 10, 30, 30]])
        inputs = torch.stack([torch.randn(1, 48, 48, generator=torch.Generator().manual_seed(place)) for place in index.tolist()])
        inputs[:, :, 10:30, 10:30] += 2
        count = len(index)
        regions = torch.tensor([[8.0, 10, 30, 30], [0, 0, 20, 20], [25, 25, 47, 47], [12, 8, 28, 34], [30, 0, 47, 20]])
        none = [torch.zeros(1, dtype=torch.bool)] * count
        labels = [torch.ones(1, dtype=torch.int64)] * count
        return {"inputs": inputs, "boxes": [box] * count, "labels": labels, "difficult": none, "regions": [regions] * count, "index": index}


class _Silent:
    def metrics(self, values, *, step, epoch): ...

    def figure(self, name, figure, *, step): ...

    def flush(self): ...


@pytest.mark.parametrize("stage", ["features", "svms", "boxes"])
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(stage, tmp_path):
    def train(folder, stops):
        torch.manual_seed(3)
        asked = iter(range(1, 100))
        return fit(
            small(stage, batch_norm=True),
            objective(stage, regions=3),
            Batches(_Scenes(), batch_size=2, seed=0, shuffle=True),
            None,
            optimizer=Momentum(learning_rate=0.05),
            schedule=Constant(),
            settings=Trainer(epochs=3, batch_size=2, device="cpu", diagnose_every=0),
            device=torch.device("cpu"),
            recorder=_Silent(),
            checkpoints=Checkpoints(tmp_path / folder),
            stopping=lambda: next(asked) == stops,
        )

    whole = train("whole", None).weights
    with pytest.raises(Interrupted):
        train("stopped", 3)
    again = train("stopped", None).weights
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    before = small(stage, batch_norm=True).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in whole.items())
