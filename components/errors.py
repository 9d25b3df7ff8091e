"""Every error the lab raises on purpose, as one tree.

A `LabError` is one clear sentence for the person at the terminal or in the UI: it says what was wrong and what to do.
Anything else that escapes is a defect of ours and keeps its traceback.

    LabError
    ├── RequestError        what was asked for is wrong; nothing was started (exit code 2)
    │   ├── ConfigError     a configuration key, value or choice is wrong
    │   └── UntrainedError  an experiment has to be trained first
    └── RunError            the run itself failed (exit code 1)
        ├── DataError       data are not what they should be
        │   ├── SourceError    data cannot be had, or not be kept
        │   └── OwnDataError   the user's own data: a wrong request, too (exit code 2)
        ├── CheckpointError a checkpoint cannot be used
        ├── NotFiniteError  the loss stopped being a number
        ├── Pruned          a search stopped it as hopeless
        └── Interrupted     somebody asked the run to stop; it can be resumed
"""

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line for a person."""

    exit_code = 1


class RequestError(LabError):
    """What was asked for is wrong; nothing was started."""

    exit_code = 2


class ConfigError(RequestError):
    """A configuration key, value or choice is wrong."""


class UntrainedError(RequestError):
    """An experiment has to be trained first: the one whose weights the request begins with."""


class RunError(LabError):
    """The run itself failed."""


class DataError(RunError):
    """Data are not what they should be."""


class SourceError(DataError):
    """Data cannot be had, or not be kept: nobody answers, something else was sent, the disk is full."""


class OwnDataError(RequestError, DataError):
    """The user's own data are not what they should be: whoever brought them can mend them, so the request was wrong."""


class CheckpointError(RunError):
    """A checkpoint cannot be used."""


class NotFiniteError(RunError):
    """The loss stopped being a number.

    Attributes:
        step: the optimizer step (from 1) whose loss was not finite.
        layer: the first module, by forward order, whose output was not finite; None if only the loss itself was not.
    """

    def __init__(self, step: int, layer: str | None, value: float) -> None:
        place = (
            f"the first layer whose output is not finite is {layer}" if layer else "every layer's output is finite, only the loss is not"
        )
        super().__init__(f"the loss became {value} at step {step}: {place}; a smaller learning rate or trainer.clip_norm may help")
        self.step, self.layer, self.value = step, layer, value


class Pruned(RunError):  # noqa: N818 — it is a decision, not a failure
    """A search stopped the run before its end, because it is hopeless beside the others."""


class Interrupted(RunError):  # noqa: N818 — it is a request that was honoured, not a failure
    """Somebody asked the run to stop; its checkpoint is written and it can be resumed."""


def closest(given: str, allowed: Iterable[str]) -> str:
    """A ready-made tail for a message: ` (did you mean 'adam'?)`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
