"""The training loop: forward, loss, backward, update; and around it only what makes that trustworthy.

    for every epoch:
        for every batch:      loss ← objective(model, batch);  gradients ← backward;  optimizer step
        validate; keep the best; stop early

Everything that changes from step to step is in one `State`. Because the order of the examples, the augmentation and the schedule are
pure functions of (seed, epoch, step), a checkpoint of (weights, optimizer, generators, state) is enough to go on **bit for bit**: a
run killed at any step and resumed ends with the same weights and the same curves as one that was never killed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from components.errors import CheckpointError, Interrupted, NotFiniteError
from components.protocols import Batch, Model, Objective, Optimizer, Recorder, Schedule
from components.training import randomness
from components.training.checkpoint import Checkpoints, Snapshot, flatten_optimizer, unflatten_optimizer
from components.training.device import autocast, to_device
from components.training.diagnostics import Diagnostics, first_not_finite
from components.training.evaluation import BatchSource, evaluate
from components.training.fine_tuning import decay_by_layer, freeze
from components.training.settings import Trainer
from components.training.state import Fitted, Progress, State


def fit(
    model: nn.Module,
    objective: Objective,
    batches: BatchSource,
    validation: BatchSource | None,
    *,
    optimizer: Optimizer,
    schedule: Schedule,
    settings: Trainer,
    device: torch.device,
    recorder: Recorder,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train `model` in place, going on from the newest checkpoint if there is one; returns the best weights.

    Args:
        model: already initialised, on the CPU.
        batches, validation: batches of the training and the validation split; without a validation split the last weights count.
        recorder: gets `train/*`, `validation/*`, `gradients/*` and `saturation/*` series.
        checkpoints: where to save; None saves nothing.
        progress: called at every point of the training curve.
        stopping: asked at every step; when it says True a checkpoint is written and Interrupted is raised.

    Raises:
        NotFiniteError: the loss is NaN or infinite; names the step and the first layer whose output is not finite.
        Interrupted: `stopping` said so.
        RequestError: the model has no part that is to be frozen.
        CheckpointError: a checkpoint cannot be written, or belongs to another model.
    """
    return _Fit(
        model, objective, batches, validation, optimizer, schedule, settings, device, recorder, checkpoints, progress, stopping
    ).run()


