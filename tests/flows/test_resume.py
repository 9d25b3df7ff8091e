"""A run that was killed anywhere goes on bit for bit: the same weights and the same history as if nothing had happened."""

import random
import signal
import sys
from pathlib import Path

import pytest
from trainings import EVERYTHING_RANDOM, Trainer, curves, events, here, last_step, points, result, until_step

from flows.lab.settings import Settings
from flows.records import journal
from flows.session import Session
from flows.supervise import TrainerDied

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow about its own code

STEPS = 320
SEED = random.SystemRandom().randrange(10_000)


def train(settings: Settings, run: str, *, kill_at: int = 0, how: signal.Signals = signal.SIGKILL, every: float = 0.1) -> Path:
    """Start the run, or go on with it, until step `kill_at` (0: until its result, which is when it is killed as well)."""
    folder = settings.runs / run
    overrides = [*EVERYTHING_RANDOM, f"trainer.checkpoint_seconds={every}"]
    with Trainer(settings, {"resume": run} if folder.exists() else {"overrides": overrides, "run": run}) as trainer:
        trainer.hear("run")
        if not kill_at:
            trainer.hear("result")
            return folder
        at = until_step(folder, max(kill_at, last_step(folder) + 1), alive=lambda: trainer.process.poll() is None)
        if how == signal.SIGPIPE:  # whoever started it is gone
            assert trainer.process.stdin is not None
            trainer.process.stdin.close()
        else:
            trainer.process.send_signal(how)
        code = trainer.process.wait(30)
        sys.stdout.write(f"{run}: seed {SEED}, {how.name} at step {at}, ended with {code} at step {last_step(folder)}\n")
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 3)
        if how != signal.SIGKILL:
            assert events(folder)[-1] == "interrupted"
            (checkpoint, *_) = sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True)
            assert checkpoint.name.startswith(f"step-{last_step(folder):08d}."), "the checkpoint is of its last step"
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The same training, never killed, and not even in a process of its own."""
    settings = Settings(tmp_path_factory.mktemp("undisturbed"))
    (settings.home / "data").symlink_to(digits)
    return here(settings, [*EVERYTHING_RANDOM, "trainer.checkpoint_seconds=1000"], "undisturbed")


def assert_same(folder: Path, undisturbed: Path) -> None:
    assert result(folder)["weights_sha256"] == result(undisturbed)["weights_sha256"]
    assert (folder / "model/model.safetensors").read_bytes() == (undisturbed / "model/model.safetensors").read_bytes()
    assert result(folder)["metrics"] == result(undisturbed)["metrics"]
    assert [step for step, _ in curves(undisturbed)["train/loss"]] == list(range(1, STEPS + 1))
    assert curves(folder) == curves(undisturbed)
    assert len(points(folder)) == len(set(points(folder))), "a point that was computed again was written again"


def test_killed_then_left_alone(settings: Settings, undisturbed: Path) -> None:
    chance = random.Random(SEED)
    train(settings, "killed", kill_at=chance.randrange(1, STEPS // 2))
    train(settings, "killed", kill_at=chance.randrange(STEPS // 2, STEPS - 20), how=signal.SIGPIPE)
    assert_same(train(settings, "killed"), undisturbed)


def test_no_point_is_lost_or_doubled_in_mlflow(tracked_settings: Settings, undisturbed: Path) -> None:
    from flows.records.tracking import tracking_client

    kill_at, killed = random.Random(SEED + 2).randrange(20, STEPS - 100), []

    def watch(line: dict[str, object]) -> None:
        if line["kind"] == "progress" and int(str(line["step"])) >= kill_at and not killed:
            killed.append(session.training.pid)
            session.training.process.kill()

    with Session({"overrides": [*EVERYTHING_RANDOM, "trainer.checkpoint_seconds=0"]}, tracked_settings, watch=watch) as session:
        session.accept()
        session.reach("prepare")
        with pytest.raises(TrainerDied, match=r"the trainer process was killed by SIGKILL \(is there enough memory\?\)"):
            session.reach("fit")
        session.reach("fit")
        assert session.training.pid not in killed
        session.reach("evaluate")
        session.training.process.kill()  # the figures take seconds and say nothing here
        receipt = session.record()
    sys.stdout.write(f"seed {SEED}, killed at step {kill_at}\n")
    folder = session.training.folder
    assert (receipt.trouble, receipt.complete) == (None, True)
    assert_same(folder, undisturbed)
    client = tracking_client(tracked_settings.mlflow_store)
    assert receipt.mlflow_run_id is not None
    run = client.get_run(receipt.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["lab.weights_sha256"] == result(undisturbed)["weights_sha256"]
    said = journal.history(folder)
    for name, points_said in said.items():
        assert sorted((point.step, point.value) for point in client.get_metric_history(receipt.mlflow_run_id, name)) == points_said, name
    assert {name for name in run.data.metrics if not name.startswith(("summary/", "system/"))} == set(said)


@pytest.mark.slow
@pytest.mark.parametrize("every", [0.0, 0.03, 0.3, 1000.0])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_at_many_steps(settings: Settings, undisturbed: Path, every: float, how: signal.Signals) -> None:
    chance = random.Random(f"{SEED} {every} {how}")
    for kill_at in sorted(chance.sample(range(1, STEPS - 20), 4)):
        if kill_at > last_step(settings.runs / "swept"):
            train(settings, "swept", kill_at=kill_at, how=how, every=every)
    assert_same(train(settings, "swept", every=every), undisturbed)
