"""What has to be trained before a request can start: the experiments whose weights it begins with, and those that they begin with.

`pretrained=experiment:NAME` takes that experiment as it stands in conf/experiment. `pretrained=stage:NAME` says that it is the stage
before on the same task: overrides of data, model (but for its `stage`) and activation reach it, those of trainer, optimizer, objective
and seed do not. Everything that is asked for is judged before any of it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.errors import RequestError
from flows import lineage, runs
from flows.config.compose import compose
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

    def announced(self, asked: Sequence[str]) -> str:
        """A line for whoever waits for what they `asked` for: what is trained first, and which of the overrides do not reach it."""
        others = [text for text in asked if text not in self.overrides and not text.startswith(("experiment=", "pretrained=", "name="))]
        left = f" (without {' '.join(others)})" if others else ""
        return f"training {' '.join(self.overrides)} first{left}: its weights are what this begins with"


def needed(overrides: Sequence[str], settings: Settings) -> list[Earlier]:
    """The experiments that `pretrained` names, and so on, that no run and no version stands for, in order.

    Raises:
        RequestError: there is no such experiment, they go round in a circle, or one is no stage of what it is said to be a stage of.
        ConfigError: the overrides are wrong, for the request itself or for an experiment before it.
    """
    found: list[Earlier] = []
    asked = list(overrides)
    config = compose(asked)
    if lineage.ancestor(config) is None:
        return []
    config = judge(config)
    lineage.ancestors(config)
    while (name := lineage.ancestor(config)) is not None and lineage.begins_with(config, settings) is None:
        is_stage = config["pretrained"].startswith("stage:")
        asked = [f"experiment={name}", *(text for text in asked if is_stage and _shared(text))]
        found.append(Earlier(name, asked))
        later, config = config, judge(compose(asked))
        if is_stage and not runs.same_task(later, config):
            raise RequestError(
                f"pretrained: {name} is no stage before this: it has other data, another model or activation (pretrained=experiment:{name})"
            )
    return found[::-1]


def _shared(override: str) -> bool:
    """Whether an override is about what the stages of one training agree in."""
    key = override.partition("=")[0]
    return key.partition(".")[0] in runs.STAGES_SHARE and key != "model.stage"


def train_first(earlier: Earlier, settings: Settings, *, watch: Watch = lambda _: None) -> str:
    """Train an experiment, with everything recorded; returns the run's name."""
    with Session({"overrides": earlier.overrides}, settings, watch=watch) as session:
        return str(train_here(session)["run"])
