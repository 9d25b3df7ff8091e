"""Checkpoints that can be trusted: whole or not there at all, and nothing in them is ever unpickled.

A checkpoint is one safetensors file: tensors by name, everything else as JSON in the file's own header. Its name carries the step
and the first half of the SHA-256 of its bytes, so a torn or altered file gives itself away without any second file:

    checkpoints/step-00001250.3f9a…\u200b.safetensors     everything needed to go on from step 1250
    checkpoints/best-00001000.c41d….safetensors      the weights with the best validation metric so far

It is written beside its place under a temporary name, synced, and renamed. `best-*` is written before the checkpoint that names
it, and older files are removed only after that, so at every moment some complete pair is on the disk.
"""

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.errors import CheckpointError
from components.training.disk import on_disk

KEEP = 2
"""Complete checkpoints kept: the newest, and one before it should the newest be damaged."""

_NAME = re.compile(r"(step|best)-(\d{8,})\.([0-9a-f]{32})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """What a file holds: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, hashed: bool = False) -> Path:
    """Write one safetensors file atomically and durably; returns its path.

    Tensors that share memory (tied weights) are stored once and remembered as aliases. With `hashed`, the hash of the bytes is
    put before the suffix. Raises CheckpointError when the disk does not take it; nothing half written stays behind.
    """
    stored, aliases = _without_aliases(tensors)
    data = save(stored, metadata={"json": json.dumps({"values": values, "aliases": aliases})})
    if hashed:
        path = path.with_name(f"{path.stem}.{hashlib.sha256(data).hexdigest()[:32]}.safetensors")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            on_disk(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path.name} into {path.parent}: {error.strerror or error}") from error
    return path


def read_tensors(path: Path) -> Snapshot:
    """Read a file of `write_tensors`; CheckpointError when it is not a whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("json", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — safe_open is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    tensors |= {alias: tensors[name] for alias, name in header.get("aliases", {}).items()}
    return Snapshot(tensors, header.get("values", {}))


def _without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        memory = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in seen:
            aliases[name] = seen[memory]
        else:
            seen[memory] = name
            stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return stored, aliases


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        on_disk(handle)
    finally:
        os.close(handle)


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved_at = time.perf_counter()

    def due(self, seconds: float) -> bool:
        """Whether the last checkpoint, or the beginning, is `seconds` ago."""
        return time.perf_counter() - self.saved_at >= seconds

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
        """Write the checkpoint of optimizer step `step`, then remove what is no longer needed."""
        path = write_tensors(self.folder / f"step-{step:08d}", tensors, {**values, "step": step}, hashed=True)
        self._tidy()
        self.saved_at = time.perf_counter()
        return path

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> str:
        """Write the best weights, reached at `step`; returns the file's name for the checkpoint to remember."""
        return write_tensors(self.folder / f"best-{step:08d}", weights, {"step": step}, hashed=True).name

    def load_best(self, name: str) -> dict[str, Tensor]:
        """The weights of `save_best`; CheckpointError when they are missing or damaged."""
        return self._verified(self.folder / name).tensors

    def newest(self) -> Snapshot | None:
        """The newest valid checkpoint, its best weights included under `best/`; None when there is none.

        A damaged one is passed over with a warning.
        """
        for path in self._files("step"):
            try:
                snapshot = self._verified(path)
                best = snapshot.values.get("best_file")
                weights = self.load_best(best) if best else {}
            except CheckpointError as error:
                warnings.warn(f"checkpoint {path.name} is passed over: {error}", stacklevel=2)
                continue
            return Snapshot({**snapshot.tensors, **{f"best/{name}": tensor for name, tensor in weights.items()}}, snapshot.values)
        return None

    def clear(self) -> None:
        """Remove every checkpoint (a finished run needs none)."""
        for kind in ("step", "best"):
            for path in self._files(kind):
                path.unlink(missing_ok=True)

    def _files(self, kind: str) -> Iterator[Path]:
        """Files of one kind, newest step first."""
        named = ((_NAME.fullmatch(path.name), path) for path in (self.folder.iterdir() if self.folder.is_dir() else ()))
        found = [(int(match[2]), path.stat().st_mtime_ns, path) for match, path in named if match and match[1] == kind]
        return (path for *_, path in sorted(found, reverse=True))

    def _verified(self, path: Path) -> Snapshot:
        match = _NAME.fullmatch(path.name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path.name}: {error.strerror}") from error
        if match is None or hashlib.sha256(data).hexdigest()[:32] != match[3]:
            raise CheckpointError(f"{path.name} is damaged: its content does not have the hash in its name")
        return read_tensors(path)

    def _tidy(self) -> None:
        kept = list(self._files("step"))
        for path in kept[KEEP:]:
            path.unlink(missing_ok=True)
        needed = {_best_of(path) for path in kept[:KEEP]}
        for path in self._files("best"):
            if path.name not in needed:
                path.unlink(missing_ok=True)


def _best_of(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            name = json.loads(file.metadata()["json"])["values"].get("best_file")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return str(name) if name else None


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors in the order of their names: equal means bit for bit equal."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors by name and JSON values."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{slot}"] = value
            else:
                numbers.setdefault(str(index), {})[slot] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def unflatten_optimizer(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that `flatten_optimizer` took apart."""
    state: dict[int, dict[str, Any]] = {int(index): dict(slots) for index, slots in values["numbers"].items()}
    for name, tensor in tensors.items():
        index, _, slot = name.partition("/")
        state.setdefault(int(index), {})[slot] = tensor
    return {"state": state, "param_groups": values["groups"]}
