"""What can be known to be wrong with a request before there is a run: said first, so that no run is left behind that could never begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.data.prepared import is_users_own
from components.training.fine_tuning import freeze
from components.training.settings import Trainer
from flows.config.build import build
from flows.lab.settings import Settings
from flows.parts import Tell, outline, prepare_data
from flows.pretrained import find, refuse_missing


def refuse(config: Mapping[str, Any], settings: Settings, *, tell: Tell, stopping: Callable[[], bool]) -> None:
    """Raise what is wrong with the request that `config` is.

    The user's own data are prepared for it, as are all where weights are to be begun with or parts of the model are to be frozen: whether
    these fit depends on what the data know.

    Raises:
        RequestError: weights that do not fit or are nowhere, a part that the model does not have, data of the user's own with faults.
        UntrainedError: all of this is right, but an experiment has to be trained first.
        RunError: data or weights cannot be had.
    """
    trainer: Trainer = build(config["trainer"])
    if config["pretrained"]:
        refuse_missing(config)
    if not (config["pretrained"] or trainer.frozen or is_users_own(build(config["data"]))) or stopping():
        return
    prepared = prepare_data(config, settings, tell=tell)
    model = outline(config, prepared.facts)
    freeze(model, trainer.frozen)
    if config["pretrained"]:
        find(model, config, prepared.facts, settings, tell=lambda text: tell({"kind": "note", "text": text}))
