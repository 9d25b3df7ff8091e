"""Handing a run to the server: what it refuses is the asker's mistake, what it cannot do is its own."""

from __future__ import annotations

import io
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from components.errors import LabError, RequestError, RunError
from flows import queue
from flows.lab import health
from flows.lab.settings import Settings


@pytest.mark.parametrize(("code", "kind"), [(409, RequestError), (422, RequestError), (404, RunError), (500, RunError)])
def test_a_refusal_is_told_from_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[LabError]) -> None:
    def call(address: str, *_: Any, **__: Any) -> Any:
        if address.endswith("create_flow_run"):
            raise urllib.error.HTTPError(address, code, "no", Message(), io.BytesIO())
        if "/variables/" in address:
            raise urllib.error.HTTPError(address, 404, "no limit", Message(), io.BytesIO())
        return {"id": "1"}

    monkeypatch.setattr(health, "answers", lambda *_: True)
    monkeypatch.setattr(health, "call", call)
    with pytest.raises(kind, match="did not take the run of train/train"):
        queue.queue(Settings(tmp_path), "train/train", {})


def test_without_a_lab_there_is_nobody_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "answers", lambda *_: False)
    with pytest.raises(RequestError, match="lab up"):
        queue.queue(Settings(tmp_path), "train/train", {})
