"""What recording costs a training: the journal inside it, and MLflow beside it.

Inside: the time spent in the recorder's calls, measured call by call, so that it repeats on a busy machine. Beside: the same training
as trainer process alone, and with the courier to MLflow in the supervising process, in turns, until the result is there: a whole
training of about a minute, because most of the courier's work (importing MLflow) is the same for any. Figures are drawn when the
result has been said; they and the model are what comes after it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.loop import CLASSES, LARGER, Setting, Synthetic, network
from benchmarks.places import lab_folder
from benchmarks.report import Row, difference, seconds
from components.data.batches import Batches
from components.objectives.classification import Classification
from components.optimizers import Adam
from components.schedules import Constant
from components.training.checkpoint import Checkpoints
from components.training.loop import fit
from components.training.settings import Trainer
from flows.lab.settings import Settings
from flows.records.journal import Journal
from flows.session import STAGES, Session
from flows.supervise import Training

GOAL, MODEL_GOAL = 0.5, 8.0
MINUTE = 60.0


class Timed(Journal):
    """A journal that knows how long the loop has waited for it."""

    spent = 0.0
    """Seconds."""

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """As in Journal."""
        began = time.perf_counter()
        super().metrics(values, step=step, epoch=epoch)
        self.spent += time.perf_counter() - began

    def flush(self) -> None:
        """As in Journal."""
        began = time.perf_counter()
        super().flush()
        self.spent += time.perf_counter() - began


def inside(setting: Setting, steps: int) -> float:
    """Seconds that one minute of training waits for its journal."""
    data = Synthetic(setting)
    with tempfile.TemporaryDirectory() as folder, Timed(Path(folder)) as journal:
        began = time.perf_counter()
        fit(
            network(setting),
            Classification(classes=CLASSES, class_names=[str(name) for name in range(CLASSES)]),
            Batches(data, batch_size=setting.batch_size, seed=0, shuffle=True),
            Batches(data, batch_size=500, seed=0, shuffle=False),
            optimizer=Adam(learning_rate=0.001),
            schedule=Constant(),
            settings=Trainer(epochs=steps, batch_size=setting.batch_size, max_steps=steps),
            device=torch.device("cpu"),
            recorder=journal,
            checkpoints=Checkpoints(Path(folder) / "checkpoints"),
        )
        return journal.spent / (time.perf_counter() - began) * MINUTE


def alone(request: list[str], settings: Settings) -> float:
    """Seconds of a training in a trainer process to which nobody but this one listens, until its result."""
    training = Training({"overrides": request}, settings)
    try:
        training.wait()
    finally:
        training.close()
    assert training.result is not None
    return float(training.result["seconds"])


def recorded(request: list[str], settings: Settings) -> tuple[float, float, float]:
    """The same with the courier: seconds until the result, of drawing, and of what is left to deliver after that, the model included."""
    with Session({"overrides": request}, settings) as session:
        session.accept()
        for stage in STAGES[:-1]:
            session.reach(stage)
        drawing = time.perf_counter()
        session.reach(STAGES[-1])
        delivering = time.perf_counter()
        receipt = session.record()
        ended = time.perf_counter()
        if receipt.trouble or receipt.model_id is None:
            raise RuntimeError(f"the run was not recorded: {receipt.trouble}")
        assert session.training.result is not None
        return float(session.training.result["seconds"]), delivering - drawing, ended - delivering


def measure(*, repetitions: int = 3, steps: int = 10_000, epochs: int = 500) -> list[Row]:
    """Rows for inside, beside, drawing and the model. `epochs` of the digits with a wide MLP: 500 take about a minute."""
    waited = [inside(LARGER, steps) for _ in range(repetitions)]
    with lab_folder() as settings:
        request = ["experiment=mlp_digits", "model.hidden=[512,512]", f"trainer.epochs={epochs}"]
        alone([*request, "trainer.max_steps=1"], settings)  # prepares the data
        pairs = [(recorded(request, settings), alone(request, settings)) for _ in range(repetitions)]
    ours, theirs = [run[0] for run, _ in pairs], [reference for _, reference in pairs]
    return [
        seconds("recording: waiting for the journal, a minute of training", waited, goal=GOAL),
        difference("recording: a training until its result, with the courier to MLflow beside it", ours, theirs, goal=GOAL),
        seconds("recording: figures, after the result", [run[1] for run, _ in pairs]),
        seconds("recording: the model and the rest into MLflow, after that", [run[2] for run, _ in pairs], goal=MODEL_GOAL),
    ]
