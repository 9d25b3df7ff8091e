"""Starting from earlier weights: what fits is taken, what does not is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from components.errors import CheckpointError, RequestError
from components.training.checkpoint import write_tensors
from flows.lab.settings import Settings
from flows.pretrained import load_pretrained, locate
from flows.records.journal import Journal


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def network(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, classes))


def finished(settings: Settings, run: str, experiment: str, accuracy: float, model: nn.Module) -> Path:
    folder = settings.runs / run
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": experiment}))
    write_tensors(folder / "model" / "model.safetensors", model.state_dict(), {})
    with Journal(folder) as journal:
        journal.event("result", metrics={}, monitor=["accuracy", "max", accuracy])
    return folder


def test_what_fits_is_taken_and_the_new_head_stays(settings: Settings, tmp_path: Path) -> None:
    old, new = network(10), network(2)
    head = new[2].weight.clone()
    path = write_tensors(tmp_path / "old.safetensors", old.state_dict(), {})
    said = load_pretrained(new, f"file:{path}", settings)
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, head)
    assert said["taken"] == ["0.bias", "0.weight"]
    assert said["initialized"] == said["unused"] == ["2.bias", "2.weight"]


def test_an_experiment_stands_for_its_best_run(settings: Settings) -> None:
    finished(settings, "a-1", "a", 0.8, network(2))
    best = finished(settings, "a-2", "a", 0.9, network(2))
    finished(settings, "b-1", "b", 0.99, network(2))
    assert locate("experiment:a", settings) == best / "model" / "model.safetensors"
    assert locate("run:b", settings) == settings.runs / "b-1" / "model" / "model.safetensors"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("experiment:c", "c has not been trained here yet: lab train experiment=c"),
        ("run:nobody", "there is no run 'nobody'"),
        ("file:missing.safetensors", "has no weights"),
        ("flie:x", r"is none of run:RUN, .*did you mean 'file'"),
        ("file:", "is none of"),
    ],
)
def test_an_address_that_leads_nowhere_is_said(settings: Settings, address: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        locate(address, settings)


def test_weights_of_something_else_are_refused(settings: Settings, tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(RequestError, match="fits this model"):
        load_pretrained(network(2), f"file:{path}", settings)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pretrained(network(2), f"file:{path}", settings)
