"""A step written down and repeated: every operation for T trials is the operation for each of them; what cannot be repeated is refused."""

import pytest
import torch
from stacks import CPU, OBJECTIVE, TRAINING, VALIDATION, alone, assert_same_course, mlp, stacked, trial
from torch import nn
from torch.nn import functional as F

from components.data.batches import Batches
from components.models.gru import GRU
from components.models.lstm import LSTM
from components.models.rnn import RNN
from components.models.vgg import VGG
from components.objectives.regression import Regression
from components.objectives.sequence_classification import SequenceClassification
from components.training.stacked import can_stack, group
from components.training.stacked.feed import feed
from components.training.stacked.program import Program
from components.training.stacked.repeated import Value
from components.training.stacked.tape import NotStackableError, record_step

T = 3


class Given:
    """Takes its loss from a function of the model's weight and the batch."""

    monitor = ("loss", "min")

    def __init__(self, function):
        self.function = function

    def losses(self, model, batch):
        return {"loss": self.function(model.weight, **batch)}


class Weight(nn.Module):
    def __init__(self, seed=0, shape=(4, 6)):
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(*shape, dtype=torch.float64))


def repeated(function, batches, *, shape=(4, 6), one_for_all=False, relative=1e-10):
    """Loss and gradient of each trial by the program, after a first run on other numbers; and the tape."""
    models = [Weight(seed, shape) for seed in range(T)]
    step = record_step(models[0], Given(function), batches[0])
    weights = torch.stack([model.weight.detach() for model in models])
    held = weights.clone().normal_()
    given = {"state/weight": Value(held, stacked=True)}
    inputs = {key: batches[0][key].clone() if one_for_all else torch.stack([batch[key] for batch in batches]) for key in batches[0]}
    given |= {f"batch/{key}": Value(value, stacked=not one_for_all) for key, value in inputs.items()}
    program = Program(step.tape, T, given, [step.loss, *step.gradients.values()])
    held.copy_(weights)
    for _ in range(2):  # the second run must not see the first
        program.run()
    loss, gradient = program.value(step.loss), program.value(step.gradients["weight"])
    for place, model in enumerate(models):
        expected = function(model.weight, **batches[0 if one_for_all else place])
        (slope,) = torch.autograd.grad(expected, model.weight)
        torch.testing.assert_close(loss[place], expected.detach(), rtol=relative, atol=1e-12)
        torch.testing.assert_close(gradient[place], slope, rtol=relative, atol=1e-12)
    return step.tape, program


def numbers(*shape, seed=0):
    return [{"x": torch.randn(*shape, generator=torch.Generator().manual_seed(seed + place), dtype=torch.float64)} for place in range(T)]


