"""Where and in which arithmetic a training computes."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from components.errors import RequestError
from components.protocols import Batch

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def available() -> list[str]:
    """Names of the devices this machine has, best first."""
    found = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
    return [name for name, here in found if here]


def choose(name: str) -> torch.device:
    """The device called `name` (`auto`: the best there is); RequestError when this machine does not have it."""
    here = available()
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise RequestError(f"trainer.device: this machine has no {name!r} (it has: {', '.join(here)}; or choose auto)")
    return torch.device(name)


def configure(*, threads: int, deterministic: bool) -> None:
    """Set torch's process-wide switches: CPU threads (0: torch's choice) and deterministic algorithms."""
    if threads:
        torch.set_num_threads(threads)
    # use_deterministic_algorithms() would do the same, but it imports the compiler: two seconds at every start.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context a forward pass runs in."""
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision])
    return contextlib.nullcontext()


def to_device(batch: Batch, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
    """The batch with its tensors (also those in lists) on `device`; floating ones in `dtype` where one is given."""
    if device.type == "cpu" and dtype is None:
        return batch

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            pinned = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
            return pinned.to(device, dtype=dtype if value.is_floating_point() else None, non_blocking=True)
        if isinstance(value, list):
            return [move(item) for item in value]
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        return value

    return {key: move(value) for key, value in batch.items()}
