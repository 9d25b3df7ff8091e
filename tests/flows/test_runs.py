"""Runs are found by what people have at hand."""

import json
import os
from pathlib import Path

import pytest

from components.errors import RequestError
from flows import runs
from flows.lab.settings import Settings

NAMES = ["mlp_digits-20261122-090000-aaaa", "mlp_digits-20261122-100000-bbbb", "vgg_mnist-20261121-080000-cccc"]


@pytest.fixture
def lab(tmp_path: Path) -> Settings:
    """A lab with three runs; the VGG was begun last, whatever its name says."""
    settings = Settings(tmp_path)
    for time, name in enumerate(NAMES):
        (settings.runs / name).mkdir(parents=True)
        (settings.runs / name / "config.json").write_text("{}")
        os.utime(settings.runs / name / "config.json", (time, time))
    (settings.runs / NAMES[0] / "delivery.json").write_text(json.dumps({"mlflow_run_id": "0123456789abcdef" * 2}))
    (settings.runs / NAMES[1] / "delivery.json").write_text("{torn")
    (settings.runs / "no_run").mkdir()
    return settings


@pytest.mark.parametrize(
    ("given", "found"),
    [(NAMES[1], 1), ("vgg", 2), ("mlp_digits-20261122-09", 0), ("0123456789abcdef" * 2, 0), ("last", 2)],
)
def test_a_run_is_found(lab: Settings, given: str, found: int) -> None:
    assert runs.find(given, lab) == lab.runs / NAMES[found]


def test_an_experiments_name_is_its_run_though_others_begin_so(lab: Settings) -> None:
    other = lab.runs / "vgg_mnist_small-20261123-080000-dddd"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert runs.find("vgg_mnist", lab) == lab.runs / NAMES[2]
    assert runs.find("vgg_mnist_small", lab) == other
    with pytest.raises(RequestError, match="may be any of 2 runs"):
        runs.find("vgg", lab)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mlp", f"'mlp' may be any of 2 runs: {NAMES[0]}, {NAMES[1]}"),
        ("", f"there is no run '' in HOME (the newest is {NAMES[2]})"),
        ("no_run", f"there is no run 'no_run' in HOME (the newest is {NAMES[2]})"),
        ("vgg_mnist-20261121-080000-ccc", None),
        ("vgg_mnist-20261121-080001-cccc", f"there is no run 'vgg_mnist-20261121-080001-cccc' in HOME (did you mean {NAMES[2]!r}?)"),
        ("../runs/no_run", f"there is no run '../runs/no_run' in HOME (the newest is {NAMES[2]})"),
    ],
)
def test_a_run_is_not_found(lab: Settings, given: str, message: str | None) -> None:
    if message is None:
        assert runs.find(given, lab).name == NAMES[2]
        return
    with pytest.raises(RequestError) as caught:
        runs.find(given, lab)
    assert str(caught.value) == message.replace("HOME", str(lab.runs))


def test_without_runs_the_message_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\(there are none yet: lab train …\)$"):
        runs.find("last", Settings(tmp_path))


def test_where_a_run_was_delivered(lab: Settings) -> None:
    assert [runs.mlflow_run_id(lab.runs / name) for name in NAMES] == ["0123456789abcdef" * 2, None, None]
