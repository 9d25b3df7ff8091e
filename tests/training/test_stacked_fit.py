"""Who leaves, who joins, who fails; and a stack that is stopped anywhere and goes on is the stack that was never stopped."""

import math
from dataclasses import replace

import pytest
import torch
from stacks import CPU, VALIDATION, Clouds, Memory, alone, assert_same_course, curves, mlp, stacked, trial
from torch import nn

from components.errors import CheckpointError, Interrupted, NotFiniteError, RequestError, RunError
from components.objectives.classification import Classification
from components.optimizers import Adadelta, Adam, AdamW, GradientDescent, Momentum, RMSprop
from components.schedules import Constant
from components.training.checkpoint import Checkpoints, weights_sha256
from components.training.stacked import fit_stacked
from components.training.stacked.block import Block

SEVERAL = [Adam(learning_rate=0.01), Momentum(), RMSprop(), AdamW(), Adadelta(), GradientDescent()]


def several(**more):
    return [
        trial(seed, optimizer=optimizer, model=mlp(seed, dropout=0.3 * (seed % 2)), **{"epochs": 3, **more})
        for seed, optimizer in enumerate(SEVERAL)
    ]


# ---------------------------------------------------------------------- leaving


def exploding(seed=0, **more):
    """Its loss is no number from its second step on."""
    return trial(seed, optimizer=GradientDescent(learning_rate=1e30), schedule=Constant(), **more)


def test_one_trials_nan_is_its_own():
    together = [trial(0, precision="float64"), exploding(1, precision="float64"), trial(2, precision="float64")]
    ends = stacked(together)
    failed = ends[1].error
    assert isinstance(failed, NotFiniteError)
    assert [end.error for end in (ends[0], ends[2])] == [None, None]
    with pytest.raises(NotFiniteError) as expected:
        alone(exploding(1, precision="float64"))
    assert (failed.step, failed.layer) == (expected.value.step, expected.value.layer)
    assert (str(failed), math.isfinite(failed.value)) == (str(expected.value), False)
    assert together[1].recorder.flushed >= 1
    for place in (0, 2):
        apart = trial(place, precision="float64")
        alone(apart)
        assert_same_course(together[place], apart, relative=1e-9)


def test_a_trial_whose_answers_are_no_numbers_in_validation_is_the_only_one_to_fail():
    class Breaking(Classification):
        def outcomes(self, model, batch):
            found = super().outcomes(model, batch)
            if found["nll"].mean() > 5:
                raise RunError("these answers cannot be used")
            return found

    objective = Breaking(classes=4, class_names=["a", "b", "c", "d"])
    wild = mlp(1)
    with torch.no_grad():
        wild.layers.output.weight.mul_(1000)
    trials = [
        trial(0, objective=objective, epochs=2),
        trial(1, objective=objective, epochs=2, model=wild, optimizer=Adam(learning_rate=1e-9)),
    ]
    ends = stacked(trials)
    assert [str(end.error) for end in ends] == ["None", "these answers cannot be used"]
    assert [end.state.step for end in ends] == [18, 9]


def shapes_of_blocks(monkeypatch):
    """T of every block's weights whenever one is formed."""
    seen = []
    form = Block._form

    def watched(self, members):
        form(self, members)
        seen.append(len(next(iter(self.weights.values()))) if self.weights else 0)

    monkeypatch.setattr(Block, "_form", watched)
    return seen


def test_pruned_trials_leave_the_stack_and_the_rest_is_smaller(monkeypatch):
    seen, asked = shapes_of_blocks(monkeypatch), []

    def keep(given, metrics, state):
        asked.append((given.name, state.epoch, sorted(metrics)))
        return not (state.epoch == 2 and given.name in ("trial 1", "trial 3"))

    trials = [trial(seed, epochs=3, precision="float64") for seed in range(5)]
    ends = stacked(trials, on_validation=keep)
    assert seen == [5, 3]
    assert [end.pruned for end in ends] == [False, True, False, True, False]
    assert [end.state.step for end in ends] == [27, 18, 27, 18, 27]
    assert asked[:2] == [
        ("trial 0", 1, ["accuracy", "calibration_error", "f1", "nll"]),
        ("trial 1", 1, ["accuracy", "calibration_error", "f1", "nll"]),
    ]
    assert len(asked) == 5 + 5 + 3
    for place in (0, 2, 4):
        apart = trial(place, epochs=3, precision="float64")
        alone(apart)
        assert_same_course(trials[place], apart, relative=1e-9)


