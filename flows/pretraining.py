"""What has to be trained before a request can start: the experiments whose weights it begins with, and those that they begin with."""

from __future__ import annotations

from collections.abc import Sequence

from components.errors import RequestError, closest
from flows import runs
from flows.config.compose import compose
from flows.config.names import names
from flows.lab.settings import Settings
from flows.session import Session, train_here
from flows.supervise import Watch


def needed(overrides: Sequence[str], settings: Settings) -> list[str]:
    """The experiments that `pretrained=experiment:NAME` names, and so on, that neither a finished run nor the registry has, in order.

    Raises:
        RequestError: there is no such experiment, or they go round in a circle.
        ConfigError: the overrides are wrong.
    """
    found: list[str] = []
    asked = list(overrides)
    while True:
        kind, _, name = str(compose(asked).get("pretrained") or "").partition(":")
        if kind != "experiment" or runs.trained(name, settings) is not None:
            return found[::-1]
        known = names("experiment")
        if name not in known:
            raise RequestError(f"pretrained: there is no experiment {name!r} to train first{closest(name, known)}")
        if name in found:
            raise RequestError(f"pretrained: {' ← '.join([*found, name])} begin with each other's weights")
        found.append(name)
        asked = [f"experiment={name}"]


def train_first(name: str, settings: Settings, *, watch: Watch = lambda _: None) -> str:
    """Train the experiment `name` as it stands in conf/experiment, with everything recorded; returns the run's name."""
    with Session({"overrides": [f"experiment={name}"]}, settings, watch=watch) as session:
        return str(train_here(session)["run"])
