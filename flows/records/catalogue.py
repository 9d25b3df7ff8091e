"""From a run folder into the lab's own tables: its data, its evaluations with every example's outcome, its names elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.lab.settings import Settings
from flows.records import journal
from flows.records.store import Store


def enter(folder: Path, settings: Settings, *, mlflow_run_id: str | None = None, prefect_run_id: str | None = None) -> None:
    """Enter what the run has come to so far; entering it again replaces what was there."""
    events = {line["event"]: line["facts"] for line in journal.read(folder) if line["kind"] == "event"}
    with Store(settings.lab_store) as store:
        store.link(folder.name, mlflow_run=mlflow_run_id, prefect_flow_run=prefect_run_id)
        if "data" not in events:
            return
        data = events["data"]
        store.add_data(data["name"], data["fingerprint"], data["card"])
        metrics: Mapping[str, float] = events.get("result", {}).get("metrics", {})
        for split in sorted({name.partition("/")[0] for name in metrics}):
            own = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{split}/")}
            _enter_evaluation(store, folder, split, own, data)


def enter_evaluation(folder: Path, split: str, metrics: Mapping[str, float], settings: Settings) -> None:
    """Enter an evaluation whose outcomes are in the run folder."""
    data = next(line["facts"] for line in journal.read(folder) if line.get("event") == "data")
    with Store(settings.lab_store) as store:
        store.add_data(data["name"], data["fingerprint"], data["card"])
        _enter_evaluation(store, folder, split, metrics, data)


def _enter_evaluation(store: Store, folder: Path, split: str, metrics: Mapping[str, float], data: Mapping[str, Any]) -> None:
    from safetensors.numpy import load_file

    series = load_file(folder / "outcomes" / f"{split}.safetensors")
    store.add_evaluation(
        folder.name,
        split,
        data=data["name"],
        fingerprint=data["fingerprint"],
        metrics=metrics,
        outcomes={name: values for name, values in series.items() if values.ndim == 1 and values.dtype.kind in "biuf"},
    )
