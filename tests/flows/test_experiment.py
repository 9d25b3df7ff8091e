"""One experiment as plain functions: what it leaves behind, that it can be repeated, and how it says what went wrong."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import TINY, curves, events, here, result

from components.data.batches import Batches
from components.errors import CheckpointError, Interrupted, NotFiniteError, RequestError, RunError
from components.training.checkpoint import read_tensors, weights_sha256
from flows import experiment, parts
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.records import journal


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A finished run with its figures, and what was told while it ran."""
    settings = Settings(tmp_path_factory.mktemp("finished"))
    (settings.home / "data").symlink_to(digits)
    told: list[dict[str, Any]] = []
    return here(settings, TINY, "tiny", tell=told.append, draw=True), told


def home(folder: Path) -> Settings:
    return Settings(folder.parent.parent)


def test_the_run_folder(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = finished
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("figures/")} == {
        "config.json",
        "journal.jsonl",
        "model/config.json",
        "model/data.json",
        "model/model.safetensors",
        "outcomes/test.safetensors",
        "outcomes/validation.safetensors",
    }, "a finished run keeps no checkpoint"
    assert {"figures/curves.png", "figures/gradient_flow.png", "figures/test/confusion.png"} <= files
    config = validate(compose(TINY))
    assert json.loads((folder / "config.json").read_text()) == config
    assert json.loads((folder / "model/config.json").read_text()) == config
    data = json.loads((folder / "model/data.json").read_text())
    assert (data["name"], data["facts"]["input_shape"], data["facts"]["classes"]) == ("digits", [1, 8, 8], 10)


