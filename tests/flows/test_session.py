"""What surrounds a training: where its records go, and what signals do to it."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lab_processes import server

from components.errors import RunError
from flows.child import stopping_on_signals
from flows.lab.servers import free_port_near
from flows.lab.settings import Settings
from flows.session import Session, summary, tracking_uri


def test_records_go_to_the_server_that_is_there(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mlflow_port=free_port_near(5000))
    settings.mlflow_database.touch()  # making its tables takes seconds
    assert tracking_uri(settings) == settings.mlflow_store == f"sqlite:///{settings.home}/mlflow.db"
    with server({"/health": "OK"}) as (port, _):
        running = Settings(settings.home, mlflow_port=port)
        assert tracking_uri(running) == f"http://127.0.0.1:{port}"
    elsewhere = Settings(settings.home, remote_mlflow="https://mlflow.example")
    assert tracking_uri(elsewhere) == "https://mlflow.example", "it is not asked first: the courier keeps what a server does not take"


def test_the_first_signal_asks_and_the_second_kills() -> None:
    done: list[str] = []

    class Training:
        stop_asked = done = False
        process = SimpleNamespace(kill=lambda: done.append("kill"))

        def stop(self) -> None:
            self.stop_asked = True
            done.append("stop")

    before = signal.getsignal(signal.SIGTERM)
    session = SimpleNamespace(training=Training(), recording=False)
    with stopping_on_signals(lambda: Session.stop(cast(Session, session)), signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
        assert done == ["stop"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert done[:2] == ["stop", "kill"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("done", [True, False], ids=["its process has ended", "its process is about to end"])
def test_a_signal_after_the_training_ends_the_wait_for_mlflow(done: bool) -> None:
    given_up: list[str] = []
    training = SimpleNamespace(done=done, stop_asked=False, stop=lambda: None)
    courier = SimpleNamespace(give_up=lambda: given_up.append("now"))
    Session.stop(cast(Session, SimpleNamespace(training=training, courier=courier, recording=not done)))
    assert given_up == ["now"]


def test_a_run_without_a_result_has_no_summary() -> None:
    session: Any = SimpleNamespace(run="r", training=SimpleNamespace(result=None), receipt=None)
    with pytest.raises(RunError, match=r"^r ended without a result$"):
        summary(session)
