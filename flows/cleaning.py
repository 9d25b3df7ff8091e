"""`lab gc`: which run folders and checkpoints may go, by rule, and their removal.

1. A run that failed goes after `failed_days`, when MLflow has everything of it.
2. Checkpoints of a run that nobody has gone on with for `checkpoint_days` go; the run stays, but cannot be resumed.
3. What is being written now, and any run that an alias of the registry points to (the champions), is never touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.errors import RunError
from flows import runs
from flows.lab.settings import Settings
from flows.records import journal, translate
from flows.records.delivery import Progress, exclusive
from flows.records.tracking import tracking_client, tracking_uri

DAY = 86_400.0


@dataclass(frozen=True)
class Removal:
    """Something that may go.

    Attributes:
        path: the folder.
        why: in words.
        size: bytes.
    """

    path: Path
    why: str
    size: int


def find(settings: Settings, *, failed_days: float, checkpoint_days: float, now: float | None = None) -> list[Removal]:
    """What may go by the rules, run by run.

    Args:
        settings: whose LAB_HOME.
        failed_days: days since the last line of a failed run's journal.
        checkpoint_days: days since the last line of a run's journal after which its checkpoints go.
        now: seconds since 1970; None for the clock.

    Raises:
        RunError: MLflow cannot say which runs are champions; then nothing may go.
    """
    now = time.time() if now is None else now
    kept = champions(settings)
    found: list[Removal] = []
    single = [path.parent for path in settings.runs.glob(f"*/{journal.FILE}")]
    for folder in sorted([*single, *runs.trials(settings)]):
        if folder.name not in kept and not journal.is_open(folder):
            found += _of_run(folder, now, failed_days, checkpoint_days, whole=folder.parent == settings.runs)
    return found


def _of_run(folder: Path, now: float, failed_days: float, checkpoint_days: float, *, whole: bool) -> Iterator[Removal]:
    if not (folder / journal.FILE).exists():
        return
    days = (now - (folder / journal.FILE).stat().st_mtime) / DAY
    status, _ = translate.ending(journal.read(folder))
    if whole and status == "FAILED" and days >= failed_days and _delivered(folder):
        yield Removal(folder, f"failed {days:.0f} days ago", _size(folder))
        return
    checkpoints = folder / "checkpoints"
    if days >= checkpoint_days and (size := _size(checkpoints)):
        yield Removal(checkpoints, f"checkpoints of {days:.0f} days ago", size)


def champions(settings: Settings) -> set[str]:
    """The names of the runs that the registry's aliases point to.

    Raises:
        RunError: MLflow cannot be asked.
    """
    from mlflow.exceptions import MlflowException

    try:
        client = tracking_client(tracking_uri(settings))
        models = client.search_registered_models(max_results=1000)
        versions = [client.get_model_version_by_alias(model.name, alias) for model in models for alias in model.aliases]
        return {client.get_run(version.run_id).data.tags.get("lab.run", "") for version in versions if version.run_id}
    except MlflowException as error:
        raise RunError(f"MLflow cannot say which runs are champions, so nothing is removed: {error.message.splitlines()[0]}") from error


def remove(settings: Settings, removals: list[Removal]) -> list[Removal]:
    """Remove what may go, unless somebody has begun to write it meanwhile; returns what is gone."""
    gone = []
    for removal in removals:
        run = removal.path if removal.path.parent == settings.runs else removal.path.parent
        with exclusive(run) as alone:
            if alone and not journal.is_open(run):
                aside = removal.path.with_name(f".{removal.path.name}.removed")  # a half-removed folder is no run
                removal.path.rename(aside)
                shutil.rmtree(aside)
                gone.append(removal)
    return gone


def _delivered(folder: Path) -> bool:
    progress = Progress.load(folder, experiment="")
    return progress.settled and not progress.behind(folder)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
