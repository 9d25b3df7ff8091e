"""A training in several processes, with real launchers: killed, stopped and gone on with, and on two machines, always the same."""

import json
import signal
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from lab_command import lab
from lab_processes import wait_for
from trainings import EVERYTHING_RANDOM, TINY, Trainer, curves, events, last_step, points, result

from components.errors import ConfigError, RequestError
from components.training import elastic
from flows.lab.settings import Settings
from flows.search import request

OVERRIDES = [*EVERYTHING_RANDOM, "trainer.checkpoint_seconds=0", "trainer.device=cpu"]


def reach(trainer: Trainer, folder: Path, step: int) -> None:
    """Wait until the journal has reached `step`; a group takes seconds to start, and much longer on a busy machine."""
    wait_for(lambda: last_step(folder) >= step or trainer.process.poll() is not None, 240)
    assert trainer.process.poll() is None


def ranks(trainer: Trainer) -> list[psutil.Process]:
    """The launcher's processes of the group, by rank, as soon as both are there."""

    def both() -> list[psutil.Process]:
        children = psutil.Process(trainer.process.pid).children()
        return sorted((c for c in children if any("spawn_main" in word for word in c.cmdline())), key=lambda c: c.create_time())

    return wait_for(lambda: len(found := both()) == 2 and found, 240)


@pytest.mark.e2e
def test_killed_stopped_or_on_two_machines_the_weights_are_the_same(settings: Settings, tmp_path: Path) -> None:
    together = settings.runs / "together"
    with Trainer(settings, {"overrides": [*OVERRIDES, "trainer.processes=2"], "run": "together"}) as trainer:
        trainer.hear("run")
        reach(trainer, together, 40)
        victims = ranks(trainer)
        victims[1].kill()
        wait_for(lambda: not victims[0].is_running() or victims[0].status() == psutil.STATUS_ZOMBIE, 30)
        at = last_step(together)
        reach(trainer, together, at + 30)
        assert not {victim.pid for victim in victims} & {rank.pid for rank in ranks(trainer)}, "both were started again"
        trainer.process.send_signal(signal.SIGTERM)
        assert trainer.end() == 3
    assert events(together).count("interrupted") == 1
    assert "result" not in events(together)
    with Trainer(settings, {"resume": "together"}) as trainer:
        assert trainer.end() == 0
    assert events(together).count("started") == 3
    assert len(points(together)) == len(set(points(together)))

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    apart, other = replace(settings, meeting_point=meeting), Settings(tmp_path / "other")
    other.home.mkdir()
    (other.home / "data").symlink_to(settings.data)
    with Trainer(apart, {"overrides": [*OVERRIDES, "trainer.nodes=2"], "run": "apart"}) as first:
        while "waiting for 1 more machine" not in first.hear("note")["text"]:
            pass
        with Trainer(other, {"join": meeting}) as second:
            assert second.hear("run")["run"] == "apart"
            assert (first.end(), second.end()) == (0, 0)
    assert not other.runs.exists(), "only the machine that leads writes"
    assert curves(together) == curves(settings.runs / "apart")
    assert result(together)["weights_sha256"] == result(settings.runs / "apart")["weights_sha256"]
    assert result(together)["metrics"] == result(settings.runs / "apart")["metrics"]


def test_more_processes_than_processors_are_refused_before_anything_is_made(settings: Settings) -> None:
    done = lab(settings, "train", *TINY, "trainer.processes=64", "trainer.device=cpu")
    assert done.code == 2
    assert "trainer.processes: 64 processes are more than this machine's" in done.err
    assert not settings.runs.exists()


def test_a_trial_of_a_sweep_trains_in_one_process() -> None:
    with pytest.raises(ConfigError, match="a trial trains in one process; more workers run more trials at once"):
        request.read(["experiment=mlp_digits", "trainer.processes=2", "search=optimizers"])


def test_nobody_to_join_is_one_line(settings: Settings) -> None:
    assert "--join takes part in another machine's training" in lab(settings, "train", "--join", "host:1", "model=mlp").err
    with pytest.raises(RequestError, match="'somewhere' is no address of a training"):
        elastic.ask("somewhere")


def test_what_is_offered_is_heard_until_the_offer_ends() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    offer = elastic.offer(address, json.dumps({"run": "r"}))
    assert json.loads(elastic.ask(address)) == {"run": "r"}
    del offer
