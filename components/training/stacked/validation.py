"""The metrics of T trials: the models' part in one pass for all of them, the objective's part trial by trial.

An objective's outcomes may do anything with what a model says, but most ask it once for each batch, and the question does not depend on
the model. So the objective is asked what it would ask; all models answer that together; then the objective is called once for each
trial, with the trial's answer in its model's place. Where an objective asks otherwise, each trial is evaluated as it is alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from components.errors import RunError
from components.protocols import Batch, Objective, Outcomes
from components.training.device import to_device
from components.training.evaluation import BatchSource, evaluate, join
from components.training.stacked.bound import Architecture, shapes
from components.training.stacked.program import Program
from components.training.stacked.repeated import Value
from components.training.stacked.tape import NotStackableError, Slot, slots, tensors
from components.training.stacked.trials import Member

Found = dict[int, dict[str, float] | RunError]
"""Row → the metrics of its trial, or why there are none."""


@dataclass(frozen=True)
class _Answers:
    """A forward pass bound to memory."""

    program: Program
    given: list[Tensor]
    outputs: Any
    """What the model returned, with (T, …) in the tensors' places."""


class Validation:
    """What a block is validated on.

    Args:
        batches: the validation split.
        weights: of all trials, by name, (T, …) each.
        members: the trials, by row.
    """

    def __init__(
        self,
        architecture: Architecture,
        batches: BatchSource,
        weights: Mapping[str, Tensor],
        members: Sequence[Member],
        device: torch.device,
    ) -> None:
        self.architecture, self.batches, self.weights, self.members, self.device = architecture, batches, weights, members, device
        self._answers: dict[Any, _Answers] = {}

    def metrics(self, rows: Sequence[int]) -> Found:
        """The metrics of these rows."""
        found, objective = self.outcomes(rows), self.architecture.objective
        return {row: each if isinstance(each, RunError) else objective.metrics(each) for row, each in found.items()}

    def outcomes(self, rows: Sequence[int]) -> dict[int, Outcomes | RunError]:
        """Every example's outcome for these rows."""
        if self.architecture.asks_once:
            try:
                return self._together(rows)
            except (_AsksOtherwiseError, NotStackableError):
                self.architecture.asks_once = False
        return {row: self._alone(row) for row in rows}

    def bind(self) -> None:
        """Take the memory that a validation needs."""
        try:
            for batch in self._epoch() if self.architecture.asks_once else ():
                self._answers_to(batch)
        except (_AsksOtherwiseError, NotStackableError):
            self.architecture.asks_once = False

    @property
    def bytes(self) -> int:
        """Memory beside the weights."""
        return sum(answers.program.bytes + sum(tensor.nbytes for tensor in answers.given) for answers in self._answers.values())

    def _epoch(self) -> list[Batch]:
        dtype = self.members[0].trial.dtype
        return [to_device(batch, self.device, dtype) for batch in self.batches.epoch(0)]

    def _together(self, rows: Sequence[int]) -> dict[int, Outcomes | RunError]:
        objective = self.architecture.objective
        found: dict[int, Outcomes | RunError] = {}
        outcomes: dict[int, list[Outcomes]] = {row: [] for row in rows}
        with torch.no_grad():
            for batch in self._epoch():
                outputs = self._answers_to(batch)
                for row in (row for row in rows if row not in found):
                    try:
                        outcomes[row].append(objective.outcomes(_Replay(outputs, row), batch))
                    except RunError as error:
                        found[row] = error
        return {row: found[row] if row in found else join(outcomes[row]) for row in rows}

    def _alone(self, row: int) -> Outcomes | RunError:
        member, objective = self.members[row], self.architecture.objective
        model = member.into_model({name: tensor[row] for name, tensor in self.weights.items()})
        try:
            return evaluate(model, objective, self.batches, device=self.device, precision=member.trial.settings.precision)
        except RunError as error:
            return error

    def _answers_to(self, batch: Batch) -> Any:
        """What all models say to what the objective asks them."""
        arguments, keywords = _question(self.architecture.objective, batch)
        asked = list(tensors((arguments, keywords)))
        key = shapes(dict(enumerate(asked)))
        if key not in self._answers:
            forward = self.architecture.forward(arguments, keywords)
            given = [tensor.clone() for tensor in asked]
            inputs = {f"state/{name}": Value(tensor, stacked=True) for name, tensor in self.weights.items()}
            inputs |= {f"given/{number}": Value(tensor, stacked=False) for number, tensor in enumerate(given)}
            program = Program(forward.tape, len(self.members), inputs, slots(forward.outputs))
            outputs = tree_map(lambda item: program.value(item) if isinstance(item, Slot) else item, forward.outputs)
            self._answers[key] = _Answers(program, given, outputs)
        answers = self._answers[key]
        for tensor, now in zip(answers.given, asked, strict=True):
            tensor.copy_(now)
        answers.program.run()
        return answers.outputs


def outcomes_at_best(
    architecture: Architecture, batches: BatchSource, members: Sequence[Member], device: torch.device
) -> dict[str, Outcomes]:
    """By trial's name, what its best weights say to every example; trials for which there is no answer are left out."""
    weights = {name: torch.stack([member.best[name] for member in members]) for name in members[0].best}
    found = Validation(architecture, batches, weights, members, device).outcomes(range(len(members)))
    return {members[row].trial.name: each for row, each in found.items() if not isinstance(each, RunError)}


class _AsksOtherwiseError(Exception):
    """The objective does not ask the model exactly once for its outcomes."""


class _Asked(Exception):  # noqa: N818 — how a question gets out of an objective
    def __init__(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.question = arguments, keywords


class _Replay:
    """Stands for one trial's model: says what it has said in the pass for all."""

    def __init__(self, outputs: Any, row: int) -> None:
        self._outputs, self._row, self._asked = outputs, row, False

    def __call__(self, *_arguments: Any, **_keywords: Any) -> Any:
        if self._asked:
            raise _AsksOtherwiseError
        self._asked = True
        if isinstance(self._outputs, Tensor):
            return self._outputs[self._row]
        return tree_map(lambda item: item[self._row] if isinstance(item, Tensor) else item, self._outputs)


def _question(objective: Objective, batch: Batch) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """What an objective gives the model for its outcomes."""

    def ask(*arguments: Any, **keywords: Any) -> Any:
        raise _Asked(arguments, keywords)

    try:
        objective.outcomes(ask, batch)
    except _Asked as asked:
        return asked.question
    except AttributeError as error:  # it wants more of the model than to call it
        raise _AsksOtherwiseError from error
    raise _AsksOtherwiseError
