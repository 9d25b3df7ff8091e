"""Every benchmark runs in a tiny setting and gives numbers that can be; how large they are is no test's business."""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import click, detection, loop, places, recording, recurrent, stacked, start, sweeps, threads, transformers, two_stages
from benchmarks.report import Row, difference, ratio, seconds, table
from flows.lab.settings import Settings
from flows.records.journal import Journal

TINY = loop.Setting("tiny", 4, (8,), 8, 1000)


def check(rows: list[Row]) -> None:
    for row in rows:
        assert row.ours > 0
        assert row.reference is None or row.reference > 0
        assert row.spread[0] <= row.spread[1]


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians():
    row = ratio("what", [2.0, 30.0, 12.0], [1.0, 10.0, 3.0], unit="µs", scale=10.0, goal=2.5)
    assert (row.ours, row.reference, row.value) == (120.0, 30.0, 3.0)
    assert row.spread == (2.5, 3.5)
    assert not row.met


def test_a_difference_is_the_median_of_pairs():
    row = difference("what", [3.0, 5.0, 9.0], [2.0, 1.0, 7.0], goal=2.0)
    assert (row.ours, row.reference, row.value) == (5.0, 2.0, 2.0)
    assert row.met


def test_the_table_says_which_goal_is_missed():
    rows = [seconds("fast", [1.0], goal=2.0), seconds("slow", [3.0, 5.0], goal=2.0), seconds("free", [4.0])]
    lines = table(rows).splitlines()[2:]
    assert lines[0] == "| fast | 1 s |  | 1.00 s | 1.00 … 1.00 | ≤ 2 s |"
    assert lines[1] == "| slow | 4 s |  | 4.00 s | 3.50 … 4.50 | ≤ 2 s **missed** |"
    assert lines[2] == "| free | 4 s |  | 4.00 s | 4.00 … 4.00 |  |"


def test_an_unknown_name_is_refused_and_the_known_ones_are_shown():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "lopo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark is called lopo; there are: loop, start, recording, click, threads, sweeps" in done.stderr


def test_the_loops_take_turns():
    ours, theirs = loop.in_turns(TINY, steps=3 * loop.BLOCK, fused=True)
    assert len(ours) == len(theirs) == 3
    check(loop.measure(steps=2 * loop.BLOCK, settings=(TINY,)))


def test_both_loops_learn_the_same_model():
    first, second = loop.network(TINY), loop.network(TINY)
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_recurrent_loops_take_turns_and_all_forms_are_timed():
    ours, theirs = recurrent.in_turns(steps=2 * recurrent.BLOCK)
    assert len(ours) == len(theirs) == 2
    rows = recurrent.measure(steps=recurrent.BLOCK, repetitions=1, compiled=False)
    assert len(rows) == 4
    check(rows)