def test_the_result(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = finished
    found = result(folder)
    assert [line for line in told if line["kind"] == "result"] == [{"kind": "result", **found}]
    assert (found["run"], found["steps"], found["stopped_early"]) == ("tiny", 80, False)
    names = {"accuracy", "f1", "nll", "calibration_error"}
    assert set(found["metrics"]) == {f"{split}/{name}" for split in ("validation", "test") for name in names}
    assert 0.4 < found["metrics"]["test/accuracy"] <= 1
    assert found["monitor"] == ["accuracy", "max", found["metrics"]["validation/accuracy"]]
    validations = dict(curves(folder)["validation/accuracy"])
    assert sorted(validations) == [40, 80]
    assert validations[found["best_step"]] == max(validations.values()) == found["monitor"][2]
    assert found["weights_sha256"] == weights_sha256(read_tensors(folder / "model/model.safetensors").tensors)


def test_the_journal(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = finished
    stages = [(line["name"], line["state"]) for line in told if line["kind"] == "stage"]
    assert stages == [(name, state) for name in ("prepare", "fit", "evaluate", "draw") for state in ("started", "finished")]
    assert [name for name in events(folder) if name != "stage"] == ["started", "data", "model", "result", "drawn"]
    said = {line["event"]: line["facts"] for line in journal.read(folder) if line["kind"] == "event"}
    assert said["started"]["config"] == validate(compose(TINY))
    assert {"code", "versions", "machine"} <= said["started"].keys()
    counts = {split: count["examples"] for split, count in said["data"]["card"]["counts"].items()}
    assert counts == {"train": 1257, "validation": 180, "test": 360}
    assert said["model"]["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert [step for step, _ in curves(folder)["train/loss"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert curves(folder)["train/learning_rate"][0][1] == said["started"]["config"]["optimizer"]["learning_rate"]
    assert curves(folder)["test/accuracy"] == [(80, result(folder)["metrics"]["test/accuracy"])]


def test_outcomes_are_what_the_metrics_are_of(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = finished
    loaded = experiment.load_model(folder / "model")
    for split, count in (("validation", 180), ("test", 360)):
        outcomes = experiment.load_outcomes(folder / "outcomes" / split)
        assert outcomes["index"].tolist() == list(range(count))
        again = {f"{split}/{name}": value for name, value in loaded.objective.metrics(outcomes).items()}
        assert again == {name: value for name, value in result(folder)["metrics"].items() if name.startswith(split)}


def test_the_loaded_model_is_the_trained_one(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = finished
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = experiment.load_model(folder / "model")
    assert torch.equal(torch.get_rng_state(), before), "loading draws no random numbers from the caller's generator"
    assert not loaded.model.training
    prepared = experiment.prepare_data(loaded.config, home(folder))
    (batch,) = Batches(prepared.splits["test"], batch_size=500, seed=0, shuffle=False).epoch(0)
    with torch.no_grad():
        outcomes = loaded.objective.outcomes(loaded.model, batch)
    kept = experiment.load_outcomes(folder / "outcomes/test")
    assert outcomes.keys() == kept.keys()
    assert all(torch.equal(outcomes[name], kept[name]) for name in kept)


def test_evaluating_again_gives_the_recorded_metrics(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = finished
    recorded = result(folder)["metrics"]
    for split in ("test", "validation"):
        again = experiment.evaluate_run(folder, home(folder), split=split)
        assert {f"{split}/{name}": value for name, value in again.items()} == {
            name: value for name, value in recorded.items() if name.startswith(split)
        }
    with pytest.raises(RequestError, match=r"^digits has no split 'tset' \(it has: train, validation, test\)$"):
        experiment.evaluate_run(folder, home(folder), split="tset")


def test_a_finished_run_is_not_run_again(finished: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    before = (folder / "journal.jsonl").read_bytes()
    monkeypatch.setattr(experiment, "_fit", lambda *_, **__: pytest.fail("it was trained again"))
    told: list[dict[str, Any]] = []
    again = experiment.run(experiment.read_config(folder), folder, home(folder), tell=told.append)
    assert again == result(folder)
    assert told == [{"kind": "result", **again}]
    assert (folder / "journal.jsonl").read_bytes() == before


def test_figures_can_come_later(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here(settings, TINY, "undrawn")
    assert not (folder / "figures").exists()
    monkeypatch.setattr(experiment, "_fit", lambda *_, **__: pytest.fail("it was trained again"))
    steps: list[int] = []
    monkeypatch.setattr(experiment, "_draw", lambda *_, step: steps.append(step))
    told: list[dict[str, Any]] = []
    experiment.run(experiment.read_config(folder), folder, settings, tell=told.append)
    assert steps == [80]
    assert [line["name"] for line in told if line.get("state") == "finished"] == ["prepare", "draw"]
    assert {"kind": "result", **result(folder)} in told
    assert [name for name in events(folder) if name != "stage"] == ["started", "data", "model", "result", "started", "data", "drawn"]


def test_other_data_is_refused_on_resume(settings: Settings) -> None:
    with pytest.raises(Interrupted, match=r"^stopped at step 1 of 80$"):
        here(settings, TINY, "changed", stopping=lambda: True)
    with pytest.raises(RunError, match=r"^digits has changed since this run began: it cannot be resumed exactly; start a new one$"):
        here(settings, [*TINY, "data.split_seed=1"], "changed")
    assert events(settings.runs / "changed")[-1] == "failed"


def test_a_loss_that_is_no_number_says_where(settings: Settings) -> None:
    with pytest.raises(NotFiniteError) as caught:
        here(settings, [*TINY, "optimizer=gradient_descent", "optimizer.learning_rate=1e30"], "broken")
    error = caught.value
    assert error.step in {2, 3}
    assert error.layer is not None
    assert f"at step {error.step}: the first layer whose output is not finite is {error.layer};" in str(error)
    last = journal.read(settings.runs / "broken")[-1]
    assert (last["event"], last["facts"]) == ("failed", {"reason": str(error)})
    assert not (settings.runs / "broken/model").exists()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_a_checkpoint_is_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.training.checkpoint.os.fsync", full)  # the journal's as well
    with pytest.raises(RunError) as caught:
        here(settings, [*TINY, "trainer.checkpoint_seconds=0"], "full")
    assert str(caught.value) == f"the disk is full: cannot write to {settings.runs / 'full'}; free some space, then resume the run"
    monkeypatch.undo()
    monkeypatch.setattr("components.training.checkpoint._sync_folder", full)
    with pytest.raises(CheckpointError, match=r"^cannot write step-00000001\.[0-9a-f]{32}\.safetensors into .*: No space left on device$"):
        here(settings, [*TINY, "trainer.checkpoint_seconds=0"], "full")
    monkeypatch.undo()
    folder = here(settings, TINY, "full")
    assert result(folder)["weights_sha256"] == result(here(settings, TINY, "never_full"))["weights_sha256"]
    assert not list(folder.rglob("*.part"))


def test_early_stopping_and_steps_are_kept_to(settings: Settings) -> None:
    folder = here(settings, [*TINY[:2], "trainer.epochs=50", "trainer.patience=2", "optimizer.learning_rate=1e-12"], "patient")
    found = result(folder)
    assert (found["stopped_early"], found["best_step"], found["steps"]) == (True, 40, 120)
    assert result(here(settings, [*TINY, "trainer.max_steps=45"], "short"))["steps"] == 45


def test_a_folder_that_is_no_run(settings: Settings) -> None:
    with pytest.raises(RequestError, match=r"^nothing is not a run of this lab"):
        experiment.read_config(settings.runs / "nothing")
    folder = experiment.create(validate(compose(TINY)), settings, "unfinished")
    with pytest.raises(RequestError, match=r"^unfinished has no model yet: finish it first \(lab train --resume unfinished\)$"):
        experiment.evaluate_run(folder, settings)


def test_run_names_sort_by_time_and_differ() -> None:
    names = {experiment.new_run_name({"name": "mlp"}) for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("mlp-20") for name in names)


def test_only_data_is_prepared(settings: Settings) -> None:
    with pytest.raises(RequestError, match=r"^'seed=1': preparing data takes only data=NAME and data.KEY=VALUE$"):
        parts.data_section(["data=digits", "seed=1"])
    section = parts.data_section(["data=digits", "data.test=100"])
    assert section["test"] == 100
    folder = parts.prepared_folder(section, settings)
    assert folder.parent == settings.data / "digits"
    assert not folder.exists()
