"""Some trials of one architecture in lockstep: the same step for all of them, over and over, until the epoch ends."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from components.activations import saturated
from components.errors import NotFiniteError, RunError
from components.optimizers import decays
from components.protocols import Batch, Objective
from components.training.device import to_device
from components.training.diagnostics import first_not_finite
from components.training.evaluation import BatchSource, evaluate, join
from components.training.loop import Progress
from components.training.stacked.feed import feed
from components.training.stacked.masks import Masks
from components.training.stacked.program import Program, Value
from components.training.stacked.tape import Forward, Slot, Step, record_forward, record_step, slots, tensors
from components.training.stacked.trials import Member
from components.training.stacked.updates import Stack, Update, update_for

Tell = Callable[[str, Progress], None]
"""Told of a trial's progress, by name."""


class Architecture:
    """What the trials of a block have in common, written down once: a model of this kind, and the tapes of its steps."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        self.model, self.objective = copy.deepcopy(model), objective
        self.decays = decays(model)
        self.asks_once: bool | None = None
        """Whether the objective's outcomes call the model once; None before it is known."""
        self._tapes: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def step(self, batch: Batch) -> Step:
        """The training step of one trial on batches of this shape."""
        with self._lock:
            key = ("step", *_shapes(batch))
            if key not in self._tapes:
                self._tapes[key] = record_step(self.model, self.objective, batch)
            step: Step = self._tapes[key]
            return step

    def forward(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Forward:
        """The forward pass of one trial in evaluation mode."""
        with self._lock:
            key = ("forward", *_shapes(dict(enumerate(tensors((arguments, keywords))))))
            if key not in self._tapes:
                self._tapes[key] = record_forward(self.model, arguments, keywords)
            forward: Forward = self._tapes[key]
            return forward


class Training:
    """A training step bound to a block's memory."""

    def __init__(self, block: Block, step: Step, batch: Batch, *, one_for_all: bool, whole: bool) -> None:
        members = block.members
        used = {slot.number for call in step.tape.calls for slot in slots((call.arguments, dict(call.keywords)))}
        self._inputs = {key: value.clone() for key, value in batch.items() if step.tape.inputs[f"batch/{key}"].number in used}
        seeds = [member.trial.seed for member in members]
        self.masks = [
            Masks(
                place,
                step.tape.shapes[slot.number],
                seeds,
                [_rate(member.trial.model, name) for member in members],
                ahead=whole,
                dtype=step.tape.dtypes[slot.number],
                device=block.device,
            )
            for place, (name, slot) in enumerate(step.masks)
        ]
        for masks in self.masks:
            masks.load([member.state.step for member in members])
        given = {f"state/{name}": Value(tensor, stacked=True) for name, tensor in block.weights.items()}
        given |= {f"batch/{key}": Value(tensor, stacked=not one_for_all) for key, tensor in self._inputs.items()}
        given |= {f"mask/{masks.place}": Value(masks.now, stacked=True) for masks in self.masks}
        wanted = [step.loss, *step.gradients.values(), *(output for *_, output in step.activations)]
        self.step, self.program = step, Program(step.tape, len(members), given, wanted)
        self.losses = self.program.own(step.loss)
        if not block.gradients:
            for name, slot in step.gradients.items():
                block.gradients[name] = self.program.own(slot, apart_from=[self.losses, *block.gradients.values()])
        else:
            for name, slot in step.gradients.items():
                self.program.do(block.gradients[name].copy_, self.program.stacked(self.program.value(slot)))

    def run(self, batch: Batch, steps: Sequence[int]) -> list[float]:
        """Compute every trial's loss, which is returned, and gradients."""
        for key, tensor in self._inputs.items():
            tensor.copy_(batch[key])
        for masks in self.masks:
            masks.load(steps)
        self.program.run()
        losses: list[float] = self.losses.tolist()
        return losses


@dataclass
class Answering:
    """A forward pass bound to a block's memory."""

    program: Program
    given: list[Tensor]
    outputs: Any


class Block:
    """Trials in lockstep.

    Args:
        members: trials of `architecture`, all at the same batch of an epoch of their own.
        validation: what they are validated on; None leaves that out.
        tell: told of progress.
    """

    def __init__(
        self, architecture: Architecture, members: Sequence[Member], validation: BatchSource | None, *, device: torch.device, tell: Tell
    ) -> None:
        self.architecture, self.validation, self.device, self.tell = architecture, validation, device, tell
        self.left: list[Member] = []
        """Trials that went before the epoch's end: they failed, or had done all their steps."""
        self.epoch_done = False
        self._form(members)

    def train(self, paused: Callable[[], bool]) -> None:
        """Go on until the epoch ends and everybody is validated, or nobody is left, or `paused`, asked after every step, says so."""
        while self.members and not self.epoch_done:
            sources = [member.trial.batches for member in self.members]
            epochs = [member.state.epoch for member in self.members]
            self._logged_at = dict.fromkeys(range(len(self.members)), time.perf_counter())
            self._logged_step = [member.state.step for member in self.members]
            for batch, one_for_all in feed(sources, epochs, first=self.members[0].state.batch):
                if self._step(to_device(batch, self.device, self._dtype), one_for_all):
                    break  # with fewer trials the rest of the epoch is fed anew
                if paused():
                    return
            else:
                self._finish_epoch(self.members)
                self.epoch_done = True

    # ------------------------------------------------------------------ one step

    def _step(self, batch: Batch, one_for_all: bool) -> bool:
        """One step of every trial; returns whether somebody left."""
        members = self.members
        training = self._training(batch, one_for_all)
        losses = training.run(batch, [member.state.step for member in members] if training.masks else ())
        failed = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        for place in failed:
            self._fail(members[place], losses[place], batch if one_for_all else {key: value[place] for key, value in batch.items()})
        due = [place for place, member in enumerate(members) if _is_due(member) and place not in failed]
        measured = self._measure(training, due) if due else {}
        if any(member.trial.settings.clip_norm for member in members):
            self._clip()
        rates = [member.rate() for member in members]
        for first, last, update in self._updates:
            update.step(rates[first:last])
        leaving = set(failed)
        for place, (member, loss) in enumerate(zip(members, losses, strict=True)):
            if place in failed:
                continue
            state, settings = member.state, member.trial.settings
            state.window.append(loss)
            state.batch += 1
            state.step += 1
            if place in measured:
                member.trial.recorder.metrics(measured[place], step=state.step, epoch=member.epochs_done())
            if state.step % settings.log_every == 0 or state.step == member.total:
                self._log(place, member, rates[place])
            if state.step == member.total and state.batch < member.steps_per_epoch:
                leaving.add(place)
        if leaving:
            self._drop(leaving, finished=leaving - set(failed))
        return bool(leaving)

    def _training(self, batch: Batch, one_for_all: bool) -> Training:
        key = (one_for_all, *_shapes(batch))
        if key not in self._trainings:
            single = batch if one_for_all else {name: value[0] for name, value in batch.items()}
            # Masks are drawn ahead for the batches that come step after step, and not for an epoch's last, smaller one.
            whole = not self._trainings
            self._trainings[key] = Training(self, self.architecture.step(single), batch, one_for_all=one_for_all, whole=whole)
            if whole:
                self._make_updates()
        return self._trainings[key]

    def _fail(self, member: Member, value: float, batch: Batch) -> None:
        model = member.into_model().train()
        layer = first_not_finite(model, lambda: self.architecture.objective.losses(model, batch))
        member.error = NotFiniteError(member.state.step + 1, layer, value)
        member.trial.recorder.flush()

    def _clip(self) -> None:
        """Scale each trial's gradients down to its own norm, as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = list(self.gradients.values())
        norms = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]), dim=0)
        limits = [member.trial.settings.clip_norm or math.inf for member in self.members]
        factors = (torch.tensor(limits, dtype=norms.dtype, device=norms.device) / (norms + 1e-6)).clamp_(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *(1,) * (gradient.ndim - 1)))

    def _log(self, place: int, member: Member, rate: float) -> None:
        state, settings, now = member.state, member.trial.settings, time.perf_counter()
        values = {
            "train/loss": math.fsum(state.window) / len(state.window),
            "train/learning_rate": rate,
            "train/samples_per_second": (state.step - self._logged_step[place])
            * settings.batch_size
            / max(now - self._logged_at[place], 1e-9),
        }
        state.window.clear()
        self._logged_at[place], self._logged_step[place] = now, state.step
        member.trial.recorder.metrics(values, step=state.step, epoch=member.epochs_done())
        self.tell(member.trial.name, Progress(state.step, member.total, state.epoch, settings.epochs, values))

    # ------------------------------------------------------------------ a look inside

    def _measure(self, training: Training, due: Sequence[int]) -> dict[int, dict[str, float]]:
        """What `components.training.diagnostics.Diagnostics` would say, for the trials that are due."""
        step, series = training.step, {}
        layers: dict[str, list[Tensor]] = {}
        for name, parameter in self.architecture.model.named_parameters():
            if parameter.requires_grad and parameter.ndim >= 2:
                gradient = self.gradients.get(name)
                norm = torch.zeros(len(self.members), device=self.device) if gradient is None else _norms(gradient)
                layers.setdefault(name.rpartition(".")[0], []).append(norm.double())
        for layer in sorted(layers, key=lambda layer: _first_call(step.called, layer)):
            series[f"gradients/{self._title(layer)}"] = torch.stack(layers[layer]).square_().sum(0).sqrt_()
        counts: dict[str, list[tuple[Tensor, int]]] = {}
        for name, module, slot in step.activations:
            output = training.program.stacked(training.program.value(slot))
            flat = saturated(module, output).flatten(1)
            counts.setdefault(name, []).append((flat.sum(1), flat.shape[1]))
        for name, seen in counts.items():
            elements = sum(size for _, size in seen)
            series[f"saturation/{self._title(name)}"] = torch.stack([count for count, _ in seen]).sum(0).double() / max(elements, 1)
        values = {name: numbers.tolist() for name, numbers in series.items()}
        return {place: {name: numbers[place] for name, numbers in values.items()} for place in due}

    def _title(self, layer: str) -> str:
        return layer or type(self.architecture.model).__name__

    # ------------------------------------------------------------------ validation

    def _finish_epoch(self, members: Sequence[Member]) -> None:
        if self.validation is not None:
            rows = [self.members.index(member) for member in members]
            for row, metrics in self._metrics(self.validation, rows).items():
                member = self.members[row]
                if isinstance(metrics, RunError):
                    member.error = metrics
                    member.trial.recorder.flush()
                    continue
                member.validate(metrics)
                values = {f"validation/{name}": value for name, value in metrics.items()}
                state = member.state
                self.tell(member.trial.name, Progress(state.step, member.total, state.epoch, member.trial.settings.epochs, values))
        for member in members:
            member.state.epoch, member.state.batch = member.state.epoch + 1, 0

    def _metrics(self, validation: BatchSource, rows: Sequence[int]) -> dict[int, dict[str, float] | RunError]:
        """Each row's metrics, or why there are none."""
        if self.architecture.asks_once is not False:
            try:
                return self._metrics_together(validation, rows)
            except _AskedOtherwise:
                self.architecture.asks_once = False
        objective = self.architecture.objective
        found: dict[int, dict[str, float] | RunError] = {}
        for row in rows:
            member = self.members[row]
            try:
                precision = member.trial.settings.precision
                found[row] = objective.metrics(
                    evaluate(member.into_model(), objective, validation, device=self.device, precision=precision)
                )
            except RunError as error:
                found[row] = error
        return found

    def _metrics_together(self, validation: BatchSource, rows: Sequence[int]) -> dict[int, dict[str, float] | RunError]:
        """The models' part in one pass for all, the objective's trial by trial."""
        objective = self.architecture.objective
        outcomes: dict[int, list[dict[str, Any]]] = {row: [] for row in rows}
        found: dict[int, dict[str, float] | RunError] = {}
        with torch.no_grad():
            for plain in validation.epoch(0):
                batch = to_device(plain, self.device, self._dtype)
                answers = self._answers(batch)
                for row in rows:
                    if row not in found:
                        try:
                            outcomes[row].append(objective.outcomes(_Replay(answers, row), batch))
                        except RunError as error:
                            found[row] = error
        return {row: found[row] if row in found else objective.metrics(join(outcomes[row])) for row in rows}

    def _answers(self, batch: Batch) -> Any:
        """What all models say to what the objective asks them: its outputs with (T, …) in the tensors' places."""
        arguments, keywords = _asked(self.architecture.objective, batch)
        given = list(tensors((arguments, keywords)))
        key = _shapes(dict(enumerate(given)))
        if key not in self._answering:
            forward = self.architecture.forward(arguments, keywords)
            kept = [tensor.clone() for tensor in given]
            inputs = {f"state/{name}": Value(tensor, stacked=True) for name, tensor in self.weights.items()}
            inputs |= {f"given/{number}": Value(tensor, stacked=False) for number, tensor in enumerate(kept)}
            program = Program(forward.tape, len(self.members), inputs, slots(forward.outputs))
            outputs = tree_map(lambda item: program.stacked(program.value(item)) if isinstance(item, Slot) else item, forward.outputs)
            self._answering[key] = Answering(program, kept, outputs)
        answering = self._answering[key]
        for tensor, now in zip(answering.given, given, strict=True):
            tensor.copy_(now)
        answering.program.run()
        return answering.outputs

    # ------------------------------------------------------------------ who is in it

    def _form(self, members: Sequence[Member]) -> None:
        """Put the members' numbers side by side, members of one rule next to each other."""
        self.members = sorted(members, key=lambda member: type(member.trial.optimizer).__name__)
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._trainings: dict[Any, Training] = {}
        self._answering: dict[Any, Answering] = {}
        self._updates: list[tuple[int, int, Update]] = []
        if not self.members:
            return
        for name in self.members[0].weights:
            self.weights[name] = torch.stack([member.weights[name] for member in self.members])
        for row, member in enumerate(self.members):
            member.weights = {name: tensor[row] for name, tensor in self.weights.items()}
        self._dtype = torch.float64 if self.members[0].trial.settings.precision == "float64" else None

    def _make_updates(self) -> None:
        """One update for each rule, going on from what the members remember."""
        trained = list(self.gradients)
        first = 0
        for _, group in groupby(self.members, key=lambda member: type(member.trial.optimizer)):
            members = list(group)
            last = first + len(members)
            update = update_for(
                Stack(
                    [member.trial.optimizer for member in members],
                    [self.weights[name][first:last] for name in trained],
                    [self.gradients[name][first:last] for name in trained],
                    [self.architecture.decays[name] for name in trained],
                )
            )
            update.counts = [member.state.step for member in members]
            for row, member in enumerate(members):
                for slot, rows in member.moments.items():
                    for tensor, kept in zip(update.moments[slot], rows, strict=True):
                        tensor[row].copy_(kept)
                member.moments = {slot: [tensor[row] for tensor in stacked] for slot, stacked in update.moments.items()}
            self._updates.append((first, last, update))
            first = last

    def _drop(self, leaving: set[int], *, finished: set[int]) -> None:
        """Let trials go; the rest is as fast as if they had never been there."""
        self._finish_epoch([self.members[place] for place in sorted(finished)])
        self.left += [self.members[place] for place in sorted(leaving)]
        self._form([member for place, member in enumerate(self.members) if place not in leaving])


class _AskedOtherwise(Exception):  # noqa: N818 — no failure, another way is taken
    """The objective does not ask the model exactly once for its outcomes."""


class _Asked(Exception):  # noqa: N818 — carries what was asked
    def __init__(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.arguments, self.keywords = arguments, keywords


class _Replay:
    """Stands for one trial's model: says what it has said in the pass for all."""

    def __init__(self, outputs: Any, row: int) -> None:
        self._outputs, self._row, self._asked = outputs, row, False

    def __call__(self, *_arguments: Any, **_keywords: Any) -> Any:
        if self._asked:
            raise _AskedOtherwise
        self._asked = True
        return tree_map(lambda item: item[self._row] if isinstance(item, Tensor) else item, self._outputs)


def _asked(objective: Objective, batch: Batch) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """What an objective gives the model for its outcomes."""

    def ask(*arguments: Any, **keywords: Any) -> Any:
        raise _Asked(arguments, keywords)

    try:
        objective.outcomes(ask, batch)
    except _Asked as asked:
        return asked.arguments, asked.keywords
    except AttributeError as error:  # it wants more of the model than a call
        raise _AskedOtherwise from error
    raise _AskedOtherwise


def _shapes(batch: Mapping[Any, Tensor]) -> Iterator[tuple[Any, ...]]:
    return tuple((key, value.shape, value.dtype) for key, value in batch.items())


def _rate(model: nn.Module, name: str) -> float:
    dropout = model.get_submodule(name)
    assert isinstance(dropout, nn.Dropout)
    return float(dropout.p)


def _is_due(member: Member) -> bool:
    every, step = member.trial.settings.diagnose_every, member.state.step + 1
    return every > 0 and (step % every == 0 or step == 1)


def _norms(gradient: Tensor) -> Tensor:
    """(T,) L2 norms that do not round to 0, as in `components.training.diagnostics`."""
    flat = gradient.flatten(1)
    peak = flat.abs().amax(1)
    safe = torch.where((peak > 0) & peak.isfinite(), peak, 1.0)
    norms = torch.linalg.vector_norm(flat / safe[:, None], dim=1) * safe
    return torch.where((peak == 0) | ~peak.isfinite(), peak, norms)


def _first_call(called: Mapping[str, int], layer: str) -> int:
    while layer and layer not in called:
        layer = layer.rpartition(".")[0]
    return called.get(layer, 0)
