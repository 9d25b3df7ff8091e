"""A checkpoint's folder: what is in it, read and written without executing or unpickling anything.

    config.json                                     sizes, and what architecture it is
    model.safetensors                               the tensors, under that architecture's names
    model-00001-of-00002.safetensors …              or in pieces,
    model.safetensors.index.json                    with a list of which tensor is in which
    tokenizer.json                                  the vocabulary, where there is one

`pytorch_model.bin` is a pickle, which may run anything when it is read: it is refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.data.durable import publish, scratch
from components.data.tokens import NAMES
from components.errors import CheckpointError

CONFIG, WEIGHTS, INDEX, TOKENIZER = "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
"""Without it, other programs take the tokenizer that usually goes with the architecture."""
MARKS = {
    "pad_token": "pad", "unk_token": "unknown", "mask_token": "mask",
    "bos_token": "start", "cls_token": "start", "eos_token": "end", "sep_token": "end",
}  # fmt: skip
"""What `transformers` calls a mark → what it is for here (components/data/tokens.py)."""
PICKLE = "pytorch_model.bin"

SHARD_BYTES = 5_000_000_000
"""A file is split where it would be larger, as `transformers` does."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as others keep it.

    Attributes:
        config: `config.json`; `model_type` says the architecture.
        tensors: under that architecture's names.
        tokenizer: `tokenizer.json`, where there is one.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: str | None = None


def check(folder: Path) -> dict[str, Any]:
    """The `config.json` of the checkpoint in `folder`, whose weights are there but not read.

    Raises:
        CheckpointError: something is missing, or would have to be unpickled.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    config = _json(folder / CONFIG)
    if not (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        only_pickle = f"only {PICKLE}, which is a pickle and may run anything: save it" if (folder / PICKLE).is_file() else "none: save it"
        raise CheckpointError(f"{folder} has no {WEIGHTS} ({only_pickle} with safe_serialization)")
    return config


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        CheckpointError: something is missing, damaged, or would have to be unpickled.
    """
    config = check(folder)
    tokenizer = folder / TOKENIZER
    return Checkpoint(config, _tensors(folder), tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else None)


def write(folder: Path, checkpoint: Checkpoint, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `checkpoint` as a new folder, whole or not at all; in pieces where it has more bytes than `shard_bytes`.

    Raises:
        CheckpointError: there is something already, or the disk does not take it.
        DataError: the disk is full.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: choose another name")
    shards = _shards(checkpoint.tensors, shard_bytes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch(folder.parent) as unfinished:
            content = unfinished / "checkpoint"
            content.mkdir()
            (content / CONFIG).write_text(json.dumps(checkpoint.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            for name, tensors in shards.items():
                (content / name).write_bytes(save(tensors, metadata={"format": "pt"}))
            if len(shards) > 1:
                size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
                places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
                (content / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2) + "\n")
            if checkpoint.tokenizer is not None:
                (content / TOKENIZER).write_text(checkpoint.tokenizer, encoding="utf-8")
                told = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
                told |= marks_in(checkpoint.tokenizer)
                (content / TOKENIZER_CONFIG).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            publish(content, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from error


def marks_in(tokenizer: str) -> dict[str, str]:
    """What the marks in a `tokenizer.json` are for: `pad_token` …, as `transformers` calls them."""
    known = {token["content"] for token in json.loads(tokenizer).get("added_tokens", [])}
    found = {theirs: next((mark for mark in NAMES[ours] if mark in known), None) for theirs, ours in MARKS.items()}
    return {what: mark for what, mark in found.items() if mark is not None}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}: it is no checkpoint in Hugging Face's layout") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of one file, or of the pieces that the index names."""
    if not (folder / INDEX).is_file():
        return read_file(folder / WEIGHTS)
    places = _json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) and Path(name).name == name for name in places.values()):
        raise CheckpointError(f"{folder / INDEX} does not say which file holds which tensor")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        found |= read_file(folder / name)
    missing = sorted(places.keys() - found.keys())
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of the tensors that its index names, {missing[0]} first")
    return found


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file; CheckpointError when it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — safe_open is no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _shards(tensors: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, Tensor]]:
    """File name → its tensors, in order; a tensor is never split."""
    groups: list[dict[str, Tensor]] = [{}]
    room: float = limit
    for name, tensor in tensors.items():
        if tensor.nbytes > room and groups[-1]:
            groups.append({})
            room = limit
        groups[-1][name] = tensor.contiguous()
        room = room - tensor.nbytes if tensor.nbytes <= limit else -math.inf
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{place:05}-of-{len(groups):05}.safetensors": group for place, group in enumerate(groups, 1)}
