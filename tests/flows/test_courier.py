"""Run folders reach MLflow whole and once, whatever happens on the way."""

import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from run_folders import CONFIG, DATA, begin, model_folder, picture, result, train

from flows.records.courier import Courier, deliver_pending
from flows.records.delivery import Delivery, Progress, exclusive
from flows.records.journal import Journal
from flows.records.tracking import tracking_client

EXPERIMENT = "tests"


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return (tmp_path / "artifacts").as_uri()


@pytest.fixture
def uri(mlflow_uri: str) -> str:
    return mlflow_uri


@pytest.fixture
def folder(run_folder: Path) -> Path:
    return run_folder


def carry(folder: Path, uri: str, artifacts: str, **progress: Any) -> Delivery:
    """One delivery of what is there."""
    delivery = Delivery(folder, Progress.load(folder, experiment=EXPERIMENT, artifacts=artifacts), uri)
    delivery.open()
    delivery.carry()
    return delivery


def points(client: MlflowClient, run: str, name: str) -> list[tuple[int, float, int]]:
    return sorted((point.step, point.value, point.timestamp) for point in client.get_metric_history(run, name))


def only_run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_run_arrives_with_everything(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 20)
        journal.metrics({"validation/accuracy": 0.5}, step=20, epoch=2.0)
        journal.figure("gradients/step-10", picture(), step=10)
        journal.event("stage", name="fit", state="finished", seconds=2.5)
        result(journal)
        times = [line["t"] for line in map(json.loads, (folder / "journal.jsonl").read_text().splitlines()) if line["kind"] == "metrics"]
    receipts = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)
    assert list(receipts) == [folder.name]
    assert receipts[folder.name].complete
    assert receipts[folder.name].trouble is None
    client = tracking_client(uri)
    run = only_run(client)
    assert (run.info.run_name, run.info.status, run.info.run_id) == (folder.name, "FINISHED", receipts[folder.name].mlflow_run_id)
    assert points(client, run.info.run_id, "train/loss") == [(step, 1 / step, times[step - 1]) for step in range(1, 21)]
    assert [(step, value) for step, value, _ in points(client, run.info.run_id, "epoch")] == [(step, step / 10) for step in range(1, 21)]
    assert run.data.metrics["summary/test/accuracy"] == 0.85
    assert run.data.params["model.hidden"] == "[64, 32]"
    assert run.data.params["optimizer.learning_rate"] == "0.001"
    assert run.data.params["seed"] == "7"
    assert run.data.params["pretrained"] == "null"
    tags = {
        "lab.run": folder.name,
        "lab.experiment": "mlp_digits",
        "lab.model": "mlp",
        "lab.data": "digits",
        "lab.objective": "classification",
        "lab.optimizer": "Adam",
        "lab.activation": "ReLU",
        "lab.seed": "7",
        "lab.code.dirty": "true",
        "lab.version.torch": "2.14.1",
        "lab.threads": "2",
        "lab.parameters": "1234",
        "lab.seconds.fit": "2.5",
        "lab.weights_sha256": "f" * 64,
        "mlflow.source.git.commit": "a" * 40,
        "mlflow.note.content": "Two hidden layers on 8×8 digits",
        "tag.lecture": "yes",
    }
    assert {key: run.data.tags.get(key) for key in tags} == tags
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", DATA["fingerprint"][:36])
    assert json.loads(given.dataset.profile)["counts"] == {"train": 1400, "test": 397}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    assert kept.is_relative_to(folder.parent.parent / "artifacts" / EXPERIMENT)
    assert json.loads((kept / "config.json").read_text()) == CONFIG
    assert json.loads((kept / "data_card.json").read_text()) == DATA
    assert (kept / "requirements.txt").read_text() == "# python 3.11.7\ntorch==2.14.1\n"
    assert (kept / "figures/gradients/step-10.png").read_bytes().startswith(b"\x89PNG")


def test_delivering_again_from_the_start_changes_nothing(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 700)  # two batches
        journal.metrics({"odd": math.nan, "high": math.inf}, step=3, epoch=0.3)
        journal.figure("curves", picture(), step=20)
        result(journal)
    first = carry(folder, uri, artifacts)
    before = {
        name: points(first.client, first.progress.mlflow_run_id, name) for name in ("train/loss", "epoch", "high", "summary/test/accuracy")
    }
    assert [len(before[name]) for name in before] == [700, 700, 1, 1]
    (folder / "delivery.json").unlink()
    again = carry(folder, uri, artifacts)
    assert again.progress == first.progress
    assert {name: points(again.client, again.progress.mlflow_run_id, name) for name in before} == before
    (odd,) = again.client.get_metric_history(again.progress.mlflow_run_id, "odd")
    assert math.isnan(odd.value)