class _Fit:
    """One training in progress."""

    def __init__(  # noqa: PLR0917 — only `fit` calls it, with its own arguments in order
        self,
        model: nn.Module,
        objective: Objective,
        batches: BatchSource,
        validation: BatchSource | None,
        optimizer: Optimizer,
        schedule: Schedule,
        settings: Trainer,
        device: torch.device,
        recorder: Recorder,
        checkpoints: Checkpoints | None,
        progress: Callable[[Progress], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.dtype = torch.float64 if settings.precision == "float64" else None
        self.model = model.to(device, self.dtype)
        self.compute = torch.compile(self.model) if settings.compile else self.model
        self.objective, self.batches, self.validation = objective, batches, validation
        self.schedule, self.settings, self.device = schedule, settings, device
        self.recorder, self.checkpoints, self.progress, self.stopping = recorder, checkpoints, progress, stopping
        self.frozen = freeze(self.model, settings.frozen)
        self.optimizer = optimizer.build(self.model)
        decay_by_layer(self.optimizer, self.model, settings.layer_decay)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "float16" else None
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.diagnostics = Diagnostics(self.model, settings.diagnose_every)
        self.steps_per_epoch = math.ceil(batches.steps_per_epoch / settings.accumulate)
        self.total = settings.epochs * self.steps_per_epoch
        if settings.max_steps:
            self.total = min(self.total, settings.max_steps)
        self.state = State()
        self.factor = math.nan
        self.best: dict[str, Tensor] = {}
        self.best_file: str | None = None
        self.stopped_early = False

    # ------------------------------------------------------------------ the loop

    def run(self) -> Fitted:
        snapshot = self.checkpoints.newest() if self.checkpoints else None
        if snapshot is not None:
            self._restore(snapshot)
        state = self.state
        while state.step < self.total and not self.stopped_early:
            self._train_epoch()
            if state.batch >= self.batches.steps_per_epoch:
                self._finish_epoch()
        if self.state.batch:  # max_steps ended the training inside an epoch
            self._finish_epoch()
        if self.checkpoints:
            self._save()
        return Fitted(self.best or self._weights(), state, self.stopped_early)

    def _train_epoch(self) -> None:
        """The steps left in this epoch. On the CPU every loss is looked at before it is used; elsewhere that would stall the device."""
        state, settings, accumulate = self.state, self.settings, self.settings.accumulate
        losses, compute, update, stopping, clock = self.objective.losses, self.compute, self._update, self.stopping, time.perf_counter
        on_cpu = self.device.type == "cpu"
        plain = on_cpu and settings.precision == "float32"
        pending: list[Tensor] = []
        self.model.train()
        for part in self.frozen:
            part.eval()
        self._forget_gradients()
        logged_at, logged_step = clock(), state.step
        remaining = self.batches.epoch(state.epoch, first=state.batch)
        for batch in remaining:
            diagnosing = self.diagnostics.due(state.step + 1) and (state.batch + 1) % accumulate == 0
            with self.diagnostics.watch() if diagnosing else contextlib.nullcontext():
                # A compiled model calls no hooks, so the measured step runs the same model as it was written.
                loss = (
                    losses(compute, batch)["loss"]
                    if plain and not diagnosing
                    else self._forward(batch, self.model if diagnosing else compute)
                )
                if on_cpu:
                    value = loss.item()
                    if not math.isfinite(value):
                        self._not_finite(value, batch)
                    state.window.append(value)
                else:
                    pending.append(loss.detach())
                if accumulate > 1:
                    loss = loss / self._group_size()
                (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]
            state.batch += 1
            if state.batch % accumulate and state.batch < self.batches.steps_per_epoch:
                continue
            measured = self._measured() if diagnosing else None
            update()
            state.step += 1
            if measured:
                self.recorder.metrics(measured, step=state.step, epoch=self._epochs_done())
            if state.step % settings.log_every == 0 or state.step == self.total:
                self._drain(pending, batch)
                now = clock()
                self._log((state.step - logged_step) * accumulate * settings.batch_size / max(now - logged_at, 1e-9))
                logged_at, logged_step = now, state.step
            if stopping():
                self._drain(pending, batch)
                self._interrupt()
            if self.checkpoints and self.checkpoints.due(settings.checkpoint_seconds):
                self._drain(pending, batch)
                self._save()
            if state.step >= self.total:
                break
        self._drain(pending, None)

    def _forward(self, batch: Batch, model: Model) -> Tensor:
        with autocast(self.device, self.settings.precision):
            return self.objective.losses(model, to_device(batch, self.device, self.dtype))["loss"]

    def _measured(self) -> dict[str, float]:
        """What the diagnostics saw in this step, with gradients at their true size."""
        scale = self.scaler.get_scale() if self.scaler else 1.0
        return {name: value / scale if name.startswith("gradients/") else value for name, value in self.diagnostics.read().items()}

    def _group_size(self) -> int:
        """Batches that go into the optimizer step being gathered (the epoch's last group may be smaller)."""
        first = self.state.batch - self.state.batch % self.settings.accumulate
        return min(self.settings.accumulate, self.batches.steps_per_epoch - first)

    def _update(self) -> None:
        """One optimizer step at the scheduled learning rate, then clean gradients."""
        factor = self.schedule.factor(self.state.step, self.total)
        if factor != self.factor:
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            self.factor = factor
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        """What the optimizer's `zero_grad` comes to; its generality costs a small model 5 % of a step."""
        for parameter in self.parameters:
            parameter.grad = None

    # ------------------------------------------------------------------ what is said about it

    def _drain(self, pending: list[Tensor], batch: Batch | None) -> None:
        """Bring losses kept on an accelerator to the host, and look at them."""
        if not pending:
            return
        values = torch.stack(pending).float().tolist()
        pending.clear()
        self.state.window.extend(values)
        wrong = [i for i, value in enumerate(values) if not math.isfinite(value)]
        if wrong:
            batches_ago = len(values) - 1 - wrong[0]
            self._not_finite(values[wrong[0]], batch, steps_ago=batches_ago // self.settings.accumulate)

    def _not_finite(self, value: float, batch: Batch | None, *, steps_ago: int = -1) -> None:
        layer = first_not_finite(self.model, lambda: self._forward(batch, self.model)) if batch is not None else None
        self.recorder.flush()
        raise NotFiniteError(self.state.step - steps_ago, layer, value)

    def _log(self, samples_per_second: float) -> None:
        state = self.state
        values = {
            "train/loss": math.fsum(state.window) / len(state.window),
            "train/learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "train/samples_per_second": samples_per_second,
        }
        state.window.clear()
        self.recorder.metrics(values, step=state.step, epoch=self._epochs_done())
        self.progress(Progress(state.step, self.total, state.epoch, self.settings.epochs, values))

    def _epochs_done(self) -> float:
        return self.state.epoch + self.state.batch / self.batches.steps_per_epoch

    def _finish_epoch(self) -> None:
        state = self.state
        epochs_done = self._epochs_done()
        if self.validation is not None:
            metrics = self.objective.metrics(
                evaluate(self.model, self.objective, self.validation, device=self.device, precision=self.settings.precision)
            )
            self.recorder.metrics({f"validation/{name}": value for name, value in metrics.items()}, step=state.step, epoch=epochs_done)
            self.progress(
                Progress(state.step, self.total, state.epoch, self.settings.epochs, {f"validation/{k}": v for k, v in metrics.items()})
            )
            if self.settings.sample_every and (state.epoch + 1) % self.settings.sample_every == 0:
                self._show_samples(self.validation)
            self._keep_best(metrics[self.objective.monitor[0]])
        state.epoch, state.batch = state.epoch + 1, 0
        self.stopped_early = bool(self.settings.patience) and state.stale_epochs >= self.settings.patience

    def _show_samples(self, validation: BatchSource) -> None:
        """What the model writes now of a batch of the validation split, where the objective has such a picture."""
        samples = getattr(self.objective, "samples", None)
        if samples is None:
            return
        self.model.eval()
        with torch.no_grad():
            drawn = samples(self.model, to_device(next(iter(validation.epoch(0))), self.device, self.dtype))
        self.model.train()
        if drawn is not None:
            self.recorder.figure(f"samples/epoch-{self.state.epoch + 1:03}", drawn, step=self.state.step)

    def _keep_best(self, value: float) -> None:
        state, direction = self.state, self.objective.monitor[1]
        better = not math.isnan(value) and (
            state.best_value is None or (value > state.best_value if direction == "max" else value < state.best_value)
        )
        if better:
            state.best_value, state.best_step, state.best_epoch, state.stale_epochs = value, state.step, state.epoch, 0
            self.best, self.best_file = {name: tensor.clone() for name, tensor in self._weights().items()}, None
        else:
            state.stale_epochs += 1

    # ------------------------------------------------------------------ stopping and going on

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}

    def _interrupt(self) -> None:
        if self.checkpoints:
            self._save()
        self.recorder.flush()
        raise Interrupted(f"stopped at step {self.state.step} of {self.total}")

    def _save(self) -> None:
        assert self.checkpoints is not None
        self.recorder.flush()  # points of the curve before this step must not be lost: they will not be computed again
        if self.best and self.best_file is None:
            self.best_file = self.checkpoints.save_best(self.state.best_step, self.best)
        generators, generator_values = randomness.capture()
        moments, groups = flatten_optimizer(self.optimizer.state_dict())
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
        tensors |= {f"generators/{name}": tensor for name, tensor in generators.items()}
        values = {
            "state": asdict(self.state),
            "optimizer": groups,
            "generators": generator_values,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "best_file": self.best_file,
            "threads": torch.get_num_threads(),
            "total": self.total,
        }
        self.checkpoints.save(self.state.step, tensors, values)

    def _restore(self, snapshot: Snapshot) -> None:
        values = snapshot.values
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "generators": {}, "best": {}}
        for name, tensor in snapshot.tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        try:
            self.model.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(unflatten_optimizer(parts["optimizer"], values["optimizer"]))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint at step {values['step']} belongs to another model or optimizer") from error
        self.state = State(**values["state"])
        self.best, self.best_file = parts["best"], values["best_file"]
        if self.scaler and values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
        if self.device.type == "cpu":
            torch.set_num_threads(values["threads"])  # sums depend on how they are split
        randomness.restore(parts["generators"], values["generators"])
        self.stopped_early = bool(self.settings.patience) and self.state.stale_epochs >= self.settings.patience
