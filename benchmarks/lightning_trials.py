"""Ten of the lecture's trials by Optuna and Lightning: `python -m benchmarks.lightning_trials EXPERIMENT [OVERRIDE …]`.

Prints seconds, trials, and bytes of memory at most.

Lightning is no dependency of the lab: without it this ends with exit code 3. It trains the lab's own model, data and optimizer, with
Lightning's loop, its CSV logger and one validation an epoch around them, and an in-memory study.
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

try:
    import lightning
except ImportError:
    sys.exit(3)

import optuna
import torch
from lightning.pytorch.loggers import CSVLogger

from components.data.batches import Batches
from components.objectives.classification import Classification
from flows import experiment
from flows.config.build import build, validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.parts import build_model, prepare_data

TRIALS = 10


class Module(lightning.LightningModule):
    """The lab's model and objective in Lightning's clothes."""

    def __init__(self, model: torch.nn.Module, objective: Classification, optimizer: Any) -> None:
        super().__init__()
        self.model, self.objective, self.rule = model, objective, optimizer

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """The loss of one batch."""
        loss = self.objective.losses(self.model, batch)["loss"]
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """The accuracy of one batch."""
        self.log("accuracy", (self.model(batch["inputs"]).argmax(1) == batch["targets"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The lab's optimizer."""
        return self.rule.build(self.model)


class Loader:
    """The lab's batches, epoch after epoch, as something that Lightning can iterate."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.epoch = batches, 0

    def __len__(self) -> int:
        return self.batches.steps_per_epoch

    def __iter__(self) -> Any:
        self.epoch += 1
        return iter(self.batches.epoch(self.epoch - 1))


def main() -> None:
    """Run the trials."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, *more = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(Path(home), data_mirror=Settings.load().data_mirror)

        def trial(chosen: optuna.Trial) -> float:
            space = {"optimizer": ["adam", "momentum", "rmsprop"], "activation": ["relu", "tanh"], "initializer": ["he_normal", "xavier"]}
            choices = [f"{group}={chosen.suggest_categorical(group, names)}" for group, names in space.items()]
            config = validate(compose([f"experiment={name}", *more, *choices]))
            prepared = prepare_data(config, settings)
            model, objective = build_model(config, prepared.facts)
            trainer = lightning.Trainer(
                max_epochs=config["trainer"]["epochs"],
                accelerator="cpu",
                logger=CSVLogger(home),
                enable_progress_bar=False,
                enable_model_summary=False,
                log_every_n_steps=config["trainer"]["log_every"],
            )
            train = Batches(prepared.splits["train"], batch_size=config["trainer"]["batch_size"], seed=0, shuffle=True)
            held_out = Batches(prepared.splits["validation"], batch_size=experiment.EVALUATION_BATCH, seed=0, shuffle=False)
            module = Module(model, objective, build(config["optimizer"]))
            trainer.fit(module, Loader(train), Loader(held_out))
            return float(trainer.callback_metrics["accuracy"])

        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(trial, n_trials=1)  # prepares the data
        began = time.perf_counter()
        study.optimize(trial, n_trials=TRIALS)
        seconds = time.perf_counter() - began
    print(seconds, TRIALS, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
