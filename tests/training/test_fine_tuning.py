"""Fine-tuning: which layers there are, that frozen ones stay as they are, how much each of the others learns; resuming is exact."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.data.batches import Batches
from components.errors import Interrupted, RequestError
from components.models.bert import Bert
from components.optimizers import AdamW, GradientDescent
from components.schedules import WarmupLinear
from components.training.checkpoint import Checkpoints, weights_sha256
from components.training.features import FeatureSplit, below_head_is_frozen, compute_once
from components.training.fine_tuning import decay_by_layer, freeze, layers
from components.training.loop import fit
from components.training.settings import Trainer

CPU = torch.device("cpu")
LOWER = ["embeddings", "blocks"]


def bert(**settings) -> Bert:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 9, "context": 6, "channels": 8, "heads": 2, "layers": 2, "dropout": 0.2, "activation": nn.GELU}
    return Bert(**sizes | settings)


class Texts:
    """Twenty short texts, whose class is whether token 3 is among them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randint(1, 9, (20, 6), generator=generator)
        self.lengths = torch.arange(20) % 4 + 3
        self.inputs[torch.arange(6) >= self.lengths.unsqueeze(1)] = 0
        self.targets = (self.inputs == 3).any(1).long()

    def __len__(self) -> int:
        return 20

    def batch(self, index, generator=None):
        lengths = self.lengths[index]
        inputs = self.inputs[index, : int(lengths.max())]
        return {"inputs": inputs, "lengths": lengths, "targets": self.targets[index], "index": index}


class Classify:
    monitor = ("accuracy", "max")

    def losses(self, model, batch):
        return {"loss": F.cross_entropy(model(batch["inputs"], batch["lengths"]), batch["targets"])}

    def outcomes(self, model, batch):
        return {"index": batch["index"], "correct": model(batch["inputs"], batch["lengths"]).argmax(1) == batch["targets"]}

    def metrics(self, outcomes):
        return {"accuracy": outcomes["correct"].double().mean().item()}


class Silent:
    def metrics(self, values, *, step, epoch): ...

    def figure(self, name, figure, *, step): ...

    def flush(self): ...


def trained(model, split=None, *, settings, checkpoints=None, stop_after=None, optimizer=None):
    torch.manual_seed(3)
    calls = iter(range(1, 1000))
    return fit(
        model,
        Classify(),
        Batches(split or Texts(), batch_size=4, seed=0, shuffle=True),
        None,
        optimizer=optimizer or AdamW(learning_rate=0.01),
        schedule=WarmupLinear(),
        settings=Trainer(**{"epochs": 3, "threads": 1, "diagnose_every": 0} | settings),
        device=CPU,
        recorder=Silent(),
        checkpoints=checkpoints,
        stopping=lambda: stop_after is not None and next(calls) >= stop_after,
    )


def test_berts_layers_are_its_embeddings_each_block_and_its_head():
    assert [name for name, _ in layers(bert())] == ["embeddings", "blocks.0", "blocks.1", "head"]


def test_each_layer_learns_less_than_the_one_above_it():
    """One step of gradient descent: −η d^k g, with k counted from the head."""
    model, rates = bert(), {"head": 1.0, "blocks.1": 0.5, "blocks.0": 0.25, "embeddings": 0.125}
    optimizer = GradientDescent(learning_rate=0.1).build(model)
    decay_by_layer(optimizer, model, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = next(rate for layer, rate in rates.items() if name.startswith(layer))
        assert torch.allclose(before[name] - parameter, torch.full_like(parameter, 0.1 * rate), atol=1e-6), name


def test_weight_decay_holds_for_the_same_parameters_whatever_the_layer():
    model = bert()
    plain, layered = (AdamW(learning_rate=0.1, weight_decay=0.3).build(model) for _ in range(2))
    decay_by_layer(layered, model, 0.5)
    assert len(layered.param_groups) == 8  # four layers, decayed and not

    def decayed(optimizer):
        return {id(parameter) for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]}

    assert decayed(layered) == decayed(plain)
    assert sum(len(group["params"]) for group in layered.param_groups) == len(list(model.parameters()))


