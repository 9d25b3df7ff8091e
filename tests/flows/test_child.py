"""A child that is asked to stop: where its work may be broken off anywhere it is, elsewhere it is asked for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, time
from flows.child import interrupting, leave, serve

def work(request, tell, stop):
    if request["before"]:
        stop.wait(60)
    with interrupting(stop):
        tell({"kind": "note", "text": "at work"})
        time.sleep(60)

leave(serve(work))
"""
Ask = Callable[[subprocess.Popen[str]], None]


def _stdin(child: subprocess.Popen[str]) -> IO[str]:
    assert child.stdin is not None
    return child.stdin


def _tell(child: subprocess.Popen[str]) -> None:
    _stdin(child).write('{"stop": true}\n')
    _stdin(child).flush()


WAYS: dict[str, Ask] = {
    "a line": _tell,
    "nobody listens": lambda child: _stdin(child).close(),
    "Ctrl-C": lambda child: child.send_signal(signal.SIGINT),
    "terminated": lambda child: child.send_signal(signal.SIGTERM),
}


@pytest.mark.parametrize("way", WAYS)
def test_work_that_may_be_broken_off_is_at_once(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        _stdin(child).write('{"before": false}\n')
        _stdin(child).flush()
        assert json.loads(child.stdout.readline())["text"] == "at work"
        asked = time.monotonic()
        WAYS[way](child)
        assert json.loads(child.stdout.readline()) == {"kind": "interrupted", "message": "stopped before the training began"}
        assert child.wait(30) == 3
        assert time.monotonic() - asked < 30, "and not after the minute that the work takes"


def test_it_is_not_begun_when_it_was_time_to_stop_before() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        _stdin(child).write('{"before": true}\n{"stop": true}\n')
        _stdin(child).flush()
        assert json.loads(child.stdout.readline())["kind"] == "interrupted"
        assert child.wait(30) == 3