def test_the_recurrent_forms_are_one_model():
    by_hand, fused, explicit = recurrent.ByHand(), recurrent.network("fused"), recurrent.network("explicit")
    data = recurrent.Synthetic(recurrent.BATCH)
    names = {"embed": "embed", "recurrent.cell": "lstm", "head": "head"}
    by_hand.load_state_dict({f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": w for name, w in fused.state_dict().items()})
    outputs = [model(data.inputs, data.sizes) for model in (by_hand, fused, explicit)]
    assert (outputs[0] - outputs[1]).abs().max() < 1e-6
    assert (outputs[1] - outputs[2]).abs().max() < 1e-6


def test_the_journals_share_of_a_training_is_less_than_all_of_it():
    assert 0 < recording.inside(TINY, 100) < recording.MINUTE


def test_a_stack_and_the_loop_take_turns_and_every_part_of_the_stack_has_its_share():
    tiny = replace(stacked.DIGITS, hidden=(8,), features=4, examples=100, validation=20, trials=4, alone=2, epochs=2, epochs_alone=1)
    rows = stacked.measure(turns=2, settings=(replace(tiny, dropout=0.2),))
    check(rows)
    parts = [row for row in rows if "against" not in row.what]
    assert len(rows) - len(parts) >= 2
    assert sum(row.value for row in parts) == pytest.approx(1)
    assert {"matrix products", "updates", "validation", "dropout's masks"} < {row.what.rpartition(": ")[2] for row in parts}
    assert all(row.reference == parts[0].reference for row in parts)


def test_numbers_of_threads_take_turns():
    several, one = threads.in_a_process("mlp_digits", 2, 3, {})
    assert len(several) == len(one) == 3
    assert min(several + one) > 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "lab")


def a_run(settings: Settings, name: str, milliseconds: int) -> None:
    """A run folder whose first step was at a known time."""
    folder = settings.runs / name
    with Journal(folder) as journal:
        journal.event("started")
    with (folder / "journal.jsonl").open("a") as file:
        file.write(f'{{"t":{milliseconds},"kind":"metrics","step":1,"epoch":0.1,"values":{{}}}}\n')
    (folder / "config.json").write_text("{}")


def test_the_first_step_is_found_in_the_new_runs_journal(settings):
    a_run(settings, "old", 1_000)
    known = places.runs(settings)
    a_run(settings, "new", 2_500)
    assert known == {"old"}
    assert places.first_step_at(settings, known) == 2.5


def test_a_run_that_never_starts_is_given_up(settings, monkeypatch):
    monkeypatch.setattr(places, "PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match="no run in"):
        places.first_step_at(settings, set())


def test_a_lab_folder_is_empty_and_goes_away():
    with places.lab_folder() as settings:
        assert not settings.home.exists()
        assert settings.prefect_port != settings.mlflow_port
        settings.home.mkdir()
    assert not settings.home.exists()


def test_the_bare_scripts_end():
    assert 0 < start.bare(step=False) < 100
    assert 0 < start.bare(step=True) < 100


def test_start_subtracts_the_bare_scripts(settings, monkeypatch):
    @contextmanager
    def place():
        yield settings

    taken = iter([9.0, 5.0, 6.0])
    monkeypatch.setattr(start, "lab_folder", place)
    monkeypatch.setattr(start, "ours", lambda _: next(taken))
    monkeypatch.setattr(start, "bare", lambda step: 4.0 if step else 3.0)
    model, stepped = start.measure(repetitions=2, with_lab=False)
    assert (model.ours, model.reference, model.value) == (5.5, 3.0, 2.5)
    assert (stepped.ours, stepped.reference, stepped.value) == (5.5, 4.0, 1.5)


def test_click_shows_the_first_run_by_itself(settings, monkeypatch):
    @contextmanager
    def place():
        yield settings

    taken = iter([20.0, 9.0, 11.0])
    monkeypatch.setattr(click, "running_lab", place)
    monkeypatch.setattr(click, "lab", lambda *_: None)
    monkeypatch.setattr(click, "click", lambda _: next(taken))
    first, others = click.measure(repetitions=2)
    assert (first.value, first.met) == (20.0, False)
    assert (others.value, others.met) == (10.0, True)


@pytest.mark.slow
def test_sweeps_beside_bare_trainings() -> None:
    rows = sweeps.measure(repetitions=1, trials=2, with_lab=False, size=60, long=False)
    check(rows)
    assert "a short trial, one worker, no lab running" in rows[0].what


def test_the_steps_of_a_large_study(tmp_path: Path) -> None:
    took = sweeps.large_study(Settings(tmp_path / "lab"), 40)
    assert list(took)[:3] == ["open", "first look at all trials", "take the next trial (TPE)"]
    assert all(seconds > 0 for seconds in took.values())


def test_detectors_take_turns_and_the_first_of_each_is_not_counted():
    said: list[str] = []
    ours, theirs = detection.in_turns(lambda: said.append("ours"), lambda: said.append("theirs"), 2)
    assert said == ["ours", "theirs"] * 3
    assert len(ours) == len(theirs) == 2


def test_both_of_two_stages_are_the_same_network(monkeypatch):
    stages = [[8], [8], [8], [8], [8]]
    monkeypatch.setattr(two_stages, "VGG16", stages)
    monkeypatch.setattr(two_stages, "HEAD", [32])
    monkeypatch.setattr(two_stages, "SIDE", 108)  # no multiple of the map's 16, as 300 is none
    given = (torch.rand(1, 3, 108, 108), [torch.tensor([[20.0, 20, 90, 100]])], [torch.tensor([3])])
    for make in (two_stages.our_faster_rcnn, two_stages.torchvisions_faster_rcnn):
        train, infer = make(given)
        train(), infer()
    with torch.no_grad():
        ours = two_stages._ours()
        theirs = two_stages._theirs(ours).eval()
        found = ours.eval()(given[0])
        theirs(list(given[0]))
        regions = found.proposals.regions
        logits, offsets = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(_pooled(theirs, ours, given[0], regions)))
    assert torch.allclose(found.judged.logits, logits, atol=1e-4)
    assert torch.allclose(found.judged.offsets.flatten(1), offsets[:, 4:], atol=1e-4)


def _pooled(theirs, ours, inputs, regions):
    return theirs.roi_heads.box_roi_pool({"0": ours.features(inputs)}, regions, [(108, 108)])


def test_both_detectors_see_the_same():
    inputs, boxes, labels = detection.pictures(2)
    assert inputs.shape == (2, 3, 300, 300)
    assert all(bool((each[:, 2:] > each[:, :2]).all()) and each.max() <= 300 for each in boxes)
    assert all(int(each.min()) >= 0 and int(each.max()) < detection.CLASSES for each in labels)


def test_the_transformers_take_turns_and_both_sides_have_one_size():
    tiny = transformers.Shape(vocabulary=11, channels=8, heads=2, layers=1, batch=2, length=6, prompt=3, written=4)
    rows = transformers.measure(shapes=(tiny, tiny), repetitions=2, compiled=False, memory=False)
    assert len(rows) == 2 * 2 + 3 + 3
    check(rows)
    for kind in ("gpt", "bert", "bart"):
        sizes = [sum(parameter.numel() for parameter in side(kind, tiny).parameters()) for side in (transformers.ours, transformers.theirs)]
        assert sizes[0] == sizes[1], kind
    without = sum(parameter.numel() for parameter in transformers.ours("gpt", replace(tiny, biases=False)).parameters())
    longer = tiny.prompt * tiny.channels  # ours has places for what it writes, too
    assert sum(parameter.numel() for parameter in transformers.NanoGPT(tiny).parameters()) == without - longer


@pytest.mark.parametrize(("kind", "beams"), [("gpt", 1), ("bart", 1), ("bart", 3)])
def test_both_sides_write_as_many_tokens(kind: str, beams: int):
    tiny = transformers.Shape(vocabulary=11, channels=8, heads=2, layers=1, batch=2, length=6, prompt=3, written=4)
    mine, other = transformers.writers(kind, tiny, beams)
    assert mine().shape == (2, 4)
    assert other().shape == (2, 3 + 4 if kind == "gpt" else 1 + 4)
