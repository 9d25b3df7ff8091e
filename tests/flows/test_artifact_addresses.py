"""Artifacts of a lab that is opened to other machines, and of one that is closed again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.errors import RunError
from flows.lab import artifact_addresses
from flows.lab.settings import Settings
from flows.records.tracking import tracking_client


def test_a_lab_that_is_opened_has_its_artifacts_behind_the_server_and_one_that_is_closed_has_them_back(tracked_settings: Settings) -> None:
    client = tracking_client(tracked_settings.mlflow_store)
    root = str(tracked_settings.artifact_root)
    experiment = client.create_experiment("used alone_%", artifact_location=f"{root}/used alone_%")
    elsewhere = client.create_experiment("elsewhere", artifact_location="file:///another/place")
    run = client.create_run(experiment).info.run_id

    def addresses() -> list[str]:
        found = client.get_experiment(experiment).artifact_location, client.get_run(run).info.artifact_uri
        return [*map(str, found), str(client.get_experiment(elsewhere).artifact_location)]

    before = addresses()
    assert before == [f"{root}/used alone_%", f"{root}/used alone_%/{run}/artifacts", "file:///another/place"]
    opened = replace(tracked_settings, host="0.0.0.0")
    for _ in range(2):
        artifact_addresses.settle(opened)
        served = ["mlflow-artifacts:/used alone_%", f"mlflow-artifacts:/used alone_%/{run}/artifacts", "file:///another/place"]
        assert addresses() == served
    for _ in range(2):
        artifact_addresses.settle(tracked_settings)
        assert addresses() == before


def test_a_store_is_behind_the_server_too(tracked_settings: Settings) -> None:
    client = tracking_client(tracked_settings.mlflow_store)
    experiment = client.create_experiment("stored", artifact_location="s3://bucket/lab/stored")
    artifact_addresses.settle(replace(tracked_settings, host="0.0.0.0", artifact_store="s3://bucket/lab"))
    assert client.get_experiment(experiment).artifact_location == "mlflow-artifacts:/stored"


def test_a_database_without_tables_is_one_line(settings: Settings) -> None:
    with pytest.raises(RunError, match="MLflow's database cannot be used: no such table: experiments"):
        artifact_addresses.settle(settings)
