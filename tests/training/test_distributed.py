"""Two real processes against one: the same losses, the same gradients, the same weights."""

import math

import pytest
import torch
from groups import pair
from torch import nn
from torch.nn import functional as F

from components.data.batches import Batches
from components.data.text_stream import StreamSplit
from components.errors import Interrupted, NotFiniteError, RequestError
from components.models.gpt import GPT
from components.objectives.language_modelling import LanguageModelling
from components.optimizers import Adam
from components.schedules import Cosine
from components.training import distributed, loop, randomness
from components.training.checkpoint import Checkpoints, weights_sha256
from components.training.settings import Trainer

CPU = torch.device("cpu")
CLOSE = {"rtol": 0, "atol": 1e-9}


class Points:
    """Two clouds of points."""

    lengths = None

    def __init__(self, count, *, augments=False, broken=None):
        generator = torch.Generator().manual_seed(1)
        self.targets = torch.arange(count) % 2
        self.inputs = torch.randn(count, 3, generator=generator) + 2 * self.targets[:, None]
        self.augments = augments
        if broken is not None:
            self.inputs[broken] = math.inf

    def __len__(self):
        return len(self.targets)

    def batch(self, index, generator=None):
        noise = 0 if generator is None else torch.randn(len(index), 3, generator=generator)
        return {"inputs": self.inputs[index] + noise, "targets": self.targets[index], "index": index}


class Classify:
    monitor = ("accuracy", "max")

    def losses(self, model, batch):
        return {"loss": F.cross_entropy(model(batch["inputs"]), batch["targets"])}

    def outcomes(self, model, batch):
        return {"index": batch["index"], "correct": model(batch["inputs"]).argmax(1) == batch["targets"]}

    def metrics(self, outcomes):
        # Where the order counts, it has to be that of one process.
        weights = torch.arange(1, len(outcomes["index"]) + 1).double()
        return {"accuracy": outcomes["correct"].double().mean().item(), "order": float((weights * outcomes["index"]).sum())}


class Memory:
    def __init__(self):
        self.series = {}

    def metrics(self, values, *, step, epoch):
        for name, value in values.items():
            if not name.endswith("per_second"):
                self.series.setdefault(name, {})[step] = value

    def figure(self, name, figure, *, step):
        raise AssertionError("the loop draws nothing")

    def flush(self):
        pass


def clouds(count=37, dropout=0.0, **more):
    """37 examples in batches of 6: the last batch is one example, which only one of two processes has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))
    return model, Classify(), Points(count, **more), Points(23), 6


def text(dropout=0.0):
    """A text of 5-letter blocks, of which the last is shorter; the processes' shares differ in tokens."""
    torch.manual_seed(0)
    model = GPT(vocabulary_size=7, context=8, channels=8, heads=2, layers=2, dropout=dropout, predicts="next", activation=nn.GELU)
    tokens = torch.randint(7, (98,), generator=torch.Generator().manual_seed(3))
    split = StreamSplit(tokens, torch.arange(98), 5)
    return model, LanguageModelling(), split, split, 3


def train(fit, problem, settings, *, folder=None, stop_after=None):
    """One training; returns its series, its weights, where it stood, and what ended it."""
    model, objective, split, validation, size = problem
    recorder, asked = Memory(), iter(range(10**6))
    randomness.seed_everything(7)
    try:
        fitted = fit(
            model,
            objective,
            Batches(split, batch_size=size, seed=3, shuffle=True),
            Batches(validation, batch_size=4, seed=0, shuffle=False),
            optimizer=Adam(learning_rate=0.01),
            schedule=Cosine(),
            settings=settings,
            device=CPU,
            recorder=recorder,
            checkpoints=Checkpoints(folder) if folder else None,
            stopping=lambda: stop_after is not None and next(asked) + 1 >= stop_after,
        )
    except (Interrupted, NotFiniteError, RequestError) as error:
        return recorder.series, None, str(error)
    return recorder.series, fitted.weights, weights_sha256(fitted.weights)


def here(problem, settings):
    return train(loop.fit, problem[0](**problem[1]), settings)


def there(problem, settings, folder=None, stop_after=None):
    """In one of the two processes; only the second may be told to stop."""
    from torch import distributed as dist

    rank = dist.get_rank()
    return train(
        distributed.fit,
        problem[0](**problem[1]),
        settings,
        folder=folder if rank == 0 else None,
        stop_after=stop_after if rank == 1 else None,
    )


