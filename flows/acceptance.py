"""What can be known to be wrong with a request before there is a run: said first, so that no run is left behind that could never begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from components.data.prepared import is_users_own
from components.errors import UntrainedError
from components.training.fine_tuning import freeze
from components.training.settings import Trainer
from flows import lineage
from flows.config.build import build
from flows.lab.settings import Settings
from flows.parts import Tell, outline, prepare_data
from flows.pretrained import find, refuse_missing, what_fits


def refuse(config: Mapping[str, Any], settings: Settings, *, tell: Tell) -> None:
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
    if not (config["pretrained"] or trainer.frozen or is_users_own(build(config["data"]))):
        return
    prepared = prepare_data(config, settings, tell=tell)
    model = outline(config, prepared.facts)
    freeze(model, trainer.frozen)
    if config["pretrained"]:
        try:
            find(model, config, prepared.facts, settings, tell=lambda text: tell({"kind": "note", "text": text}))
        except UntrainedError:
            _refuse_strangers(config["pretrained"], model, prepared.facts, settings, tell)
            raise


def _refuse_strangers(address: str, model: nn.Module, facts: Mapping[str, Any], settings: Settings, tell: Tell) -> None:
    """Raise RequestError where nothing could be begun with what the experiment at `address` comes to: for that it need not be trained."""
    kind, _, name = address.partition(":")
    if kind == "experiment":  # a stage was judged by its task
        earlier = lineage.now(name)
        its = prepare_data(earlier, settings, tell=tell).facts
        what_fits(address, outline(earlier, its).state_dict(), its.get("vocabulary"), model, facts)