def test_what_is_frozen_stays_and_is_computed_without_dropout():
    model = bert()
    before = copy.deepcopy(model.state_dict())
    trained(model, settings={"frozen": ["embeddings", "blocks.0"]})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) is name.startswith(("embeddings", "blocks.0")), name
    assert not model.blocks[0].training
    assert model.blocks[1].training


def test_a_part_that_is_not_there_is_said():
    with pytest.raises(
        RequestError, match=r"trainer\.frozen: the model has no part 'block' \(it has embeddings, blocks, head\) .*'blocks'"
    ):
        freeze(bert(), ["block"])
    with pytest.raises(RequestError, match="nothing is left that could learn"):
        freeze(bert(), ["embeddings", "blocks", "head"])


def test_a_resumed_fine_tuning_is_the_same_bit_for_bit(tmp_path):
    settings = {"frozen": ["embeddings"], "layer_decay": 0.7, "clip_norm": 1.0, "checkpoint_seconds": 0.0}
    whole = trained(bert(), settings=settings)
    with pytest.raises(Interrupted):
        trained(bert(), settings=settings, checkpoints=Checkpoints(tmp_path), stop_after=8)
    again = trained(bert(), settings=settings, checkpoints=Checkpoints(tmp_path))
    assert weights_sha256(again.weights) == weights_sha256(whole.weights)
    assert weights_sha256(whole.weights) != weights_sha256(trained(bert(), settings=settings | {"layer_decay": 0.6}).weights)


def test_features_are_computed_where_nothing_below_the_head_learns():
    assert below_head_is_frozen(bert(), LOWER)
    assert not below_head_is_frozen(bert(), ["embeddings", "blocks.1"])
    assert not below_head_is_frozen(bert(), [])
    assert not below_head_is_frozen(nn.Sequential(nn.Linear(2, 2)), ["0"])


@pytest.mark.parametrize("predicts", ["sequence", "span"])
def test_features_are_what_the_head_reads_and_are_kept(tmp_path, predicts, monkeypatch):
    model, split = bert(predicts=predicts).eval(), Texts()
    features = compute_once(model, split, of="texts", folder=tmp_path, device=CPU)
    index = torch.tensor([3, 0, 7, 1])
    batch, own = features.batch(index), split.batch(index)
    with torch.no_grad():
        expected = model(own["inputs"], own["lengths"])
        found = model(batch["inputs"], batch["lengths"])
    if predicts == "span":
        words = torch.arange(own["inputs"].shape[1]) < own["lengths"].unsqueeze(1)
        expected, found = expected[words], found[words]
        assert batch["inputs"][~words].abs().max() == 0
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(batch["targets"], own["targets"])

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("components.training.features._computed", refuse)
    assert torch.equal(compute_once(bert(predicts=predicts), split, of="texts", folder=tmp_path, device=CPU).values, features.values)
    with pytest.raises(AssertionError, match="computed again"):  # other weights
        compute_once(bert(predicts=predicts, kernel="explicit", layers=1), split, of="texts", folder=tmp_path, device=CPU)


def test_a_damaged_file_of_features_is_computed_again(tmp_path):
    kept = compute_once(bert(), Texts(), of="texts", folder=tmp_path, device=CPU).values.clone()
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(b"no tensors")
    assert torch.equal(compute_once(bert(), Texts(), of="texts", folder=tmp_path, device=CPU).values, kept)


def test_training_on_kept_features_is_training_on_the_texts(tmp_path):
    settings = {"frozen": LOWER}
    on_texts, on_features = bert(), bert()
    features = compute_once(bert(), Texts(), of="texts", folder=tmp_path, device=CPU)
    assert isinstance(features, FeatureSplit)
    trained(on_texts, settings=settings)
    trained(on_features, features, settings=settings)
    for name, tensor in on_texts.state_dict().items():
        assert torch.allclose(tensor, on_features.state_dict()[name], atol=1e-4), name
    assert not torch.equal(on_features.head.classes.weight, bert().head.classes.weight)