def test_a_trial_that_fails_inside_an_epoch_leaves_at_once(monkeypatch):
    seen = shapes_of_blocks(monkeypatch)
    stacked([trial(0, epochs=2), exploding(1, epochs=2), trial(2, epochs=2)])
    assert seen == [3, 2]


def test_a_finished_trial_is_not_called_pruned():
    (end,) = stacked([trial(0, epochs=1)], on_validation=lambda *_: False)
    assert not end.pruned


# ---------------------------------------------------------------------- joining


def test_new_trials_join_when_an_epoch_begins_and_come_to_what_they_come_to_alone(monkeypatch):
    seen, told = shapes_of_blocks(monkeypatch), []
    first = [trial(seed, epochs=epochs, precision="float64") for seed, epochs in enumerate([1, 3, 1])]
    later = [trial(7, epochs=2, precision="float64"), trial(8, epochs=1, precision="float64")]
    calls = iter([[], later[:1], later[1:]])
    ends = stacked(first, joining=lambda: next(calls, []), on_end=lambda ends: told.extend((end.name, end.state.step) for end in ends))
    assert told == [("trial 0", 9), ("trial 2", 9), ("trial 1", 27), ("trial 7", 18), ("trial 8", 9)]
    assert [end.name for end in ends] == ["trial 0", "trial 1", "trial 2", "trial 7", "trial 8"]
    assert seen == [3, 2, 3]
    for given, place in zip([*first, *later], [0, 1, 2, 7, 8], strict=True):
        apart = trial(place, epochs=given.settings.epochs, precision="float64")
        alone(apart)
        assert_same_course(given, apart, relative=1e-9)


def test_everybody_may_come_by_joining():
    waiting = [[trial(0, epochs=1)], [trial(1, epochs=1), trial(2, epochs=1)], []]
    ends = stacked([], joining=lambda: waiting.pop(0) if waiting else [])
    assert [end.name for end in ends] == ["trial 0", "trial 1", "trial 2"]


def test_two_trials_of_one_name_are_refused():
    with pytest.raises(RequestError, match="two trials are called 'trial 0'"):
        stacked([trial(0), trial(0)])


def test_what_cannot_be_stacked_is_refused_by_name():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    with pytest.raises(RequestError, match=r"trial 3 cannot be stacked: 1 \(BatchNorm1d\) uses statistics of the batch"):
        stacked([trial(0), trial(3, model=model)])


# ---------------------------------------------------------------------- stopping and going on


def hashes(ends):
    return {end.name: weights_sha256(end.weights) for end in ends}


def stopped_after(steps, trials, folder, **more):
    """Run until `stopping` has been asked so often; says whether that came."""
    asked = 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked >= steps

    with pytest.raises(Interrupted, match="trials in training"):
        stacked(trials, checkpoints=Checkpoints(folder), stopping=stopping, **more)


ONE_BLOCK, THREE_BLOCKS, TWO_LANES = {}, {"width": 2}, {"width": 4, "lanes": 2}


@pytest.mark.parametrize(
    ("way", "stop_at"),
    [
        *((ONE_BLOCK, steps) for steps in (1, 8, 9, 17, 27)),  # after 8 and 17 steps an epoch's last, smaller batch comes first
        *((THREE_BLOCKS, steps) for steps in (14, 28, 81)),  # asked once for each block's step
        *((TWO_LANES, steps) for steps in (10, 31)),
    ],
)
def test_a_stack_that_is_stopped_anywhere_and_resumed_is_the_stack_that_was_not(tmp_path, stop_at, way):
    whole = several(log_every=4)
    expected = stacked(whole, **way)
    recorders = [Memory() for _ in SEVERAL]

    def again():
        return [replace(given, recorder=recorder) for given, recorder in zip(several(log_every=4), recorders, strict=True)]

    stopped_after(stop_at, again(), tmp_path, **way)
    second = again()
    ends = stacked(second, checkpoints=Checkpoints(tmp_path), **way)
    assert hashes(ends) == hashes(expected)
    assert [end.state for end in ends] == [end.state for end in expected]
    assert [curves(given) for given in second] == [curves(given) for given in whole]
    for resumed, never_stopped in zip(second, whole, strict=True):
        assert weights_sha256(resumed.model.state_dict()) == weights_sha256(never_stopped.model.state_dict())


def test_a_stack_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path):
    """Nothing is written on the way out: what was done after the last checkpoint is done again, to the same bits."""

    class Killed(BaseException):
        pass

    expected = stacked(several())
    asked = 0

    def stopping():
        nonlocal asked
        asked += 1
        if asked == 14:
            raise Killed
        return False

    with pytest.raises(Killed):
        stacked(several(checkpoint_seconds=0), checkpoints=Checkpoints(tmp_path), stopping=stopping)
    ends = stacked(several(), checkpoints=Checkpoints(tmp_path))
    assert hashes(ends) == hashes(expected)


