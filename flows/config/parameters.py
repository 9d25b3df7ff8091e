"""The flat parameters of a training, shared by the form in Prefect's UI, its API and `lab train --queue`.

Each has one plain type, because the form cannot show unions; the drop-downs are made from the file names in `conf/`. Whatever else a
configuration has is reached through `overrides`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from annotated_types import Ge, Le

from flows.config.names import CONF, names

KEEP = "as the experiment says"
"""The first choice of every drop-down but the experiment's: leave it as it is."""

NONE = "none"
"""The last choice of the experiment's drop-down: no experiment, only the choices below it."""

_CHOICES = ("model", "data", "optimizer", "activation", "initializer", "schedule")

Result = TypeVar("Result")


def choices(group: str, *, conf: Path = CONF) -> tuple[str, ...]:
    """What the drop-down of `group` offers; the first is the default."""
    found = names(group, conf=conf)
    return (*found, NONE) if group == "experiment" else (KEEP, *found)


if TYPE_CHECKING:
    from typing import TypeAlias

    Experiment: TypeAlias = str
    Model: TypeAlias = str
    Data: TypeAlias = str
    Optimizer: TypeAlias = str
    Activation: TypeAlias = str
    Initializer: TypeAlias = str
    Schedule: TypeAlias = str
    DataName: TypeAlias = str
else:
    Experiment, Model, Data, Optimizer, Activation, Initializer, Schedule = (Literal[choices(group)] for group in ("experiment", *_CHOICES))
    DataName = Literal[tuple(names("data", conf=CONF)) or (NONE,)]  # where a data set has to be named, as for preparing it

FIRST = "mlp_mnist" if "mlp_mnist" in choices("experiment") else choices("experiment")[0]
"""The experiment that the form starts with."""


def to_overrides(
    *,
    experiment: Experiment = FIRST,
    model: Model = KEEP,
    data: Data = KEEP,
    optimizer: Optimizer = KEEP,
    activation: Activation = KEEP,
    initializer: Initializer = KEEP,
    schedule: Schedule = KEEP,
    epochs: Annotated[int, Ge(0), Le(10_000)] = 0,
    batch_size: Annotated[int, Ge(0), Le(65_536)] = 0,
    learning_rate: Annotated[float, Ge(0), Le(100)] = 0.0,
    seed: Annotated[int, Ge(-1), Le(2**32 - 1)] = -1,
    device: Literal["as the experiment says", "auto", "cpu", "cuda", "mps"] = "as the experiment says",
    overrides: list[str] = [],  # noqa: B006 — never changed, and the form needs a list to start from
) -> list[str]:
    """The flat parameters as Hydra overrides, ready for `compose`, which judges them.

    Args:
        experiment: What to run; "none" takes only the choices below.
        model: Another model than the experiment's.
        data: Another data set than the experiment's.
        optimizer: Another optimizer than the experiment's.
        activation: Another activation than the experiment's.
        initializer: Another initializer than the experiment's.
        schedule: Another learning-rate schedule than the experiment's.
        epochs: Passes over the training data; 0 is as the experiment says.
        batch_size: Examples a batch; 0 is as the experiment says.
        learning_rate: The optimizer's learning rate; 0 is as the experiment says.
        seed: Start of every random number; -1 is as the experiment says.
        device: Where to compute.
        overrides: Any other setting, one an item, such as model.hidden=[256,128] or trainer.patience=3.
    """
    groups = zip(_CHOICES, (model, data, optimizer, activation, initializer, schedule), strict=True)
    numbers = {"trainer.epochs": epochs, "trainer.batch_size": batch_size, "optimizer.learning_rate": learning_rate}
    return [
        *([f"experiment={experiment}"] if experiment != NONE else []),
        *(f"{group}={name}" for group, name in groups if name != KEEP),
        *(f"{key}={number}" for key, number in numbers.items() if number),
        *([f"seed={seed}"] if seed >= 0 else []),
        *([f"trainer.device={device}"] if device != KEEP else []),
        *overrides,
    ]


def from_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Flat parameters that mean the same as `overrides`: choices go to their drop-downs, the rest stays in `overrides`."""
    parameters: dict[str, Any] = {"experiment": NONE}
    rest: list[str] = []
    for text in overrides:
        key, _, value = text.partition("=")
        fresh = key not in parameters or (key == "experiment" and parameters[key] == NONE)
        if key in ("experiment", *_CHOICES) and fresh and value in choices(key):
            parameters[key] = value
        else:
            rest.append(text)
    return {**parameters, "overrides": rest}


def flat(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function(overrides, …)`, callable with the flat parameters instead; its other parameters stay, after them.

    The result's signature and docstring are what Prefect makes the form and the API's checks of.
    """
    shared = inspect.signature(to_overrides, eval_str=True).parameters
    others = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    form = inspect.Signature([*shared.values(), *(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others)])

    @functools.wraps(function)
    def with_form(**given: Any) -> Result:
        own = {name: given.pop(name) for name in list(given) if name not in shared}
        return function(to_overrides(**given), **own)

    del with_form.__wrapped__
    cast(Any, with_form).__signature__ = form
    with_form.__annotations__ = {name: parameter.annotation for name, parameter in form.parameters.items()}
    summary, _, own_arguments = (inspect.getdoc(function) or "").partition("Args:\n")
    shared_arguments = (inspect.getdoc(to_overrides) or "").partition("Args:\n")[2]
    with_form.__doc__ = f"{summary.rstrip()}\n\nArgs:\n{shared_arguments.rstrip()}\n{own_arguments}"
    return with_form
