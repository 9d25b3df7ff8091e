"""What has to be trained before a request can start: the experiments whose weights it begins with, and those that they begin with.

`pretrained=experiment:NAME` takes that experiment as it stands in conf/experiment. `pretrained=stage:NAME` says that it is the stage
before on the same task: overrides of data, model (but for its `stage`) and activation reach it, those of trainer, optimizer, objective
and seed do not. Everything that is asked for is judged before any of it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.errors import RequestError, closest
from flows import runs
from flows.config.compose import compose
from flows.config.names import names
from flows.judgement import judge
from flows.lab.settings import Settings
from flows.session import Session, train_here
from flows.supervise import Watch


@dataclass(frozen=True)
class Earlier:
    """An experiment to be trained first.

    Attributes:
        experiment: its name.
        overrides: what trains it, `experiment=…` among them.
    """

    experiment: str
    overrides: list[str]


def needed(overrides: Sequence[str], settings: Settings) -> list[Earlier]:
    """The experiments that `pretrained` names, and so on, that neither a finished run nor the registry has, in order.

    Raises:
        RequestError: there is no such experiment, or they go round in a circle.
        ConfigError: the overrides are wrong, for the request itself or for an experiment before it.
    """
    found: list[Earlier] = []
    asked = list(overrides)
    while True:
        config = compose(asked)
        kind, _, name = str(config.get("pretrained") or "").partition(":")
        before = kind in ("experiment", "stage")
        if before or found:
            config = judge(config)
        if not before or runs.trained(name, settings, before=config if kind == "stage" else None) is not None:
            return found[::-1]
        known = names("experiment")
        if name not in known:
            raise RequestError(f"pretrained: there is no experiment {name!r} to train first{closest(name, known)}")
        earlier = [each.experiment for each in found]
        if name in earlier:
            raise RequestError(f"pretrained: {' ← '.join([*earlier, name])} begin with each other's weights")
        asked = [f"experiment={name}", *(text for text in asked if kind == "stage" and _shared(text))]
        found.append(Earlier(name, asked))


def _shared(override: str) -> bool:
    """Whether an override is about what the stages of one training agree in."""
    key = override.partition("=")[0]
    return key.partition(".")[0] in runs.STAGES_SHARE and key != "model.stage"


def train_first(earlier: Earlier, settings: Settings, *, watch: Watch = lambda _: None) -> str:
    """Train an experiment, with everything recorded; returns the run's name."""
    with Session({"overrides": earlier.overrides}, settings, watch=watch) as session:
        return str(train_here(session)["run"])