OPERATIONS = {
    "linear": lambda w, x: F.linear(x, w).tanh().sum(),
    "few columns": lambda w, x: (x @ w[:2].T).square().mean(),
    "many columns": lambda w, x: (x @ w.repeat(9, 1).T).cos().mean(),
    "bias": lambda w, x: torch.addmm(w[:, 0], x, w.T, beta=0.5, alpha=2.0).sigmoid().sum(),
    "a sum with what lies transposed": lambda w, x: (w[:, :4] + (w[:, :4] @ w[:, 2:].T).T).sin().sum() + x.sum(),
    "a sum with itself transposed": lambda w, x: (lambda y: (y + y.T).exp().sum())(w[:, :4] @ w[:, 2:].T) + x.sum(),
    "a product with a part of itself": lambda w, x: (lambda y: (y * y[:1]).sin().sum())(w @ x.T),
    "batched product": lambda w, x: torch.bmm(x.view(5, 2, 3), w.view(4, 2, 3).repeat(2, 1, 1)[:5].mT).square().sum(),
    "softmax over few": lambda w, x: F.log_softmax(x @ w.T, dim=1).square().sum(),
    "softmax over many": lambda w, x: F.log_softmax(x @ w.repeat(20, 1).T, dim=1).square().sum(),
    "softmax over examples": lambda w, x: F.log_softmax(x @ w.T, dim=0).square().sum(),
    "softmax": lambda w, x: (F.softmax(x @ w.T, dim=-1) * torch.arange(4)).sum(),
    "cross-entropy": lambda w, x: F.cross_entropy(x @ w.T, x[:, 0].gt(0).long()),
    "cross-entropy with some ignored": lambda w, x: F.cross_entropy(x @ w.T, torch.where(x[:, 0] > 0, 2, -100)),
    "cross-entropy with weights": lambda w, x: F.cross_entropy(x @ w.T, x[:, 0].gt(0).long(), weight=torch.arange(1.0, 5.0, dtype=w.dtype)),
    "cross-entropy summed": lambda w, x: F.cross_entropy(x @ w.T, x[:, 0].gt(0).long(), reduction="sum"),
    "cross-entropy of places": lambda w, x: F.cross_entropy((x @ w.T).view(1, 4, 5), x[:, 0].gt(0).long().view(1, 5)),
    "label smoothing": lambda w, x: F.cross_entropy(x @ w.T, x[:, 0].gt(0).long(), label_smoothing=0.3),
    "broadcasting": lambda w, x: (w[:, None, :] * x[None] + w.sum() * 0.1 + x[0, 0]).sin().mean(),
    "a number for each trial beside float32": lambda w, x: (w.float() * w.double().sum()).double().square().sum() + x.sum(),
    "sums": lambda w, x: ((x @ w.T).sum(0, keepdim=True).square().sum(1) + w.sum((0, 1)) + w.sum() ** 2).sum(),
    "largest and mean": lambda w, x: (x @ w.T).amax(1).square().mean() + (x @ w.T).mean(0).exp().sum(),
    "views": lambda w, x: (w.t().reshape(-1)[3:15:2] * x.flatten()[:6]).sum(),
    "more views": lambda w, x: w.unsqueeze(0).expand(3, -1, -1).permute(2, 0, 1).cos().sum() + x.sum(),
    "a view of what lies otherwise": lambda w, x: (F.log_softmax(x @ w.T, dim=1).view(-1) * torch.arange(20)).sum(),
    "cutting": lambda w, x: sum(part.square().sum() * place for place, part in enumerate(w.chunk(3, dim=1), start=1)),
    "joining": lambda w, x: torch.cat([w.square(), torch.stack([w[:, 0]] * 3, 1)], 1).sin().sum(),
    "in place": lambda w, x: (w * 2).add_(x[:4]).mul_(w).clamp_(min=-1).sum(),
    "in place of zeros": lambda w, x: torch.zeros(4, 6, dtype=w.dtype).add_(w * x[:4]).square_().sum(),
    "in place of a view": lambda w, x: _filled(w * 1).sum(),
    "in place of what is shared": lambda w, x: (x.abs().add_(1).log_()[:4] * w).sum(),
    "transposed in place": lambda w, x: (w * 1).t_().mul(x[:1].T).square().sum(),
    "looked up": lambda w, x: F.embedding(x[:, 0].gt(0).long(), w).square().sum(),
    "sorted": lambda w, x: (x @ w.T).sort(dim=1).values[:, 0].square().sum(),
    "cumulated": lambda w, x: (x @ w.T).cumsum(0).tanh().sum(),
    "without a rule of vmap's": lambda w, x: torch.special.i0(w).sum() + torch.special.i0(x[:4] * w).sum(),
    "pooling": lambda w, x: F.max_pool1d((x @ w.T)[None], 2).square().sum() + F.adaptive_avg_pool1d((x @ w.T)[None], 3).sum(),
    "convolution": lambda w, x: F.conv2d(x.view(5, 1, 2, 3), w.view(6, 1, 2, 2), w[0], padding=1).square().sum(),
}  # fmt: skip


def _filled(tensor):
    tensor[1].fill_(3.0)
    tensor[:, 2] = tensor[:, 3] * 2
    return tensor.square()