def test_saving_after_every_step_changes_no_bit(tmp_path):
    plain = stacked(several())
    saving = stacked(several(checkpoint_seconds=0), checkpoints=Checkpoints(tmp_path))
    assert hashes(saving) == hashes(plain)


def test_ended_failed_and_pruned_trials_are_in_the_checkpoint_and_are_not_needed_to_go_on(tmp_path):
    def keep(given, metrics, state):
        return given.name != "trial 2"

    def make():
        return [trial(0, epochs=1), exploding(1), trial(2, epochs=5), trial(3, epochs=4)]

    expected = stacked(make(), on_validation=keep)
    steps = 9 + 4
    asked = 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked == steps

    with pytest.raises(Interrupted):
        stacked(make(), on_validation=keep, checkpoints=Checkpoints(tmp_path), stopping=stopping)
    ends = stacked(make()[3:], on_validation=keep, checkpoints=Checkpoints(tmp_path))
    assert [(end.name, end.pruned, str(end.error)) for end in ends] == [(end.name, end.pruned, str(end.error)) for end in expected]
    assert isinstance(ends[1].error, NotFiniteError)
    assert hashes(ends) == hashes(expected)


def test_weights_that_were_handed_over_are_kept_nowhere_else(tmp_path):
    expected, told = stacked([trial(0, epochs=1), trial(1, epochs=2)]), []
    ends = stacked([trial(0, epochs=1), trial(1, epochs=2)], checkpoints=Checkpoints(tmp_path), on_end=told.extend)
    assert hashes(told) == hashes(expected)
    assert [end.weights for end in ends] == [{}, {}]
    snapshot = Checkpoints(tmp_path).newest()
    assert not [name for name in snapshot.tensors if not name.startswith("generators/")]
    again = stacked([], checkpoints=Checkpoints(tmp_path), on_end=told.extend)
    assert [(end.name, end.state) for end in again] == [(end.name, end.state) for end in expected]
    assert len(told) == 2


def test_new_trials_can_be_given_when_going_on(tmp_path):
    stopped_after(4, [trial(0, epochs=2)], tmp_path)
    later = trial(5, epochs=1, precision="float64")
    ends = stacked([trial(0, epochs=2), later], checkpoints=Checkpoints(tmp_path))
    assert [end.name for end in ends] == ["trial 0", "trial 5"]
    apart = trial(5, epochs=1, precision="float64")
    alone(apart)
    assert_same_course(later, apart, relative=1e-9)


def test_a_finished_stack_is_not_trained_again(tmp_path):
    first = stacked(several(), checkpoints=Checkpoints(tmp_path))
    again = several()
    ends = stacked(again, checkpoints=Checkpoints(tmp_path))
    assert hashes(ends) == hashes(first)
    assert all(not given.recorder.series for given in again)


def test_a_trial_of_the_checkpoint_has_to_be_given(tmp_path):
    stopped_after(4, [trial(0), trial(1)], tmp_path)
    with pytest.raises(CheckpointError, match="'trial 1' that has not ended and is not among those given"):
        stacked([trial(0)], checkpoints=Checkpoints(tmp_path))


def test_another_models_checkpoint_is_refused(tmp_path):
    stopped_after(4, [trial(0)], tmp_path)
    with pytest.raises(CheckpointError, match="the checkpoint of 'trial 0' belongs to another model"):
        stacked([trial(0, model=mlp(0, hidden=(5,)))], checkpoints=Checkpoints(tmp_path))


def test_a_defect_in_one_lane_ends_the_others_after_their_step():
    class DefectError(Exception):
        pass

    class Broken(Memory):
        def metrics(self, values, *, step, epoch):
            if step == 3:
                raise DefectError

    trials = [trial(0, epochs=100), trial(1, epochs=100, recorder=Broken())]
    threads = torch.get_num_threads()
    with pytest.raises(DefectError):
        fit_stacked(trials, VALIDATION, device=CPU, lanes=2)
    assert torch.get_num_threads() == threads
    assert max(curves(trials[0])["train/loss"], default=0) < 9 * 100


def test_the_split_is_read_in_the_trials_precision():
    seen = []

    class Watching(Classification):
        def losses(self, model, batch):
            seen.append(batch["inputs"].dtype)
            return super().losses(model, batch)

    objective = Watching(classes=4, class_names=["a", "b", "c", "d"])
    stacked([trial(0, objective=objective, precision="float64", epochs=1, split=Clouds())])
    assert set(seen) == {torch.float64}
