"""The supervisor's half of the conversation, with small shell scripts in the trainer's place."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import Interrupted, RequestError, RunError
from flows.lab.settings import Settings
from flows.supervise import TrainerDied, Training

RUN = """echo '{"kind": "run", "run": "r", "folder": "f", "config": {"name": "n"}}'\n"""

Start = Callable[..., Training]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a `Training` whose trainer is the shell script given; what it reads as its request is in the file `asked`."""
    started: list[Training] = []

    def begin(script: str, request: dict[str, Any] | None = None, **options: Any) -> Training:
        program = tmp_path / "trainer"
        program.write_text(f'#!/bin/sh\nread request; echo "$request" >> {tmp_path}/asked\n{script}')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        started.append(Training(request or {"overrides": []}, Settings(tmp_path), **options))
        return started[-1]

    yield begin
    for training in started:
        training.close(grace=0)


def accepted(training: Training) -> bool:
    return bool(training.config)


def test_a_whole_conversation(start: Start, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    stage = """echo '{"kind": "stage", "name": "fit", "state": "%s", "seconds": 0}'\n"""
    training = start(
        RUN + stage % "started" + """echo '{"kind": "result", "steps": 3}'\n""" + stage % "finished" + """echo "$LAB_HOME" >&2""",
        {"overrides": ["seed=1"]},
        watch=lines.append,
    )
    training.wait(accepted)
    assert (training.run, training.config, training.folder) == ("r", {"name": "n"}, tmp_path / "runs/r")
    assert not training.started
    training.wait(lambda one: "fit" in one.started)
    assert training.result is None
    training.wait()
    assert (training.result, training.finished, training.ended, training.done) == ({"steps": 3}, {"fit"}, True, True)
    assert [line["kind"] for line in lines] == ["run", "stage", "result", "stage"]
    assert (tmp_path / "asked").read_text() == '{"overrides": ["seed=1"]}\n'
    training.child.errors.seek(0)
    assert training.child.errors.read().decode() == f"{tmp_path}\n", "it belongs to the same lab"


@pytest.mark.parametrize(("code", "kind"), [(2, RequestError), (1, RunError)])
def test_errors_come_back_as_what_they_were(start: Start, code: int, kind: type[Exception]) -> None:
    training = start(f"""echo '{{"kind": "error", "message": "so it is", "exit": {code}}}'; exit {code}""")
    with pytest.raises(kind, match=r"^so it is$"):
        training.wait()
    assert training.ended
    assert not training.done


def test_a_killed_trainer_is_started_again_with_its_run(start: Start, tmp_path: Path) -> None:
    training = start(f"""{RUN}printf '{{"kind": "prog'; test -e {tmp_path}/again || kill -KILL $$""")
    training.wait(accepted)
    with pytest.raises(TrainerDied, match=r"^the trainer process was killed by SIGKILL \(is there enough memory\?\)$"):
        training.wait()
    assert training.ended
    (tmp_path / "again").touch()
    first = training.pid
    training.restart()
    assert training.pid != first
    training.wait()
    assert training.done
    assert (tmp_path / "asked").read_text().splitlines()[1] == '{"resume": "r"}'


def test_a_crash_is_told_with_its_last_words(start: Start) -> None:
    with pytest.raises(TrainerDied, match=r"^the trainer process ended with exit code 7: Bus error$"):
        start("echo Traceback >&2; echo Bus error >&2; exit 7").wait()
    with pytest.raises(TrainerDied, match=r"^the trainer process was killed by SIGSEGV$"):
        start("kill -SEGV $$").wait()


def test_what_is_no_line_of_the_trainer_is_passed_over(start: Start) -> None:
    training = start("echo a library says hello; " + RUN)
    training.wait()
    assert training.config == {"name": "n"}


def test_a_stop_is_asked_for_and_waited_for(start: Start) -> None:
    training = start(
        f"""{RUN}read stop; test "$stop" = '{{"stop": true}}' && echo '{{"kind": "interrupted", "message": "at step 4"}}'; exit 3"""
    )
    training.wait(accepted)
    training.stop()
    with pytest.raises(Interrupted, match=r"^at step 4$"):
        training.wait()
    assert training.stop_asked


def test_close_leaves_no_process_however_stubborn(start: Start) -> None:
    training = start(f"trap '' TERM INT; {RUN}while :; do sleep 0.05; done")
    training.wait(accepted)
    began = time.monotonic()
    training.close(grace=0.2)
    assert training.process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 5
    training.close()


def test_a_stop_after_the_end_is_no_error(start: Start) -> None:
    training = start(RUN)
    training.wait()
    training.process.wait()
    training.stop()
    training.close()
