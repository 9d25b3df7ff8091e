"""What a run writes down about the code and the machine that made it. Cheap: one git process, no heavy import."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    "lecture-lab",
    "torch",
    "torchvision",
    "numpy",
    "safetensors",
    "scikit-learn",
    "matplotlib",
    "hydra-core",
    "pydantic",
    "mlflow",
    "prefect",
    "optuna",
    "sqlalchemy",
)
"""Whose versions decide what a run computes and how it is recorded."""

_HERE = Path(__file__).resolve()


def code(folder: Path = _HERE.parents[2]) -> dict[str, str | bool | None]:
    """The git state of the work tree whose top is `folder`: `commit` (40 hex digits) and `dirty` (changed or new files).

    Both are None where there is none; an installed copy inside another project's work tree is not that project's commit.
    """
    unknown: dict[str, str | bool | None] = {"commit": None, "dirty": None}
    if not (folder / ".git").exists():
        return unknown
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=normal"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return unknown
    lines = done.stdout.splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if done.returncode != 0 or not commits or len(commits[0]) != 40:  # before the first commit git says `(initial)`
        return unknown
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in lines)}


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python's version and those of the installed ones among `PACKAGES`."""
    found = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{package: version for package, version in found.items() if version is not None}}


def machine() -> dict[str, str | int]:
    """Where it runs: platform, machine type, processors this process may use and the threads torch uses (if torch is imported)."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = sys.modules.get("torch")
    return {
        "platform": f"{platform.system()}-{platform.release()}",
        "machine": platform.machine(),
        "processors": processors,
        "threads": torch.get_num_threads() if torch is not None else processors,
    }


def environment() -> dict[str, Any]:
    """All of it, as the facts of a run's `started` event: `code`, `versions`, `machine` and `pid`."""
    return {"code": code(), "versions": versions(), "machine": machine(), "pid": os.getpid()}


def requirements(found: dict[str, str]) -> str:
    """`versions()` as the text of a requirements file; Python's version is a comment, this package is left out."""
    pinned = [f"{package}=={version}" for package, version in sorted(found.items()) if package not in ("python", "lecture-lab")]
    return "\n".join([f"# python {found.get('python', 'unknown')}", *pinned]) + "\n"
