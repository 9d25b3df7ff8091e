"""The deployed flows on a real lab: forms, refusals, retries, cancelling, and the terminal beside them."""

import json
import shutil
import signal
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from lab_command import start
from lab_processes import wait_for
from prefect_runs import artifacts, deployment, ended, flow_run, logs, queue, task_runs, trainers, until
from trainings import EVERYTHING_RANDOM, TINY, curves, events, here, last_step, result, until_step

from flows import runs
from flows.config.names import names
from flows.config.parameters import KEEP, NONE
from flows.lab import health
from flows.lab.settings import Settings
from flows.records import journal
from flows.records.tracking import run_page, tracking_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TASKS = ["compose", "prepare-data", "fit", "evaluate", "draw", "record"]
LONG = ["model.hidden=[16]", "trainer.epochs=2000", "trainer.log_every=50", "trainer.threads=1"]
"""80,000 steps: longer than any test waits."""


def command(settings: Settings, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run `lab` to its end; its JSON answer, and what it said to people."""
    with start(settings, *arguments, "--json") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    assert out.count("\n") == 1
    return json.loads(out), err


def new_folder(settings: Settings, before: set[Path]) -> Path:
    return Path(until(lambda: next(iter(set(settings.runs.glob("*")) - before), None), 90))


def folders(settings: Settings) -> set[Path]:
    return set(settings.runs.glob("*"))


def mlflow_run(settings: Settings, folder: Path) -> Any:
    return tracking_client(settings.mlflow_uri).get_run(str(runs.mlflow_run_id(folder)))


def test_the_forms(running_lab: Settings) -> None:
    form = deployment(running_lab, "train/train")["parameter_openapi_schema"]["properties"]
    assert form["experiment"]["enum"] == [*names("experiment"), NONE]
    for group in ("model", "data", "optimizer", "activation", "initializer", "schedule"):
        assert form[group]["enum"] == [KEEP, *names(group)]
        assert form[group]["default"] == KEEP
    assert (form["epochs"]["type"], form["epochs"]["minimum"], form["epochs"]["maximum"]) == ("integer", 0, 10_000)
    assert form["overrides"] == {**form["overrides"], "type": "array", "items": {"type": "string"}, "default": []}
    assert all(each.get("description") for each in form.values())
    assert deployment(running_lab, "prepare-data/prepare-data")["parameter_openapi_schema"]["properties"]["data"]["enum"] == names("data")
    assert deployment(running_lab, "evaluate/evaluate")["parameter_openapi_schema"]["required"] == ["run"]
    assert {deployment(running_lab, name)["work_pool_name"] for name in ("train/train", "evaluate/evaluate")} == {"lab"}


@pytest.mark.parametrize(
    "parameters",
    [{"experiment": "mlp_digts"}, {"epochs": -1}, {"epochs": "many"}, {"learning_rate": 101}, {"overrides": "seed=1"}, {"epoch": 3}],
)
def test_the_server_refuses_bad_parameters(running_lab: Settings, parameters: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        queue(running_lab, "train/train", **parameters)
    assert caught.value.code in {409, 422}
    assert next(iter(parameters)) in caught.value.read().decode()


def test_what_only_the_flow_can_refuse_fails_in_one_line(running_lab: Settings) -> None:
    before = folders(running_lab)
    wrong = queue(running_lab, "train/train", experiment="mlp_digits", overrides=["trainer.epocs=3"])
    state = ended(running_lab, wrong)
    assert state["type"] == "FAILED"
    assert "trainer.epocs" in state["message"]
    assert "did you mean 'epochs'" in state["message"]
    assert task_runs(running_lab, wrong)["compose"]["run_count"] == 1, "what is wrong stays wrong"
    assert folders(running_lab) == before


def test_a_queued_run_is_followed_to_its_end(running_lab: Settings) -> None:
    found, said = command(running_lab, "train", *TINY, "--queue", "--watch")
    folder = running_lab.runs / found["run"]
    assert result(folder)["metrics"].keys() == found["metrics"].keys()
    assert f"The run is {folder.name}" in said
    run = flow_run(running_lab, found["flow_run_id"])
    assert (run["state_type"], run["deployment_id"]) == ("COMPLETED", deployment(running_lab, "train/train")["id"])
    tasks = task_runs(running_lab, run["id"])
    assert list(tasks) == TASKS
    assert {task["state_type"] for task in tasks.values()} == {"COMPLETED"}
    shown = artifacts(running_lab, run["id"])
    assert {"metrics", "mlflow-run", "summary", "training"} <= shown.keys()
    delivered = mlflow_run(running_lab, folder)
    page = run_page(running_lab.mlflow_uri, delivered.info.experiment_id, delivered.info.run_id)
    assert page in shown["mlflow-run"]
    assert found["url"] == page
    assert delivered.info.status == "FINISHED"
    assert delivered.data.tags["prefect.flow_run_id"] == run["id"], "and back from MLflow to Prefect"


def test_a_killed_trainer_goes_on_in_the_same_flow_run(running_lab: Settings, tmp_path: Path) -> None:
    # Longer than it takes to find whom to kill.
    longer = ["trainer.epochs=60" if text == "trainer.epochs=8" else text for text in EVERYTHING_RANDOM[1:]] + [
        "trainer.checkpoint_seconds=0.1"
    ]
    undisturbed = here(Settings(tmp_path / "elsewhere"), [EVERYTHING_RANDOM[0], *longer], "undisturbed")
    before = folders(running_lab)
    identity = queue(running_lab, "train/train", experiment="mlp_digits", overrides=longer)
    folder = new_folder(running_lab, before)
    until_step(folder, 60, alive=lambda: bool(trainers(running_lab)))
    (trainer,) = trainers(running_lab)
    trainer.kill()
    assert last_step(folder) < result(undisturbed)["steps"]
    assert ended(running_lab, identity)["type"] == "COMPLETED"
    assert result(folder)["weights_sha256"] == result(undisturbed)["weights_sha256"]
    assert curves(folder) == curves(undisturbed)
    tasks = task_runs(running_lab, identity)
    assert list(tasks) == TASKS
    assert {name: task["run_count"] for name, task in tasks.items()} == {name: 2 if name == "fit" else 1 for name in TASKS}
    assert events(folder).count("started") == 2
    client, delivered = tracking_client(running_lab.mlflow_uri), mlflow_run(running_lab, folder)
    assert delivered.info.status == "FINISHED"
    for name, said in journal.history(folder).items():
        assert sorted((point.step, point.value) for point in client.get_metric_history(delivered.info.run_id, name)) == said, name


def test_a_cancelled_run_saves_and_says_so_everywhere(running_lab: Settings) -> None:
    before = folders(running_lab)
    identity = queue(running_lab, "train/train", experiment="mlp_digits", overrides=LONG)
    folder = new_folder(running_lab, before)
    until_step(folder, 100, alive=lambda: bool(trainers(running_lab)))
    health.call(f"{running_lab.prefect_api}/flow_runs/{identity}/set_state", {"state": {"type": "CANCELLING"}, "force": False}, timeout=20)
    assert ended(running_lab, identity, within=90)["type"] == "CANCELLED"
    until(lambda: not trainers(running_lab), 30)
    assert events(folder)[-1] == "interrupted"
    assert list((folder / "checkpoints").glob("step-*.safetensors"))
    until(lambda: mlflow_run(running_lab, folder).info.status == "KILLED", 30)


def test_the_terminal_shows_up_in_prefect(running_lab: Settings) -> None:
    found, said = command(running_lab, "train", *TINY)
    assert "no lab is running" not in said
    assert found["url"].startswith(running_lab.mlflow_uri)
    delivered = mlflow_run(running_lab, running_lab.runs / found["run"])
    identity = delivered.data.tags["prefect.flow_run_id"]
    run = flow_run(running_lab, identity)
    assert (run["state_type"], run["deployment_id"]) == ("COMPLETED", None)
    assert list(task_runs(running_lab, identity)) == TASKS
    again, _ = command(running_lab, "evaluate", found["run"])
    assert again["metrics"]["accuracy"] == found["metrics"]["test/accuracy"]
    assert again["url"] == found["url"]
    failed, said = command(running_lab, "train", *TINY, "optimizer=gradient_descent", "optimizer.learning_rate=1e30", code=1)
    assert failed["error"].startswith("the loss became nan at step 2")
    assert said.splitlines()[-1] == f"lab: {failed['error']}"


def test_ctrl_c_in_the_terminal_cancels_in_both_stores(running_lab: Settings) -> None:
    before = folders(running_lab)
    with start(running_lab, "train", "experiment=mlp_digits", *LONG, "--json") as process:
        folder = new_folder(running_lab, before)
        until_step(folder, 200, alive=lambda: process.poll() is None)
        wait_for(lambda: runs.mlflow_run_id(folder), 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)  # a lock in Prefect's SQLite database can hold everybody up for a minute
    assert process.returncode == 1
    assert json.loads(out)["error"].endswith(f"go on from its last checkpoint with: lab train --resume {folder.name}"), err
    delivered = mlflow_run(running_lab, folder)
    assert delivered.info.status == "KILLED"
    assert flow_run(running_lab, delivered.data.tags["prefect.flow_run_id"])["state_type"] == "CANCELLED"
    assert trainers(running_lab) == []


def test_preparing_twice_is_cached(running_lab: Settings) -> None:
    states = []
    for _ in range(2):
        identity = queue(running_lab, "prepare-data/prepare-data", data="digits", overrides=["data.test=300"])
        assert ended(running_lab, identity)["type"] == "COMPLETED", logs(running_lab, identity)
        states.append(task_runs(running_lab, identity)["prepare"]["state_name"])
        assert "| test | 300 |" in artifacts(running_lab, identity)["data-card"]
    assert states == ["Completed", "Cached"]
    section = ["data=digits", "data.test=300"]
    prepared = command(running_lab, "prepare", *section)[0]
    shutil.rmtree(prepared["folder"])
    identity = queue(running_lab, "prepare-data/prepare-data", data="digits", overrides=section[1:])
    assert ended(running_lab, identity)["type"] == "COMPLETED"
    assert task_runs(running_lab, identity)["prepare"]["state_name"] == "Completed", "what was removed is prepared again"
    assert (Path(prepared["folder"]) / "card.json").exists()


def test_the_evaluate_flow(running_lab: Settings) -> None:
    folder = max(running_lab.runs.glob("*/model"), key=lambda path: path.stat().st_mtime).parent
    identity = queue(running_lab, "evaluate/evaluate", run=folder.name, split="validation")
    assert ended(running_lab, identity)["type"] == "COMPLETED", logs(running_lab, identity)
    shown = artifacts(running_lab, identity)
    assert f"{result(folder)['metrics']['validation/accuracy']:.4f}" in shown["evaluation"]
    assert mlflow_run(running_lab, folder).info.run_id in shown["mlflow-run"]
