"""`lab train`, `reproduce`, `evaluate`, `predict`, `prepare` and `config` without a running lab."""

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from lab_command import Done, lab, start
from lab_processes import wait_for
from PIL import Image
from trainings import EVERYTHING_RANDOM, TINY, curves, events, here, last_step, points, result, until_step

from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.records import journal
from flows.records.tracking import tracking_client

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow about its own code

HINT = "no lab is running (lab up starts one): training without Prefect, and writing MLflow's database directly"


@pytest.fixture(scope="module")
def trained(module_settings: Settings) -> Done:
    """A finished run, which most tests here look at."""
    return lab(module_settings, "train", *TINY, "--json")


def mlflow_runs(settings: Settings) -> list[Any]:
    client = tracking_client(settings.mlflow_store)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def test_train_ends_with_one_json_object(trained: Done, module_settings: Settings) -> None:
    assert trained.code == 0
    found = trained.json
    folder = module_settings.runs / found["run"]
    assert found["metrics"] == result(folder)["metrics"]
    assert found["weights_sha256"] == result(folder)["weights_sha256"]
    assert found["seconds"] > 0
    assert (found["url"], found["trouble"]) == (None, None)
    assert found["registered"] == {"name": "digits-classification", "version": "1", "aliases": ["champion", "best-mlp"]}
    for words in (
        f"run {found['run']}",
        HINT,
        "prepare",
        "fit",
        "evaluate",
        "draw",
        "accuracy",
        "registered as digits-classification version 1",
    ):
        assert words in trained.err
    run = next(run for run in mlflow_runs(module_settings) if run.info.run_id == found["mlflow_run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", found["run"])
    assert run.data.metrics["summary/test/accuracy"] == found["metrics"]["test/accuracy"]


def test_resuming_a_finished_run_shows_it_again(trained: Done, module_settings: Settings) -> None:
    before = (module_settings.runs / trained.json["run"] / "journal.jsonl").read_bytes()
    again = lab(module_settings, "train", "--resume", trained.json["run"], "--json")
    assert again.code == 0
    assert again.json == trained.json
    assert (module_settings.runs / trained.json["run"] / "journal.jsonl").read_bytes() == before
    assert [run.info.status for run in mlflow_runs(module_settings) if run.info.run_name == trained.json["run"]] == ["FINISHED"]


def test_evaluate_gives_the_same_numbers_again(trained: Done, module_settings: Settings) -> None:
    found = lab(module_settings, "evaluate", trained.json["run"], "--json").json
    assert {f"test/{name}": value for name, value in found["metrics"].items()} == {
        name: value for name, value in trained.json["metrics"].items() if name.startswith("test/")
    }
    assert (found["run"], found["split"], found["mlflow_run_id"]) == (trained.json["run"], "test", trained.json["mlflow_run_id"])
    run = tracking_client(module_settings.mlflow_store).get_run(found["mlflow_run_id"])
    assert run.data.metrics["evaluation/test/accuracy"] == found["metrics"]["accuracy"]
    wrong = lab(module_settings, "evaluate", trained.json["run"], "--split", "tset", "--json")
    assert (wrong.code, wrong.json["error"]) == (2, "digits has no split 'tset' (it has: train, validation, test)")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a one in the formats that people have, and what is none."""
    folder = tmp_path_factory.mktemp("pictures")
    one = Image.new("L", (8, 8))
    one.paste(255, (3, 1, 5, 7))
    one.save(folder / "one.png")
    one.resize((80, 80)).convert("RGB").save(folder / "one.jpg")
    one.convert("CMYK").save(folder / "print.jpg")
    (folder / "torn.png").write_bytes((folder / "one.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("a one")
    return folder


def test_predict_answers_for_every_file_it_can_read(trained: Done, module_settings: Settings, pictures: Path) -> None:
    names = ("one.png", "one.jpg", "print.jpg", "torn.png", "notes.txt", "missing.png")
    done = lab(module_settings, "predict", "last", *(str(pictures / name) for name in names), "--json")
    assert (done.code, done.json["error"]) == (1, "3 of 6 could not be used")
    found = done.json
    assert found["run"] == trained.json["run"]
    assert [answer["given"] for answer in found["predictions"]] == [str(pictures / name) for name in names]
    for answer in found["predictions"][:3]:
        probabilities = [each["probability"] for each in answer["answers"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-12
        assert {each["label"] for each in answer["answers"]} <= set("0123456789")
    for name, answer in zip(names[3:], found["predictions"][3:], strict=True):
        assert set(answer) == {"given", "error"}, name
        assert "\n" not in answer["error"]
    assert str(pictures / "one.png") in lab(module_settings, "predict", "last", str(pictures / "one.png")).out
    every = lab(module_settings, "predict", "last", str(pictures), "--json").json["predictions"]
    assert [answer["given"] for answer in every] == sorted(str(path) for path in pictures.glob("[!.]*") if path.is_file())


def test_predict_fails_when_no_file_can_be_read(trained: Done, module_settings: Settings, pictures: Path) -> None:
    done = lab(module_settings, "predict", trained.json["run"], str(pictures / "missing.png"), "--json")
    assert (done.code, done.json["exit_code"]) == (2, 2)
    assert done.json["error"] == f"{pictures / 'missing.png'}: No such file or directory"
    assert [answer["given"] for answer in done.json["predictions"]] == [str(pictures / "missing.png")]
    done = lab(module_settings, "predict", trained.json["run"], str(pictures / "missing.png"), str(pictures / "torn.png"))
    assert (done.code, done.err.splitlines()[-1]) == (2, "lab: nothing that was given could be used")


def test_an_empty_name_is_not_the_folder_one_is_in(trained: Done, module_settings: Settings, pictures: Path) -> None:
    for nothing in ("", " "):
        done = lab(module_settings, "predict", trained.json["run"], nothing)
        assert (done.code, done.out, done.err) == (2, "", "lab: there is nothing to answer: the file's name is empty\n")
    done = lab(module_settings, "predict", trained.json["run"], "", str(pictures / "one.png"), "--json")
    assert (done.code, ["error" in answer for answer in done.json["predictions"]]) == (1, [True, False])


def test_prepare_finds_what_is_there(module_settings: Settings) -> None:
    found = lab(module_settings, "prepare", "data=digits", "--json").json
    assert {split: count["examples"] for split, count in found["counts"].items()} == {"train": 1257, "validation": 180, "test": 360}
    assert Path(found["folder"]) == module_settings.data / "digits" / found["fingerprint"]
    text = lab(module_settings, "prepare", "data=digits").out
    assert [line.split() for line in text.splitlines()[3:6]] == [["train", "1257"], ["validation", "180"], ["test", "360"]]
    assert lab(module_settings, "prepare", "seed=1", "--json").code == 2


def test_config_prints_what_would_run(module_settings: Settings) -> None:
    composed = validate(compose(TINY))
    assert lab(module_settings, "config", *TINY, "--json").json == composed
    assert yaml.safe_load(lab(module_settings, "config", *TINY).out) == composed
    wrong = lab(module_settings, "config", "experiment=mlp_digits", "optimizer=adm", "--json")
    assert wrong.code == 2
    assert "did you mean 'adam'?" in wrong.json["error"]


def test_reproduce_is_identical(trained: Done, module_settings: Settings) -> None:
    done = lab(module_settings, "reproduce", trained.json["run"], "--json")
    assert done.code == 0
    found = done.json
    assert (found["original"], found["identical"]) == (trained.json["run"], True)
    assert found["run"] != trained.json["run"]
    assert found["metrics"] == trained.json["metrics"]
    assert result(module_settings.runs / found["run"])["weights_sha256"] == trained.json["weights_sha256"]
    assert "bit for bit the same" in done.err
    nothing = lab(module_settings, "reproduce", "nothing", "--json")
    assert (nothing.code, nothing.json["exit_code"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to train, such as: lab train experiment=mlp_mnist (lab list experiments shows all)"),
        (["seed=1", "--watch"], "--watch follows a queued run: give --queue as well (a run in this terminal is shown anyway)"),
        (["seed=1", "--resume", "x"], "--resume goes on with a run exactly as it was; leave the overrides out"),
        (["--resume", "x"], "there is no run 'x' in RUNS (there are none yet: lab train …)"),
        (["experiment=mlp_digits", "--queue"], "no lab is running"),
        (["experiment=mlp_digits", "trainer.epochs=0"], "trainer.epochs"),
    ],
)
def test_a_wrong_request_leaves_nothing(settings: Settings, arguments: list[str], message: str) -> None:
    done = lab(settings, "train", *arguments, "--json")
    assert done.code == 2
    assert done.json["exit_code"] == 2
    assert done.json["error"].startswith(message.replace("RUNS", str(settings.runs)))
    assert done.err == f"lab: {done.json['error']}\n"
    assert sorted(path.name for path in settings.home.iterdir()) == ["data"]


def test_a_failed_run_is_failed_in_mlflow_too(tracked_settings: Settings) -> None:
    done = lab(tracked_settings, "train", *TINY, "optimizer=gradient_descent", "optimizer.learning_rate=1e30", "--json")
    assert done.code == 1
    reason = done.json["error"]
    assert reason.startswith("the loss became nan at step 2: the first layer whose output is not finite is ")
    assert "\n" not in reason
    assert "--resume" not in reason, "it would only come to the same end again"
    assert done.err.splitlines()[-1] == f"lab: {reason}"
    (run,) = mlflow_runs(tracked_settings)
    assert run.info.status == "FAILED"
    assert reason in run.data.tags.values()


def test_killed_interrupted_and_finished(tracked_settings: Settings) -> None:
    """The power goes for `lab` alone, then somebody presses Ctrl-C, then it is left alone: one MLflow run, the undisturbed weights."""
    undisturbed = here(tracked_settings, [*EVERYTHING_RANDOM, "trainer.checkpoint_seconds=0.1"], "undisturbed")
    with start(tracked_settings, "train", *EVERYTHING_RANDOM, "trainer.checkpoint_seconds=0.1") as killed:
        folder = wait_for(lambda: next((path for path in tracked_settings.runs.iterdir() if path.name != "undisturbed"), None), 180)
        until_step(folder, 50, alive=lambda: killed.poll() is None)
        (trainer,) = psutil.Process(killed.pid).children()
        killed.kill()
    psutil.wait_procs([trainer], timeout=20)
    assert not trainer.is_running()
    assert events(folder)[-1] == "interrupted"
    stopped_at = last_step(folder)
    assert 50 <= stopped_at < 320

    with start(tracked_settings, "train", "--resume", folder.name, "--json") as interrupted:
        until_step(folder, stopped_at + 50, alive=lambda: interrupted.poll() is None)
        interrupted.send_signal(signal.SIGINT)
        out, err = interrupted.communicate(timeout=180)
    assert interrupted.returncode == 1
    message = f"stopped at step {last_step(folder)} of 320; go on from its last checkpoint with: lab train --resume {folder.name}"
    assert err.splitlines()[-1] == f"lab: {message}"
    assert json.loads(out) == {"error": message, "exit_code": 1}
    (run,) = mlflow_runs(tracked_settings)
    assert (run.info.run_name, run.info.status) == (folder.name, "KILLED")

    finished = lab(tracked_settings, "train", "--resume", folder.name, "--json").json
    assert finished["weights_sha256"] == result(undisturbed)["weights_sha256"]
    assert curves(folder) == curves(undisturbed)
    assert len(points(folder)) == len(set(points(folder)))
    (run,) = mlflow_runs(tracked_settings)
    assert (run.info.run_id, run.info.status) == (finished["mlflow_run_id"], "FINISHED")
    client = tracking_client(tracked_settings.mlflow_store)
    for name, said in journal.history(folder).items():
        assert sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)) == said, name


def test_ctrl_c_before_the_run_began_leaves_nothing(settings: Settings) -> None:
    with start(settings, "train", *TINY) as lab_process:
        wait_for(lambda: psutil.Process(lab_process.pid).children(), 20)
        lab_process.send_signal(signal.SIGINT)
        _, err = lab_process.communicate(timeout=60)
    assert lab_process.returncode == 1
    assert err.splitlines()[-1] in {"lab: stopped before the run began", "lab: stopped"}
    assert not settings.runs.exists()