@pytest.fixture(scope="module")
def two():
    with pair() as processes:
        yield processes


def settings(**more):
    return Trainer(
        **{
            "epochs": 3,
            "precision": "float64",
            "batch_size": 6,
            "log_every": 1,
            "diagnose_every": 4,
            "device": "cpu",
            "deterministic": False,
            **more,
        }
    )


def agree(alone, together):
    """All curves and the weights of one process and of two."""
    (series, weights, _), ((first, its_weights, digest), (second, _, other_digest)) = alone, together
    assert digest == other_digest
    assert second == {}, "only the first process records"
    assert first.keys() == series.keys()
    for name, points in series.items():
        assert first[name].keys() == points.keys()
        if not name.startswith("saturation"):  # of the first process's share
            torch.testing.assert_close(list(first[name].values()), list(points.values()), **CLOSE)
    for name, tensor in weights.items():
        torch.testing.assert_close(its_weights[name], tensor, **CLOSE)


@pytest.mark.parametrize(
    ("problem", "more"),
    [
        ((clouds, {}), {}),
        ((clouds, {}), {"accumulate": 2, "clip_norm": 0.05}),
        ((clouds, {"augments": True}), {}),
        ((text, {}), {}),
        ((text, {}), {"sharding": "full", "clip_norm": 0.5}),
    ],
    ids=["mlp", "mlp accumulated and clipped", "mlp augmented", "gpt", "gpt sharded"],
)
def test_two_processes_give_the_losses_gradients_and_weights_of_one(two, problem, more):
    agree(here(problem, settings(**more)), two.together(there, problem, settings(**more)))


@pytest.mark.parametrize(
    ("problem", "more"),
    [((clouds, {"dropout": 0.5}), {}), ((text, {"dropout": 0.2}), {"sharding": "full"})],
    ids=["mlp", "gpt sharded"],
)
def test_stopped_by_one_and_gone_on_is_bit_for_bit_the_same(two, tmp_path, problem, more):
    whole = settings(precision="float32", **more)
    undisturbed = two.together(there, problem, whole)
    assert undisturbed[0][2] == undisturbed[1][2]
    stopped = two.together(there, problem, whole, tmp_path, 9)
    assert [end for *_, end in stopped] == ["stopped at step 9 of 21"] * 2
    resumed = two.together(there, problem, whole, tmp_path)
    assert [end for *_, end in resumed] == [end for *_, end in undisturbed]
    assert {**stopped[0][0]["train/loss"], **resumed[0][0]["train/loss"]} == undisturbed[0][0]["train/loss"]


def test_each_process_draws_its_own_dropout_masks(two):
    """With the same ones the two halves of a batch would not be independent."""
    first, second = two.together(seeded)
    assert first == 7
    assert second not in (7, first)


def seeded():
    there((clouds, {"dropout": 0.5}), settings(epochs=1))
    return torch.initial_seed()


def test_the_layer_that_broke_is_named_whoever_had_the_example(two):
    """Each process has half of a batch, so one of the two sees only finite numbers."""
    ends = [end for *_, end in two.together(there, (clouds, {"broken": 5}), settings())]
    alone = here((clouds, {"broken": 5}), settings())[2]
    assert "first layer whose output is not finite is 0" in alone
    assert ends == [alone] * 2


def test_what_cannot_be_sharded_is_refused(two):
    for _, _, end in two.together(there, (clouds, {}), settings(sharding="full")):
        assert end == "trainer.sharding: full is for Transformers; Sequential has no Transformer block (choose none)"


def test_the_shares_of_a_batch_are_the_batch():
    batches = Batches(Points(10), batch_size=4, seed=0, shuffle=True)
    shares = [list(distributed.Share(batches, rank, 3).epoch(0)) for rank in range(3)]
    for step, whole in enumerate(batches.epoch(0)):
        parts = [share[step] for share in shares]
        taken = [part["index"] for part in parts if not part.get("idle")]
        assert torch.equal(torch.cat(taken), whole["index"])
    assert [len(share[0]["index"]) for share in shares] == [1, 1, 2]
    assert [bool(share[2].get("idle")) for share in shares] == [True, False, False]
