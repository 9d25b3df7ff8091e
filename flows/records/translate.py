"""What the journal says, in MLflow's words: plain functions, without MLflow itself.

MLflow's limits (mlflow/utils/validation.py): names have at most 250 characters out of letters, digits and `_ - . space : /` and must
be normal relative paths; parameter values 6,000 characters, tag values 8,000; a batch 1,000 points or 100 parameters or tags.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any, Literal

from flows.records import reproducible

POINTS_A_BATCH = 1000
PAIRS_A_BATCH = 100
NAME_LENGTH = 250
PARAMETER_LENGTH = 6000
TAG_LENGTH = 8000
DIGEST_LENGTH = 36
IDENTITY = 8
"""Of a fingerprint, as many characters tell apart what a person has."""
CONFIG = "lab.config"
"""The tag in which a run without files of its own keeps its configuration."""

Ending = tuple[Literal["FINISHED", "FAILED", "KILLED"], str | None]
"""A run's status in MLflow, and the reason where there is one."""

Point = tuple[str, float, int, int]
"""(name, value, milliseconds since 1970, step)"""


def name(text: str) -> str:
    """`text` as a name that MLflow takes: other characters become `_`, and so do steps out of the tree."""
    parts = [part for part in re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII).split("/") if part not in ("", ".", "..")]
    return posixpath.join(*parts)[:NAME_LENGTH] if parts else "_"


def clip(text: str, length: int) -> str:
    """`text`, shortened with an ellipsis where it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameters(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A resolved configuration as flat parameters: `model.hidden` → `[256, 128]`; `_target_` is kept, `_partial_` is not."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= parameters(value, f"{path}.")
        elif key != "_partial_":
            flat[name(path)] = clip(_text(value), PARAMETER_LENGTH)
    return flat


def architecture(config: Mapping[str, Any]) -> str:
    """The model's short name: its module's last word, which is its file and its choice in conf/model (`mlp`)."""
    return _stem(config, "model")


def problem(config: Mapping[str, Any], data: str, fingerprint: str) -> str:
    """What a run is about, and so the name of its registered model: `{data}-{objective}` (`mnist-classification`).

    A user's own data have the beginning of their fingerprint in it (`voc-3f9a1c20-multibox`): models of different data do not compete.
    """
    return "-".join((data, *([fingerprint[:IDENTITY]] if is_own(config.get("data")) else []), _stem(config, "objective")))


def is_own(data: Any) -> bool:
    """Whether a `data` section, or one inside of it, is about files of the user's."""
    return isinstance(data, Mapping) and ("path" in data or any(is_own(each) for each in data.values()))


def _stem(config: Mapping[str, Any], group: str) -> str:
    """`components.models.mlp.MLP` → `mlp`."""
    parts = str((config.get(group) or {}).get("_target_", "unknown")).split(".")
    return parts[-2] if len(parts) > 1 else parts[0]


