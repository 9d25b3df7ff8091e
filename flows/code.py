"""Which code a run is to be done with, and how a worker on another machine comes by it.

    image        the package in the image is the code
    local path   the folder that the worker was started from is the code (a shared one, or a checkout)
    git          the worker has a repository, and takes the run's commit out of it

One rule for all three: what runs must have the same content as what was deployed. The content's hash says that, with git or without, with
changes that are in no commit or without; the commit only says where to find it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import RunError

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "LAB_CODE"
"""Environment variable of a deployment: its `Code`, as JSON."""
FOLDER = "LAB_CODE_FOLDER"
"""Environment variable of a flow run: where the code is that it runs."""
REPOSITORY = "LAB_GIT"
"""Environment variable of a worker: the repository that it may take code from."""
PATTERNS = ("components/**/*.py", "flows/**/*.py", "conf/**/*.yaml")
"""What decides what a run does."""


@dataclass(frozen=True)
class Code:
    """One version of the lab's code.

    Attributes:
        version: hash of its content.
        commit: the git commit with exactly this content; None where there is none.
    """

    version: str
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.version} (commit {self.commit[:10]})" if self.commit else f"{self.version} (in no commit)"


def of(root: Path = ROOT) -> Code:
    """The code in the folder `root`."""
    from flows.records.reproducible import code

    state = code(root)
    return Code(version(root), str(state["commit"]) if state["commit"] and not state["dirty"] else None)


def version(root: Path) -> str:
    """Hash of the content that decides what a run does: 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in PATTERNS for path in root.glob(pattern)):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def wanted(environment: Mapping[str, str | None]) -> Code | None:
    """What a deployment's environment asks for; None where it does not say."""
    return Code(**json.loads(text)) if (text := environment.get(VARIABLE)) else None


def deployed(root: Path = ROOT) -> dict[str, str]:
    """What a deployment's environment says of the code in `root`."""
    return {VARIABLE: json.dumps(asdict(of(root))), FOLDER: str(root)}


def find(code: Code, *, repository: str | None, cache: Path, root: Path = ROOT) -> Path:
    """A folder here with exactly this code.

    Args:
        repository: git repository (path or address) to take it from where `root` has another version; None for none.
        cache: folder for what is taken out of the repository.

    Raises:
        RunError: there is none; says what this worker has and what would help.
    """
    own = version(root)
    if own == code.version:
        return root
    lack = f"this worker ({os.uname().nodename}) has code version {own}, and the run is of {code}"
    if repository is None:
        raise RunError(f"{lack}: bring the worker to that version, or give it the repository (lab worker --git …)")
    if code.commit is None:
        raise RunError(f"{lack}, which no repository has: commit it, and start the lab again")
    folder = cache / code.commit
    if not folder.is_dir():
        _take_out(code.commit, repository, folder, lack)
    if (found := version(folder)) != code.version:
        raise RunError(f"{lack}, but in {repository} that commit has version {found}")
    return folder


def _take_out(commit: str, repository: str, folder: Path, lack: str) -> None:
    """Write the files of a commit into `folder`, whole or not at all."""
    mirror = folder.parent / "repository.git"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not mirror.is_dir():
            _git("clone", "--quiet", "--mirror", "--", repository, str(mirror))
        if subprocess.run(["git", "-C", mirror, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False).returncode:
            _git("-C", str(mirror), "fetch", "--quiet", "--", repository, "+refs/*:refs/*")
        files = _git("-C", str(mirror), "archive", "--format=tar", commit)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(f"{lack}, which cannot be had from {repository}: {last}") from error
    except OSError as error:
        raise RunError(f"{lack}, which cannot be had from {repository}: {error}") from error
    unfinished = folder.with_name(f".{commit}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(unfinished, filter="data")
    try:
        unfinished.rename(folder)
    except OSError:  # another flow run was faster
        shutil.rmtree(unfinished, ignore_errors=True)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, timeout=600).stdout
