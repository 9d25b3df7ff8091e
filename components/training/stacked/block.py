"""Some trials of one architecture in lockstep: the same step for all of them, over and over, until the epoch ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from components.errors import NotFiniteError, RunError
from components.protocols import Batch
from components.training.device import to_device
from components.training.diagnostics import first_not_finite
from components.training.evaluation import BatchSource
from components.training.stacked.bound import Architecture, BoundStep, row_of, shapes
from components.training.stacked.diagnosis import diagnose
from components.training.stacked.feed import feed
from components.training.stacked.trials import Member
from components.training.stacked.updates import Stack, Update, update_for
from components.training.stacked.validation import Validation
from components.training.state import Progress

Tell = Callable[[str, Progress], None]
"""Told of a trial's progress, by name."""


class Block:
    """Trials in lockstep; which of them is in which row is in `members`.

    Args:
        members: trials of `architecture`, all at the same batch of an epoch of their own.
        validation: what they are validated on; None leaves that out.
        tell: told of progress.
    """

    def __init__(
        self, architecture: Architecture, members: Sequence[Member], validation: BatchSource | None, *, device: torch.device, tell: Tell
    ) -> None:
        self.architecture, self.device, self.tell = architecture, device, tell
        self.dtype = members[0].trial.dtype
        self.epoch_done = False
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._validated_on = validation
        self._form(members)

    def train(self, paused: Callable[[], bool]) -> None:
        """Go on until the epoch ends and everybody is validated, or nobody is left, or `paused`, asked after every step, says so."""
        while self.members and not self.epoch_done:
            sources = [member.trial.batches for member in self.members]
            epochs = [member.state.epoch for member in self.members]
            self._logged = [(time.perf_counter(), member.state.step) for member in self.members]
            self._look_ahead()
            for batch, one_for_all in feed(sources, epochs, first=self.members[0].state.batch):
                if self._step(to_device(batch, self.device, self.dtype), one_for_all):
                    break  # with fewer trials the rest of the epoch is fed anew
                if paused():
                    self._catch_up()
                    return
            else:
                self._catch_up()
                self._finish_epoch(range(len(self.members)))
                self.epoch_done = True

    def count_bytes(self) -> int:
        """Memory that belongs to the block when it is at work; takes it, and trains nothing."""
        source, trials = self.members[0].trial.batches, len(self.members)
        for first in (0, source.steps_per_epoch - 1):  # the epoch's last batch may be smaller
            batch = to_device(next(iter(source.epoch(0, first=first))), self.device, self.dtype)
            self._bound({key: torch.stack([value] * trials) for key, value in batch.items()}, one_for_all=False)
        if self._validation is not None:
            self._validation.bind()
        weights = sum(tensor.nbytes for tensor in self.weights.values())
        moments = sum(tensor.nbytes for *_, update in self._updates for rows in update.moments.values() for tensor in rows)
        bound = sum(step.bytes for step in self._steps.values()) + (self._validation.bytes if self._validation is not None else 0)
        return 2 * (weights + moments) + 2 * weights + bound  # once more to form anew; the trials' own models and best weights

    # ------------------------------------------------------------------ one step

    def _step(self, batch: Batch, one_for_all: bool) -> bool:
        """One step of every trial; returns whether somebody left. Most steps are nobody's business but the processor's."""
        ahead = len(self._losses)
        bound = self._bound(batch, one_for_all=one_for_all)
        losses = bound.run(batch, [member.state.step + ahead for member in self.members] if bound.masks else ())
        if ahead >= self._quiet or not math.isfinite(sum(losses)):
            return self._eventful_step(bound, losses, batch, one_for_all)
        self._update([rate * factor(step + ahead, total) for rate, factor, step, total in self._rates])
        self._losses.append(losses)
        return False

    def _eventful_step(self, bound: BoundStep, losses: Sequence[float], batch: Batch, one_for_all: bool) -> bool:
        """A step after which there is something to say, or that somebody does not survive."""
        self._catch_up()
        failed = {row for row, loss in enumerate(losses) if not math.isfinite(loss)}
        for row in failed:
            self._fail(self.members[row], losses[row], batch if one_for_all else row_of(batch, row))
        due = {row for row, member in enumerate(self.members) if member.steps_to_diagnosis() == 1 and row not in failed}
        seen = diagnose(self.architecture.model, bound.step, bound.program, self.gradients) if due else {}
        rates = [rate * factor(step, total) for rate, factor, step, total in self._rates]
        self._update(rates)
        finished = set()
        for row, (member, loss) in enumerate(zip(self.members, losses, strict=True)):
            if row in failed:
                continue
            state = member.state
            state.window.append(loss)
            state.batch += 1
            state.step += 1
            if row in due:
                member.trial.recorder.metrics(
                    {name: numbers[row] for name, numbers in seen.items()}, step=state.step, epoch=member.epochs_done()
                )
            if state.step % member.trial.settings.log_every == 0 or state.step == member.total:
                self._log(row, rates[row])
            if state.step == member.total and state.batch < member.steps_per_epoch:
                finished.add(row)
        if finished:
            self._finish_epoch(sorted(finished))
        if failed or finished:
            self._let_go(failed | finished)
        self._look_ahead()
        return bool(failed or finished)

    def _bound(self, batch: Batch, *, one_for_all: bool) -> BoundStep:
        """The step for batches like this one."""
        key = (one_for_all, *shapes(batch))
        if key not in self._steps:
            bound = BoundStep(self.architecture, self.members, self.weights, batch, one_for_all=one_for_all)
            if not self._steps:
                self.gradients = bound.own_gradients()
                self._make_updates()
            else:
                bound.give_gradients(self.gradients)
            self._steps[key] = bound
        return self._steps[key]

    def _update(self, rates: Sequence[float]) -> None:
        if self._limits is not None:
            self._clip(self._limits)
        for first, last, update in self._updates:
            update.step(rates[first:last])

    def _clip(self, limits: Tensor) -> None:
        """Scale each trial's gradients down to its own norm, as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = list(self.gradients.values())
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        factors = (limits / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *(1,) * (gradient.ndim - 1)))

    def _look_ahead(self) -> None:
        """See where everybody is, and for how many steps nobody will have anything to say."""
        self._rates = [
            (member.trial.optimizer.learning_rate, member.trial.schedule.factor, member.state.step, member.total) for member in self.members
        ]
        self._quiet = min((member.steps_to_event() for member in self.members), default=1) - 1

    def _catch_up(self) -> None:
        """Write the quiet steps into the members' states."""
        for member, losses in zip(self.members, zip(*self._losses, strict=True), strict=False):
            member.state.window.extend(losses)
            member.state.batch += len(losses)
            member.state.step += len(losses)
        self._losses.clear()
        self._look_ahead()

    # ------------------------------------------------------------------ what is said about it

    def _fail(self, member: Member, value: float, batch: Batch) -> None:
        model = member.into_model().train()
        layer = first_not_finite(model, lambda: self.architecture.objective.losses(model, batch))
        member.error = NotFiniteError(member.state.step + 1, layer, value)
        member.trial.recorder.flush()

    def _log(self, row: int, rate: float) -> None:
        member, now = self.members[row], time.perf_counter()
        state, settings = member.state, member.trial.settings
        logged_at, logged_step = self._logged[row]
        values = {
            "train/loss": math.fsum(state.window) / len(state.window),
            "train/learning_rate": rate,
            "train/samples_per_second": (state.step - logged_step) * settings.batch_size / max(now - logged_at, 1e-9),
        }
        state.window.clear()
        self._logged[row] = (now, state.step)
        member.trial.recorder.metrics(values, step=state.step, epoch=member.epochs_done())
        self.tell(member.trial.name, Progress(state.step, member.total, state.epoch, settings.epochs, values))

    def _finish_epoch(self, rows: Sequence[int]) -> None:
        """Validate these trials, and let their next epoch begin."""
        found = self._validation.metrics(rows) if self._validation is not None else {}
        for row in rows:
            member, metrics = self.members[row], found.get(row)
            state = member.state
            if isinstance(metrics, RunError):
                member.error = metrics
                member.trial.recorder.flush()
            elif metrics is not None:
                member.validate(metrics)
                values = {f"validation/{name}": value for name, value in metrics.items()}
                self.tell(member.trial.name, Progress(state.step, member.total, state.epoch, member.trial.settings.epochs, values))
            state.epoch, state.batch = state.epoch + 1, 0

    # ------------------------------------------------------------------ who is in it

    def _form(self, members: Sequence[Member]) -> None:
        """Put the members' numbers side by side, members of one rule next to each other."""
        self.members = sorted(members, key=lambda member: type(member.trial.optimizer).__name__)
        self.weights = {
            name: torch.stack([member.weights[name] for member in self.members]) for name in (members[0].weights if members else ())
        }
        for row, member in enumerate(self.members):
            member.weights = {name: tensor[row] for name, tensor in self.weights.items()}
        self.gradients = {}
        self._steps: dict[Any, BoundStep] = {}
        self._updates: list[tuple[int, int, Update]] = []
        """(first row, the row after the last one, update) of each rule."""
        self._losses: list[list[float]] = []
        """Those of the steps since everybody's state was last written."""
        self._validation = (
            Validation(self.architecture, self._validated_on, self.weights, self.members, self.device)
            if self._validated_on is not None
            else None
        )
        limits = [member.trial.settings.clip_norm or math.inf for member in self.members]
        clips = any(limit < math.inf for limit in limits)
        self._limits = torch.tensor(limits, dtype=self.dtype, device=self.device) if clips else None

    def _let_go(self, rows: Collection[int]) -> None:
        """Form anew without these; the rest is as fast as if they had never been there."""
        self._form([member for row, member in enumerate(self.members) if row not in rows])

    def _make_updates(self) -> None:
        """One update for each rule, going on from what the members remember."""
        names, first = list(self.gradients), 0
        for _, group in groupby(self.members, key=lambda member: type(member.trial.optimizer)):
            members = list(group)
            last = first + len(members)
            update = update_for(
                Stack(
                    [member.trial.optimizer for member in members],
                    [self.weights[name][first:last] for name in names],
                    [self.gradients[name][first:last] for name in names],
                    [self.architecture.decays[name] for name in names],
                )
            )
            update.counts = [member.state.step for member in members]
            for row, member in enumerate(members):
                for slot, rows in member.moments.items():
                    for tensor, kept in zip(update.moments[slot], rows, strict=True):
                        tensor[row].copy_(kept)
                member.moments = {slot: [tensor[row] for tensor in tensors] for slot, tensors in update.moments.items()}
            self._updates.append((first, last, update))
            first = last