@pytest.mark.parametrize("one_for_all", [False, True], ids=["own batches", "one batch"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_for_all_trials_is_the_operation_for_each(name, one_for_all):
    repeated(OPERATIONS[name], numbers(5, 6), one_for_all=one_for_all, relative=1e-6 if "float32" in name else 1e-10)


def test_a_loss_that_does_not_know_the_batch_has_no_dimension_of_it():
    repeated(lambda w, x: w.square().sum(), numbers(5, 6), one_for_all=True)


def test_memory_that_is_not_needed_any_more_is_used_again():
    def deep(w, x):
        for _ in range(50):
            w = torch.sin(w)
        return w.sum()

    tape, program = repeated(deep, numbers(5, 6))
    needed_at_once = 50 * T * 4 * 6 * 8  # every sine is kept for the slope of the next
    assert needed_at_once <= program.bytes <= 1.1 * needed_at_once
    assert program.bytes < 0.4 * T * tape.new_bytes()


# ---------------------------------------------------------------------- what is refused


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs):
        out = self.layer(inputs)
        return out if out.sum() > 0 else -out


class Selecting(Branching):
    def forward(self, inputs):
        out = self.layer(inputs)
        return out + out[out[:, 0] > 0].mean()


class Counting(Branching):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.layer(inputs) * self.calls


class Remembering(Branching):
    """Looks at its batch behind torch's back."""

    def forward(self, inputs):
        return self.layer(inputs) * float(inputs.detach().numpy().max())


class Drawing(Branching):
    def forward(self, inputs):
        return self.layer(inputs) + torch.randn(4)


class Inside(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), inner)

    def forward(self, inputs):
        return self.body(inputs)


def reason(model, **more):
    found = can_stack(trial(0, model=model, **more))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Inside(Branching()), "what it does depends on the values of its tensors (in body.1)"),
        (Inside(Selecting()), "the shapes of its tensors depend on values (in body.1), in aten.index.Tensor"),
        (Inside(Counting()), "it changes a tensor that outlives the step (in body.1), in aten.add_.Tensor"),
        (Inside(Drawing()), "it draws random numbers elsewhere than in nn.Dropout (in body.1), in aten.randn.default"),
        (Inside(nn.Sequential(nn.AlphaDropout(), nn.Linear(6, 4))), "it draws random numbers elsewhere than in nn.Dropout (in body.1.0)"),
        (Inside(Remembering()), "repeated for other weights and another batch, its step comes to something else than alone"),
        (Inside(nn.BatchNorm1d(6)), "body.1 (BatchNorm1d) uses statistics of the batch"),
        (nn.Linear(6, 4).requires_grad_(False), "it has no trainable parameter"),
    ],
    ids=lambda part: None if isinstance(part, str) else type(part.body[1] if hasattr(part, "body") else part).__name__,
)  # fmt: skip
def test_what_cannot_be_stacked_is_said_with_the_place(model, why):
    assert reason(model).startswith(why)


def test_settings_that_cannot_be_stacked_are_said():
    assert reason(mlp(), accumulate=2) == "it accumulates gradients over several batches"
    assert reason(mlp(), precision="bfloat16") == "it computes in bfloat16"


def test_lists_in_batches_and_losses_with_dimensions_are_refused():
    class Listed:
        lengths = None

        def __len__(self):
            return 8

        def batch(self, index, generator=None):
            return {"inputs": torch.ones(len(index), 6), "boxes": [torch.ones(2, 4)] * len(index), "index": index}

    assert reason(mlp(), split=Listed()) == "'boxes' in its batches is no tensor"
    assert reason(Weight(), objective=Given(lambda w, **_: w.sum(0))) == "its loss has the shape [6] and is no single number"


def test_an_optimizer_that_nobody_knows_is_refused():
    class Own:
        learning_rate = 0.1

    assert reason(mlp(), optimizer=Own()) == "Own has no update rule for many trials"