def tags(run: str, event: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags that an event sets on its run: who, what, with which code, libraries and seed; how long, how good, why it ended."""
    found: dict[str, Any] = {}
    match event:
        case "started":
            found = _tags_of_start(run, facts)
        case "together":  # it was trained in a stack with other trials
            found = {"lab.together": True}
        case "data":
            found = {"lab.data": facts["name"], "lab.data.fingerprint": facts["fingerprint"]}
        case "pretrained":
            found = {f"lab.pretrained.{key}": value for key, value in (facts.get("origin") or {}).items()}
            found["lab.pretrained.weights_sha256"] = facts.get("weights_sha256")
        case "model":
            found = {"lab.device": facts.get("device"), "lab.parameters": facts.get("parameters")}
        case "stage" if facts.get("state") == "finished":
            found = {f"lab.seconds.{facts['name']}": facts.get("seconds")}
        case "result":
            found = {
                f"lab.{key}": facts.get(key) for key in ("weights_sha256", "seconds", "best_step", "steps", "stopped_early", "monitor")
            }
        case "warning":
            found = {"lab.warning": facts.get("message")}
        case "failed" | "interrupted" | "pruned":
            found = {"lab.reason": facts.get("reason"), "lab.ended": event}
    return {name(key): clip(_text(value), TAG_LENGTH) for key, value in found.items() if value is not None}


def configuration(event: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """The configuration as a tag, where an event brings it and it fits."""
    text = json.dumps(facts["config"], ensure_ascii=False) if event == "started" else ""
    return {CONFIG: text} if 0 < len(text) <= TAG_LENGTH else {}


def _tags_of_start(run: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    config, code = facts["config"], facts.get("code") or {}
    found: dict[str, Any] = {
        "mlflow.runName": run,
        "mlflow.note.content": config.get("description"),
        "mlflow.source.git.commit": code.get("commit"),
        "lab.run": run,
        "lab.experiment": config.get("name"),
        "lab.model": architecture(config),
        "lab.objective": _stem(config, "objective"),
        "lab.seed": config.get("seed"),
        "lab.pretrained": config.get("pretrained"),
        "lab.code.dirty": code.get("dirty"),
        **{f"lab.{key}": value for key, value in (facts.get("machine") or {}).items()},
        **{f"lab.version.{package}": version for package, version in (facts.get("versions") or {}).items()},
        **{f"tag.{label}": "yes" for label in config.get("tags") or []},
    }
    for group in ("optimizer", "schedule", "activation", "initializer"):
        target = (config.get(group) or {}).get("_target_")
        found[f"lab.{group}"] = target and target.split(".")[-1]
    return found


def dataset(facts: Mapping[str, Any]) -> dict[str, str]:
    """A `data` event as the fields of MLflow's `Dataset`: the digest is the fingerprint's beginning, the profile holds the counts."""
    card = facts.get("card") or {}
    about = {key: card[key] for key in ("source", "licence") if key in card}
    return {
        "name": facts["name"],
        "digest": facts["fingerprint"][:DIGEST_LENGTH],
        "source_type": "code",
        "source": json.dumps({"tags": {**about, "fingerprint": facts["fingerprint"]}}, ensure_ascii=False),
        "profile": json.dumps({"counts": card.get("counts"), "facts": _without_vocabularies(card.get("facts"))}, ensure_ascii=False),
    }


def _without_vocabularies(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Facts that fit into a profile: a vocabulary has hundreds of kilobytes, and is in the data card and in the model's data.json."""
    return None if facts is None else {key: value for key, value in facts.items() if key not in ("vocabulary", "target_vocabulary")}


def documents(event: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """The small files that an event leaves with its run: configuration and library versions, the data card, the model's layers."""
    match event:
        case "started":
            versions = reproducible.requirements(facts.get("versions") or {})
            return {"config.json": _document(facts["config"]), "requirements.txt": versions}
        case "data":
            return {"data_card.json": _document(facts)}
        case "model":
            return {"model.txt": f"{facts.get('text', '')}\n"}
    return {}


def _document(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def points(line: Mapping[str, Any]) -> list[Point]:
    """The points of one `metrics` line; MLflow keeps their time, so that delivering one again changes nothing."""
    return [(name(series), float(value), line["t"], line["step"]) for series, value in line["values"].items()]


def final(facts: Mapping[str, Any], time: int) -> list[Point]:
    """A `result` event's metrics as points `summary/…` at the best step: what the leaderboard sorts by."""
    step = int(facts.get("best_step") or 0)
    return [(name(f"summary/{series}"), float(value), time, step) for series, value in (facts.get("metrics") or {}).items()]


SILENT: Ending = ("FAILED", "the training process ended without a word; it can be resumed")
"""The end of a training whose process is gone, without a last word in its journal."""


def ending(lines: list[dict[str, Any]], *, silent: Ending = SILENT) -> Ending:
    """How a run whose process is gone ended, as MLflow status and reason, from its journal's last words; `silent` where there are none."""
    for line in reversed(lines):
        if line["kind"] != "event":
            continue
        match line["event"]:
            case "result":
                return "FINISHED", None
            case "failed" | "interrupted" | "pruned":
                return ("FAILED" if line["event"] == "failed" else "KILLED"), line["facts"].get("reason")
            case "started":
                break
    return silent