def test_delivery_goes_on_where_a_failure_stopped_it(
    folder: Path,
    uri: str,
    artifacts: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to a batch that did arrive is lost: the batch is sent again, and every point is there once."""
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 900)
    real, calls = MlflowClient.log_batch, []

    def losing(self: MlflowClient, run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        real(self, run, metrics=metrics, params=params, tags=tags)
        calls.append(len(metrics))
        if len(calls) % 3 == 0:
            raise MlflowException("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", losing)
    for _ in range(20):
        try:
            delivery = carry(folder, uri, artifacts)
            break
        except MlflowException:
            continue
    monkeypatch.undo()
    assert max(calls) <= 1000
    client, run = delivery.client, only_run(delivery.client).info.run_id
    assert [(step, value) for step, value, _ in points(client, run, "train/loss")] == [(step, 1 / step) for step in range(1, 901)]
    assert len(points(client, run, "epoch")) == 900


def test_an_unfinished_line_waits_until_it_is_whole(folder: Path, uri: str, artifacts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.records.delivery.CHUNK", 64)  # lines longer than a chunk
    with Journal(folder) as journal:
        train(journal, 1, 5)
    path = folder / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    delivery = carry(folder, uri, artifacts)
    run = delivery.progress.mlflow_run_id
    assert [step for step, *_ in points(delivery.client, run, "train/loss")] == [1, 2, 3, 4]
    path.write_bytes(whole)
    delivery.carry()
    assert [step for step, *_ in points(delivery.client, run, "train/loss")] == [1, 2, 3, 4, 5]
    assert delivery.progress.offset == len(whole)


def test_names_and_values_beyond_mlflows_limits_arrive_all_the_same(folder: Path, uri: str, artifacts: str) -> None:
    many = {f"series {number}": float(number) for number in range(1500)}
    with Journal(folder) as journal:
        begin(journal, description="d" * 9000, model={"_target_": "a.mlp.M", "list": ["é" * 50] * 200, **{f"k{n}": n for n in range(150)}})
        journal.metrics({**many, "a//b/../ü?": 1.0}, step=1, epoch=0.1)
    delivery = carry(folder, uri, artifacts)
    run = delivery.client.get_run(delivery.progress.mlflow_run_id)
    assert delivery.progress.refused == []
    assert run.data.metrics["series 1499"] == 1499.0
    assert run.data.metrics["a/b/__"] == 1.0
    assert len(run.data.params["model.list"]) == 6000
    assert run.data.params["model.k149"] == "149"
    assert len(run.data.tags["mlflow.note.content"]) == 8000


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 10)
        journal.event("interrupted", reason="somebody asked it to stop at step 10")
    deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)
    client = tracking_client(uri)
    first = only_run(client)
    assert (first.info.status, first.data.tags["lab.reason"]) == ("KILLED", "somebody asked it to stop at step 10")
    courier = Courier(folder, tracking_uri=uri, experiment=EXPERIMENT, artifacts=artifacts)
    courier.start()
    with Journal(folder) as journal:
        begin(journal, seed=8)  # parameters can't change in MLflow: the first ones stay
        train(journal, 6, 20)
        deadline = time.monotonic() + 20
        while client.get_run(first.info.run_id).info.status != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get_run(first.info.run_id).info.status == "RUNNING"
        result(journal)
    receipt = courier.finish("FINISHED", timeout=30)
    assert receipt.complete, receipt.trouble
    run = only_run(client)
    assert (run.info.run_id, run.info.status, run.data.params["seed"]) == (first.info.run_id, "FINISHED", "7")
    assert [step for step, *_ in points(client, run.info.run_id, "train/loss")] == list(range(1, 21))
    assert [step for step, *_ in points(client, run.info.run_id, "epoch")] == list(range(1, 21))


def test_a_courier_never_raises_and_leaves_the_rest_in_the_folder(folder: Path, uri: str, artifacts: str) -> None:
    heard: list[str | None] = []
    away, tags = "http://127.0.0.1:9", {"prefect.flow_run_id": "p1"}
    courier = Courier(folder, tracking_uri=away, experiment=EXPERIMENT, artifacts=artifacts, tags=tags, on_trouble=heard.append)
    courier.start()
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 20)
        result(journal)
    start = time.monotonic()
    receipt = courier.finish("FINISHED", timeout=1.5)
    assert time.monotonic() - start < 3
    assert (receipt.complete, receipt.mlflow_run_id) == (False, None)
    assert receipt.trouble is not None
    assert "127.0.0.1" in receipt.trouble
    assert len(heard) == 1
    courier._thread.join(20)
    assert deliver_pending(folder.parent, uri, experiment="other", artifacts=artifacts)[folder.name].complete
    client = tracking_client(uri)
    run = only_run(client)  # in the experiment that the courier was told, not in the other one
    assert (run.info.status, run.data.tags["prefect.flow_run_id"]) == ("FINISHED", "p1")
    assert len(points(client, run.info.run_id, "train/loss")) == 20
    assert deliver_pending(folder.parent, uri, experiment="other", artifacts=artifacts) == {}


def test_the_courier_moves_to_where_the_lab_is_now(folder: Path, uri: str, artifacts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = iter(["http://127.0.0.1:9"])
    courier = Courier(folder, tracking_uri=lambda: next(addresses, uri), experiment=EXPERIMENT, artifacts=artifacts)
    courier.start()
    with Journal(folder) as journal:
        begin(journal)
        result(journal)
    assert courier.finish("FINISHED", timeout=30).complete


def test_a_short_run_has_system_metrics_of_machine_and_process(folder: Path, uri: str, artifacts: str) -> None:
    seen: list[str] = []
    courier = Courier(folder, tracking_uri=uri, experiment=EXPERIMENT, artifacts=artifacts, pid=os.getpid(), on_run=seen.append)
    courier.start()
    with Journal(folder) as journal:
        begin(journal)
        result(journal)
    receipt = courier.finish("FINISHED", timeout=30)
    assert receipt.complete, receipt.trouble
    assert seen == [receipt.mlflow_run_id]
    metrics = only_run(tracking_client(uri)).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert metrics["system/process_memory_usage_megabytes"] > 50
    assert metrics["system/disk_available_megabytes"] > 0
    assert metrics["system/network_receive_megabytes"] >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a thread has a niceness of its own")
def test_the_courier_lets_the_training_go_first(folder: Path, uri: str, artifacts: str) -> None:
    seen: list[int] = []

    def look(_: str) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    courier = Courier(folder, tracking_uri=uri, experiment=EXPERIMENT, artifacts=artifacts, on_run=look)
    courier.start()
    courier.finish("KILLED", timeout=30)
    assert seen == [max(before, 10)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_one_courier_a_folder(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        result(journal)
    with exclusive(folder) as alone:
        assert alone
        courier = Courier(folder, tracking_uri=uri, experiment=EXPERIMENT, artifacts=artifacts)
        courier.start()
        receipt = courier.finish("FINISHED", timeout=20)
        assert (receipt.complete, receipt.trouble) == (False, "another process is delivering this run already")
        assert deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts) == {}


def test_a_run_in_training_is_passed_by(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        assert deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts) == {}
    receipt = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[folder.name]
    assert receipt.complete
    run = only_run(tracking_client(uri))
    assert run.info.status == "FAILED"
    assert run.data.tags["lab.reason"] == "the training process ended without a word; it can be resumed"


def test_a_run_that_somebody_deleted_stays_deleted(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
    run = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[folder.name].mlflow_run_id
    client = tracking_client(uri)
    client.delete_run(run)
    with Journal(folder) as journal:
        train(journal, 1, 3)
    receipt = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[folder.name]
    assert receipt.trouble == "its MLflow run was deleted"
    assert client.get_run(run).info.lifecycle_stage == "deleted"


def test_a_damaged_delivery_file_costs_nothing(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        train(journal, 1, 5)
    run = carry(folder, uri, artifacts).progress.mlflow_run_id
    for damaged in ("", "{", "[]", '{"offset": 3}'):
        (folder / "delivery.json").write_text(damaged)
        delivery = carry(folder, uri, artifacts)
        assert delivery.progress.mlflow_run_id == run
        assert len(points(delivery.client, run, "train/loss")) == 5


def test_the_terminal_and_the_working_directory_stay_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while MLflow makes its tables, which it likes to report line by line, and when nobody says where files go."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "runs/quiet").mkdir(parents=True)
    with Journal(tmp_path / "runs/quiet") as journal:
        begin(journal)
    address = f"sqlite:///{tmp_path / 'fresh.db'}"
    receipt = deliver_pending(tmp_path / "runs", address, experiment=EXPERIMENT)["quiet"]
    assert receipt.complete, receipt.trouble
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "work").iterdir()) == []
    assert len(list((tmp_path / "artifacts" / EXPERIMENT).glob("*/artifacts/config.json"))) == 1


def test_waiting_for_a_server_that_is_away_can_be_given_up(folder: Path) -> None:
    with Journal(folder) as journal:
        begin(journal)
        result(journal)
    courier = Courier(folder, tracking_uri="http://127.0.0.1:9", experiment=EXPERIMENT)
    courier.start()
    giving_up = threading.Timer(0.5, courier.give_up)
    giving_up.start()
    began = time.monotonic()
    receipt = courier.finish("FINISHED", timeout=60)
    giving_up.join()
    assert time.monotonic() - began < 30
    assert not receipt.complete
    assert receipt.mlflow_run_id is None


def test_the_end_does_not_wait_for_a_disk_that_is_full(folder: Path) -> None:
    """Nobody makes room meanwhile; what has not arrived stays where it is."""
    with Journal(folder) as journal:
        begin(journal)
        result(journal)

    def full() -> str:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    courier = Courier(folder, tracking_uri=full, experiment=EXPERIMENT)
    courier.start()
    began = time.monotonic()
    receipt = courier.finish("FINISHED", timeout=60)
    assert time.monotonic() - began < 20
    assert not receipt.complete
    assert receipt.trouble == "the disk is full; free some space"


def test_where_the_first_weights_came_from_is_linked_both_ways(folder: Path, uri: str, artifacts: str) -> None:
    earlier = folder.parent / "kjv_bert-20261122-120000-aaaa"
    with Journal(earlier) as journal:
        begin(journal)
        result(journal)
    model_folder(earlier)
    receipt = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[earlier.name]
    with Journal(folder) as journal:
        begin(journal)
        journal.event("pretrained", weights_sha256="e" * 64, origin={"run": earlier.name, "experiment": "kjv_bert"})
        result(journal)
    later = deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[folder.name].mlflow_run_id
    client = tracking_client(uri)
    run, before = client.get_run(str(later)), client.get_run(str(receipt.mlflow_run_id))
    assert {key: value for key, value in run.data.tags.items() if key.startswith("lab.pretrained")} == {
        "lab.pretrained.run": earlier.name,
        "lab.pretrained.experiment": "kjv_bert",
        "lab.pretrained.weights_sha256": "e" * 64,
        "lab.pretrained.mlflow_run_id": receipt.mlflow_run_id,
    }
    assert before.data.tags[f"lab.pretrains.{folder.name}"] == later
    assert [model.model_id for model in run.inputs.model_inputs] == [receipt.model_id]


def test_a_run_whose_first_weights_were_deleted_arrives(folder: Path, uri: str, artifacts: str) -> None:
    with Journal(folder) as journal:
        begin(journal)
        journal.event("pretrained", weights_sha256="e" * 64, origin={"run": "gone", "mlflow_run_id": "0" * 32, "model_id": "m-" + "0" * 32})
        result(journal)
    assert deliver_pending(folder.parent, uri, experiment=EXPERIMENT, artifacts=artifacts)[folder.name].complete
    assert only_run(tracking_client(uri)).data.tags["lab.pretrained.run"] == "gone"


def test_a_tag_that_is_added_later_arrives(folder: Path, uri: str, artifacts: str) -> None:
    there = threading.Event()
    tags = {"lab.sweep": "s"}
    courier = Courier(folder, tracking_uri=uri, experiment=EXPERIMENT, artifacts=artifacts, tags=tags, on_run=lambda _: there.set())
    with Journal(folder) as journal:
        begin(journal)
        courier.start()
        assert there.wait(30)
        tags["prefect.flow_run_id"] = "p1"
        result(journal)
    assert courier.finish("FINISHED", timeout=30).complete
    found = only_run(tracking_client(uri)).data.tags
    assert (found["lab.sweep"], found["prefect.flow_run_id"]) == ("s", "p1")
    assert json.loads((folder / "delivery.json").read_text())["tags"]["prefect.flow_run_id"] == "p1"