def test_asking_leaves_a_model_as_it_was():
    model = mlp(0, dropout=0.5).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert can_stack(trial(0, model=model)) is None
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------------- recurrent models


class Sequences:
    """Sequences of tokens with lengths, or of numbers without."""

    lengths = None

    def __init__(self, tokens=None):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(1, tokens, (24, 7), generator=generator) if tokens else torch.randn(24, 7, 2, generator=generator)
        self.targets = torch.arange(24) % 3 if tokens else self.inputs.sum((1, 2))[:, None]
        self.sizes = torch.randint(2, 8, (24,), generator=generator) if tokens else None

    def __len__(self):
        return len(self.targets)

    def batch(self, index, generator=None):
        found = {"inputs": self.inputs[index], "targets": self.targets[index], "index": index}
        return found if self.sizes is None else {**found, "lengths": self.sizes[index]}


def recurrent(kind, kernel, tokens):
    reads = {"vocabulary_size": tokens, "embedding": 4} if tokens else {"input_shape": (7, 2)}
    return kind(classes=3 if tokens else 1, hidden=5, activation=nn.Tanh, kernel=kernel, **reads)


@pytest.mark.parametrize(
    ("kind", "kernel", "tokens"),
    [(LSTM, "explicit", 9), (LSTM, "fused", 9), (GRU, "fused", 9), (LSTM, "fused", None), (RNN, "fused", None)],
)
def test_a_recurrent_model_comes_to_the_same(kind, kernel, tokens):
    split = Sequences(tokens)
    objective = SequenceClassification(classes=3, class_names=["a", "b", "c"]) if tokens else Regression()

    def make():
        trials = []
        for seed in range(2):
            torch.manual_seed(seed)
            model = recurrent(kind, kernel, tokens)
            trials.append(
                trial(seed, model=model, objective=objective, split=split, batch_size=8, epochs=4, clip_norm=1.0, precision="float64")
            )
        return trials

    validation = Batches(split, batch_size=10, seed=0, shuffle=False)
    together, apart = make(), make()
    stacked(together, validation)
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs, validation)
        assert_same_course(ours, theirs, relative=1e-9)


class Texts(Sequences):
    """Texts of 2 to 21 tokens; a batch is as long as its longest."""

    def __init__(self):
        super().__init__(9)
        generator = torch.Generator().manual_seed(1)
        self.lengths = torch.randint(2, 22, (24,), generator=generator)
        self.inputs = torch.randint(1, 9, (24, 21), generator=generator) * (torch.arange(21) < self.lengths[:, None])

    def batch(self, index, generator=None):
        lengths = self.lengths[index]
        return {"inputs": self.inputs[index, : lengths.max()], "lengths": lengths, "targets": self.targets[index], "index": index}


def test_texts_of_many_lengths_are_padded_to_a_few_and_come_to_the_same():
    split, objective = Texts(), SequenceClassification(classes=3, class_names=["a", "b", "c"])

    def make():
        trials = []
        for seed in range(2):
            torch.manual_seed(seed)
            model = recurrent(GRU, "fused", 9)
            trials.append(trial(seed, model=model, objective=objective, split=split, order=0, batch_size=4, epochs=4, precision="float64"))
        return trials

    together, apart = make(), make()
    validation = Batches(split, batch_size=10, seed=0, shuffle=False)
    stacked(together, validation)
    for ours, theirs in zip(together, apart, strict=True):
        alone(theirs, validation)
        assert_same_course(ours, theirs, relative=1e-9)
    source = together[0].batches
    lengths = {batch["inputs"].shape[1] for epoch in range(4) for batch in source.epoch(epoch)}
    fed = {batch["inputs"].shape[1] for epoch in range(4) for batch, _ in feed([source], [epoch], first=0)}
    assert len(lengths) > len(fed)
    assert fed <= {8, 16, 21}


