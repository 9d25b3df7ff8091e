"""Updates against torch's optimizers, masks against their probability, what memory is counted, and which way is chosen."""

import math

import pytest
import torch
from stacks import CPU, TRAINING, VALIDATION, Clouds, mlp, stacked, trial
from test_stacked import OPTIMIZERS
from torch import nn

from components.data.batches import Batches
from components.errors import RequestError
from components.optimizers import Adam, GradientDescent, decays
from components.training.stacked import Choice, Memory, fastest, fit_stacked, largest_stack, memory_of, planning
from components.training.stacked.block import Block
from components.training.stacked.bound import Architecture, architecture_of
from components.training.stacked.feed import feed
from components.training.stacked.masks import LEVELS, Masks
from components.training.stacked.trials import Member
from components.training.stacked.updates import ROWS, SLOTS, VECTORS, ByRows, ByVectors, Stack, update_for

# ---------------------------------------------------------------------- updates


def stack_of(models, optimizers):
    named = [dict(model.named_parameters()) for model in models]
    parameters = [torch.stack([parameters[name].detach() for parameters in named]) for name in named[0]]
    return Stack(optimizers, parameters, [torch.zeros_like(parameter) for parameter in parameters], list(decays(models[0]).values()))


@pytest.mark.parametrize("form", [ByRows, ByVectors])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_forms_of_every_rule_take_the_steps_of_torchs_optimizer(name, form):
    optimizers = OPTIMIZERS[name]
    if form is ByRows and type(optimizers[0]) not in ROWS:
        assert isinstance(update_for(stack_of([mlp(0).double()], optimizers[:1])), ByVectors)
        return
    models = [mlp(seed).double() for seed in range(len(optimizers))]
    stack = stack_of(models, optimizers)
    update, alone = form(stack), [optimizer.build(model) for optimizer, model in zip(optimizers, models, strict=True)]
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        factor = 1 / (1 + step)
        for trial_, (model, optimizer, built) in enumerate(zip(models, optimizers, alone, strict=True)):
            for parameter, gradients in zip(model.parameters(), stack.gradients, strict=True):
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10.0 ** (step % 5 - 3)
                gradients[trial_].copy_(parameter.grad)
            for group in built.param_groups:
                group["lr"] = optimizer.learning_rate * factor
            built.step()
        update.step([optimizer.learning_rate * factor for optimizer in optimizers])
    assert update.counts == [20, 20]
    for place, parameters in enumerate(zip(*(model.parameters() for model in models), strict=True)):
        torch.testing.assert_close(stack.parameters[place], torch.stack([p.detach() for p in parameters]), rtol=1e-11, atol=1e-13)


def test_every_rule_is_there_in_the_form_that_all_devices_have():
    assert VECTORS.keys() == SLOTS.keys() == {type(pair[0]) for pair in OPTIMIZERS.values()}
    assert ROWS.keys() < SLOTS.keys()


@pytest.mark.parametrize("form", [ByRows, ByVectors])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_trials_infinite_gradient_stays_its_own(name, form):
    optimizers = [OPTIMIZERS[name][0]] * 3
    if form is ByRows and type(optimizers[0]) not in ROWS:
        return
    stacks = [stack_of([mlp(seed) for seed in range(3)], optimizers) for _ in range(2)]
    for place, stack in enumerate(stacks):
        update = form(stack)
        for _ in range(2):
            for gradient in stack.gradients:
                gradient.fill_(0.1)
                if place:
                    gradient[1].fill_(torch.inf)
            update.step([0.1] * 3)
    for clean, disturbed in zip(stacks[0].parameters, stacks[1].parameters, strict=True):
        for row in (0, 2):
            assert torch.equal(clean[row], disturbed[row])
        assert not torch.equal(clean[1], disturbed[1])


# ---------------------------------------------------------------------- masks


def masks(seeds, rates, shape=(40, 50), **more):
    return Masks(0, torch.Size(shape), seeds, rates, ahead=True, dtype=torch.float32, device=CPU, **more)


def test_a_mask_drops_its_rate_and_keeps_the_mean():
    drawn = masks([0, 1, 2], [0.5, 0.1, 0.9])
    seen = []
    for step in range(50):
        drawn.load([step] * 3)
        seen.append(drawn.now.clone())
    every = torch.stack(seen, 1).flatten(1)  # 100,000 units of each trial
    for row, rate in zip(every, [0.5, 0.1, 0.9], strict=True):
        assert sorted(row.unique().tolist()) == pytest.approx([0, 1 / (1 - rate)])
        assert (row == 0).double().mean().item() == pytest.approx(rate, abs=0.006)  # four standard deviations
    halves = (every[0] == 0).double()
    assert torch.corrcoef(torch.stack([halves, (every[1] == 0).double()]))[0, 1].abs() < 0.015
    assert torch.corrcoef(torch.stack([halves[:-1], halves[1:]]))[0, 1].abs() < 0.015


