"""On a real lab: what a run begins with is trained first, once, and MLflow links both."""

import pytest
from prefect_runs import ended, logs, queue
from trainings import TINY, result

from flows import runs
from flows.lab import health
from flows.lab.settings import Settings
from flows.records.tracking import tracking_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_what_a_run_begins_with_is_trained_first(running_lab: Settings) -> None:
    wanted = [*TINY[2:], "name=second", "pretrained=experiment:mlp_digits"]  # of the same sizes as what it begins with
    states = []
    for _ in range(2):
        identity = queue(running_lab, "train/train", experiment="mlp_digits", overrides=wanted)
        assert ended(running_lab, identity, within=300)["type"] == "COMPLETED", logs(running_lab, identity)
        states.append("pretrain mlp_digits" in [run["name"] for run in _task_runs(running_lab, identity)])
    assert states == [True, False], "the second time it is there"
    (first,) = running_lab.runs.glob("mlp_digits-*")
    later = sorted(running_lab.runs.glob("second-*"))
    assert len(later) == 2
    assert result(later[0])["metrics"]["validation/accuracy"] > 0.9
    client = tracking_client(running_lab.mlflow_uri)
    before = client.get_run(str(runs.mlflow_run_id(first)))
    for folder in later:
        run = client.get_run(str(runs.mlflow_run_id(folder)))
        assert run.data.tags["lab.pretrained.run"] == first.name
        assert run.data.tags["lab.pretrained.mlflow_run_id"] == before.info.run_id
        assert before.data.tags[f"lab.pretrains.{folder.name}"] == run.info.run_id
        assert [model.model_id for model in run.inputs.model_inputs] == [model.model_id for model in before.outputs.model_outputs]


def _task_runs(settings: Settings, identity: str) -> list[dict[str, str]]:
    query = {"flow_runs": {"id": {"any_": [identity]}}}
    return list(health.call(f"{settings.prefect_api}/task_runs/filter", query, timeout=20))