class Packing(nn.Module):
    """torch's own LSTM over what is packed by its lengths."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(6, 4, batch_first=True)

    def forward(self, inputs):
        lengths = (inputs[:, 0] > 0).long().cpu() + 1
        packed = nn.utils.rnn.pack_padded_sequence(inputs[:, None].expand(-1, 2, -1), lengths, batch_first=True, enforce_sorted=False)
        return self.cell(packed)[1][0][0]


def test_packed_sequences_are_refused():
    assert "depends on the values of its tensors (in cell)" in reason(Packing())


# ---------------------------------------------------------------------- who shares a program


def test_trials_are_grouped_by_what_they_share():
    vgg = VGG(input_shape=[1, 8, 8], classes=4, stages=[[4]], head=[], pool_to=2, activation=nn.ReLU, batch_norm=True)
    given = [
        trial(0),
        trial(1, model=mlp(1, hidden=(9,))),
        trial(2, epochs=7, clip_norm=1.0, patience=2, log_every=9),
        trial(3, model=mlp(3, activation=nn.Tanh)),
        trial(4, model=mlp(4, dropout=0.2)),
        trial(5, model=mlp(5, dropout=0.4)),
        trial(6, batch_size=8),
        trial(7, precision="float64"),
        trial(8, model=mlp(8, activation=lambda: nn.LeakyReLU(0.1))),
        trial(9, model=mlp(9, activation=lambda: nn.LeakyReLU(0.2))),
        trial(10, model=vgg),
    ]
    found = group(given)
    names = [[member.name for member in members] for members in found.together]
    assert names == [
        ["trial 0", "trial 2"],
        *([f"trial {place}"] for place in (1, 3)),
        ["trial 4", "trial 5"],
        *([f"trial {place}"] for place in (6, 7, 8, 9)),
    ]
    assert [(member.name, why) for member, why in found.alone] == [("trial 10", "features.1 (BatchNorm2d) uses statistics of the batch")]


def test_objectives_are_compared_by_what_is_in_them_tensors_too():
    class Weighted(Given):
        def __init__(self, weights):
            self.weights = torch.tensor(weights)

        def losses(self, model, batch):
            return {"loss": F.cross_entropy(model(batch["inputs"]), batch["targets"], weight=self.weights)}

    objectives = [Weighted([1.0, 2.0, 3.0, 4.0]), Weighted([4.0, 3.0, 2.0, 1.0]), Weighted([1.0, 2.0, 3.0, 4.0])]
    found = group([trial(seed, objective=objective) for seed, objective in enumerate(objectives)])
    assert [[member.name for member in members] for members in found.together] == [["trial 0", "trial 2"], ["trial 1"]]


@pytest.mark.parametrize("first", [{}, {"accumulate": 2}], ids=["it comes second", "it comes first"])
def test_what_a_trial_cannot_do_is_its_own_and_not_its_programs(first):
    second = {"accumulate": 2} if not first else {}
    found = group([trial(0, **first), trial(1, **second), trial(2)])
    stackable = {0, 1, 2} - ({1} if not first else {0})
    assert [{each.seed for each in alike} for alike in found.together] == [stackable]
    assert [reason for _, reason in found.alone] == ["it accumulates gradients over several batches"]


def test_batches_padded_by_their_own_lengths_need_the_same_order():
    class Ragged(type(TRAINING)):
        lengths = torch.arange(130)

    split = Ragged()
    found = group([trial(0, split=split), trial(1, split=split), trial(2, split=split, order=1)])
    assert [[member.name for member in members] for members in found.together] == [["trial 0"], ["trial 1", "trial 2"]]


def test_recording_refuses_a_model_with_its_own_error():
    with pytest.raises(NotStackableError, match="no trainable parameter"):
        record_step(nn.Linear(6, 4).requires_grad_(False), OBJECTIVE, next(iter(VALIDATION.epoch(0))))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # what is wrong alone is wrong here
        can_stack(trial(0, model=nn.Linear(5, 4).to(CPU)))