def test_a_mask_follows_from_seed_place_and_step_alone():
    together, by_itself = masks([3, 4], [0.5, 0.3]), masks([4], [0.3])
    for steps in ([0, 7], [200, 8], [1, 64]):
        together.load(steps)
        by_itself.load(steps[1:])
        assert torch.equal(together.now[1], by_itself.now[0])
    other = Masks(1, torch.Size((40, 50)), [4], [0.3], ahead=True, dtype=torch.float32, device=CPU)
    other.load([64])
    assert not torch.equal(other.now, by_itself.now)
    by_itself.load([65])
    assert not torch.equal(by_itself.now[0], together.now[1])


@pytest.mark.parametrize("rate", [1e-9, 0.5 / LEVELS, 1 - 1e-9])
def test_rates_at_the_edge_neither_keep_nor_drop_everything_for_certain(rate):
    drawn = masks([0], [rate])
    assert (-LEVELS // 2) < drawn._below.item() < LEVELS // 2


# ---------------------------------------------------------------------- feed


def test_every_trial_is_fed_its_own_order_and_one_batch_where_it_is_the_same():
    sources = [Batches(TRAINING, batch_size=16, seed=seed, shuffle=True) for seed in (0, 1, 0)]
    fed = list(feed(sources, [0, 2, 0], first=7))
    assert [one_for_all for _, one_for_all in fed] == [False, False]
    for trial_, (source, epoch) in enumerate(zip(sources, [0, 2, 0], strict=True)):
        for (batch, _), alone in zip(fed, source.epoch(epoch, first=7), strict=True):
            for key, value in alone.items():
                assert torch.equal(batch[key][trial_], value)
    one = list(feed(sources[::2], [3, 3], first=0))
    assert all(
        one_for_all and torch.equal(batch["index"], alone["index"])
        for (batch, one_for_all), alone in zip(one, sources[0].epoch(3), strict=True)
    )
    assert not any(one_for_all for _, one_for_all in feed(sources[::2], [3, 4], first=0))


def test_augmented_examples_are_drawn_by_each_trials_own_generator():
    class Noisy(Clouds):
        augments = True

        def batch(self, index, generator=None):
            found = super().batch(index)
            found["inputs"] = found["inputs"] + torch.randn(found["inputs"].shape, generator=generator)
            return found

    split = Noisy()
    sources = [Batches(split, batch_size=16, seed=seed, shuffle=True) for seed in range(2)]
    for (batch, _), first, second in zip(feed(sources, [1, 1], first=0), sources[0].epoch(1), sources[1].epoch(1), strict=True):
        assert torch.equal(batch["inputs"], torch.stack([first["inputs"], second["inputs"]]))


# ---------------------------------------------------------------------- planning


def taken(count, **more):
    """Bytes of a block of so many trials that has trained an epoch: every storage once, found by looking."""
    trials = [trial(seed, epochs=1, model=mlp(seed, hidden=(64, 32), dropout=0.3), **more) for seed in range(count)]
    block = Block(
        architecture_of(trials[0], CPU),
        [Member.of(given, CPU) for given in trials],
        VALIDATION,
        device=CPU,
        tell=lambda *_: None,
    )
    block.train(lambda: False)
    storages, seen = {}, set()

    def look(item):
        if id(item) in seen or isinstance(item, (str, bytes, type, nn.Module, Batches)):
            return
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            list(map(look, item.values()))
        elif isinstance(item, (list, tuple, set)):
            list(map(look, item))
        elif hasattr(item, "__self__") and isinstance(item.__self__, torch.Tensor):
            look(item.__self__)
        elif hasattr(item, "func"):
            look((item.func, item.args, item.keywords))
        elif type(item).__module__.startswith("components.training.stacked") and not isinstance(item, Architecture):
            look(vars(item))

    look([block.weights, block.gradients, block._steps, block._updates, block._validation._answers])
    return sum(storages.values())


def test_memory_is_counted_as_it_is_taken():
    weights = sum(parameter.nbytes for parameter in mlp(hidden=(64, 32)).parameters())
    memory = memory_of(trial(0, model=mlp(hidden=(64, 32), dropout=0.3)), VALIDATION, device=CPU)
    for count in (1, 8):
        beside = 2 * weights + (1 + 2) * weights  # own model and best weights; weights and moments once more
        assert memory.fixed + count * memory.each == pytest.approx(taken(count) + count * beside, rel=0.05)


def test_the_largest_stack_is_computed():
    memory = Memory(fixed=100, each=40)
    assert [memory.trials(available) for available in (0, 139, 140, 179, 180, 1000)] == [0, 0, 1, 1, 2, 22]
    given = trial(0)
    one = memory_of(given, VALIDATION, device=CPU)
    assert largest_stack(given, VALIDATION, device=CPU, memory=one.fixed + 5 * one.each + 1) == 5
    deeper = memory_of(trial(0, model=mlp(hidden=(12, 12, 12, 8))), VALIDATION, device=CPU)
    assert deeper.each > one.each
    with pytest.raises(RequestError, match="cannot be stacked: it computes in bfloat16"):
        memory_of(trial(0, precision="bfloat16"), None, device=CPU)


def test_counting_and_timing_leave_the_trials_alone():
    given = [trial(seed) for seed in range(3)]
    before = [{name: tensor.clone() for name, tensor in each.model.state_dict().items()} for each in given]
    memory_of(given[0], VALIDATION, device=CPU)
    fastest(given, device=CPU, lanes=1)
    for each, weights in zip(given, before, strict=True):
        assert all(torch.equal(weights[name], tensor) for name, tensor in each.model.state_dict().items())
        assert each.recorder.series == {}


@pytest.mark.parametrize("lanes", [1, 2])
def test_many_tiny_trials_are_quickest_stacked(lanes):
    found = fastest([trial(seed, optimizer=Adam()) for seed in range(24)], device=CPU, lanes=lanes)
    assert found.way == "stacked"
    way = f"stacked {found.width} at a time" + " in 2 lanes" * (found.lanes == 2)
    assert found.reason.startswith(f"{way} takes ")
    assert found.seconds["one by one"] > found.seconds[way] > 0


def test_the_quickest_way_is_chosen(monkeypatch):
    """With a clock of its own: alone 100, stacked 60 + 10 for each trial beside, half of that in two lanes."""

    class Pretended:
        def __init__(self, trials, width=None, lanes=1, device=None):
            self.seconds = 100.0 if device is None else (60.0 + 10 * width) / lanes

        def __call__(self):
            return self.seconds

    monkeypatch.setattr(planning, "SLOW", 1000)
    monkeypatch.setattr(planning, "_Alone", lambda trials, device: Pretended(trials))
    monkeypatch.setattr(planning, "_Stacked", Pretended)
    trials = [trial(seed) for seed in range(12)]
    found = fastest(trials, device=CPU, lanes=1)
    assert (found.way, found.width, found.lanes) == ("stacked", 1, 1)
    assert found.seconds == {"one by one": 100, **{f"stacked {w} at a time": 60 + 10 * w for w in (1, 2, 4, 8, 12)}}
    few = fastest(trials, device=CPU, lanes=2, most=4)
    assert (few.width, few.lanes, few.seconds["stacked 2 at a time in 2 lanes"], few.seconds["stacked 4 at a time"]) == (1, 2, 40, 100)
    monkeypatch.setattr(planning, "SLOW", 99)  # then only the widest and the narrowest are timed
    assert list(fastest(trials, device=CPU, lanes=1).seconds) == ["one by one", "stacked 12 at a time", "stacked 1 at a time"]
    monkeypatch.setattr(planning, "SLOW", 1000)
    monkeypatch.setattr(planning, "WORTH", 0.3)
    assert fastest(trials, device=CPU, lanes=1) == Choice(
        "one by one", 1, 1, found.seconds, "stacked 1 at a time takes 70000000 µs a step and trial, one by one 100000000 µs"
    )


def test_trials_that_leave_the_numbers_are_timed_all_the_same():
    wild = [trial(seed, optimizer=GradientDescent(learning_rate=1e30)) for seed in range(4)]
    assert fastest(wild, device=CPU, lanes=1).seconds["one by one"] < 1
    with torch.no_grad():
        for each in wild:
            next(each.model.parameters()).fill_(math.nan)
    found = fastest(wild, device=CPU, lanes=1)
    assert (found.way, found.seconds["one by one"]) == ("stacked", math.inf)


def test_why_trials_are_trained_one_by_one():
    assert fastest([trial(0)], device=CPU).reason == "there is only one"
    assert fastest([trial(0), trial(1)], device=CPU, most=1).reason == "only one fits into memory"
    assert fastest([trial(0), trial(1, model=mlp(1, hidden=(3,)))], device=CPU).reason == "they share no program"
    found = fastest([trial(0, precision="bfloat16"), trial(1)], device=CPU)
    assert (found.way, found.reason) == ("one by one", "trial 0 cannot be stacked: it computes in bfloat16")


def test_the_compiler_is_not_imported():
    """It takes longer than the rest of torch."""
    import subprocess
    import sys
    from pathlib import Path

    program = """
import sys
from stacks import stacked, trial, mlp
stacked([trial(seed, epochs=1, model=mlp(seed, dropout=0.5)) for seed in range(2)])
print("torch._dynamo" in sys.modules)
"""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=here.parents[1],
        env={"PYTHONPATH": f".:{here}", "PATH": ""},
    )
    assert done.stdout == "False\n"


def test_width_limits_the_blocks(monkeypatch):
    widths = []
    form = Block._form
    monkeypatch.setattr(Block, "_form", lambda self, members: (widths.append(len(members)), form(self, members))[1])
    fit_stacked([trial(seed, epochs=1) for seed in range(7)], None, device=CPU, width=3, lanes=1)
    assert widths == [2, 2, 3]
    widths.clear()
    fit_stacked([trial(seed, epochs=1) for seed in range(7)], None, device=CPU, width=3, lanes=2)
    assert widths == [1, 2, 2, 2]
    widths.clear()
    stacked([trial(seed, epochs=1) for seed in range(2)], lanes=5)
    assert widths == [1, 1]
