"""A training in several processes: the trainer process (flows/trainer.py) becomes the launcher of a group, and passes on what it says.

    trainer process ── torch's elastic launcher ──┬── process 0: the whole experiment (flows/experiment.py), and the journal
                                                  ├── process 1: only the training        (`experiment.assist`)
    the same on every other machine ──────────────┴── …

When a process is killed the launcher ends the others and starts all of them again; they go on from the last checkpoint, bit for bit.
Processes speak through a pipe; the first error that any of them says ends the group.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from components.errors import DataError, Interrupted, LabError, RequestError, RunError
from components.training.settings import Trainer
from flows.child import Voice, interrupting
from flows.config.build import build
from flows.lab.servers import count_gpus
from flows.lab.settings import Settings
from flows.parts import Tell, prepare_data

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_SAVE = 20.0
"""How long a group that is asked to stop may take before it is ended without a checkpoint."""


def check(trainer: Trainer) -> None:
    """RequestError when this machine cannot train in so many processes."""
    gpus = count_gpus()
    if trainer.device == "mps":
        raise RequestError("trainer.processes: several processes train on CUDA or on the CPU (choose trainer.device=cpu)")
    if trainer.device == "cuda" or (trainer.device == "auto" and gpus):
        if trainer.processes > gpus:
            raise RequestError(f"trainer.processes: {trainer.processes} processes need as many GPUs; this machine has {gpus}")
    elif trainer.processes > (cores := len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1):
        raise RequestError(f"trainer.processes: {trainer.processes} processes are more than this machine's {cores} processors")


def lead(config: dict[str, Any], folder: Path, settings: Settings, *, tell: Tell, stopping: Callable[[], bool]) -> None:
    """Run the experiment with all its processes; where it takes more machines, wait for them.

    Raises:
        RequestError, RunError: as `experiment.run`; RunError when processes die again and again.
        Interrupted: it was asked to stop.
    """
    from components.training import elastic

    trainer: Trainer = build(config["trainer"])
    kept = None
    if trainer.nodes > 1:
        kept = elastic.offer(settings.rendezvous, json.dumps({"run": folder.name, "config": config}))
        others = f"{trainer.nodes - 1} more machine{'s' if trainer.nodes > 2 else ''}"
        tell({"kind": "note", "text": f"waiting for {others}: lab train --join {settings.rendezvous}"})
    _launch(config, folder, settings, trainer, rendezvous=settings.rendezvous, leads=True, tell=tell, stopping=stopping)
    del kept


def follow(rendezvous: str, settings: Settings, *, tell: Tell, stopping: Callable[[], bool]) -> None:
    """Take part in the training that waits at `rendezvous`, with this machine's processes; raises as `lead`."""
    from components.training import elastic
    from flows.config.build import validate

    offered = json.loads(elastic.ask(rendezvous))
    config = validate(offered["config"])
    folder = settings.runs / offered["run"]
    tell({"kind": "run", "run": folder.name, "folder": str(folder), "config": config})
    trainer: Trainer = build(config["trainer"])
    check(trainer)
    _launch(config, folder, settings, trainer, rendezvous=rendezvous, leads=False, tell=tell, stopping=stopping)


def _launch(
    config: dict[str, Any],
    folder: Path,
    settings: Settings,
    trainer: Trainer,
    *,
    rendezvous: str,
    leads: bool,
    tell: Tell,
    stopping: Callable[[], bool],
) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException

    from components.training import elastic

    with interrupting(stopping):
        prepare_data(config, settings, tell=tell)  # once, before several processes ask for it
    context = multiprocessing.get_context("spawn")
    heard, channel = context.Pipe(duplex=False)
    stop = context.RawValue("b", 0)  # no lock that a killed process could take with it
    pump = _Pump(heard, stop, tell, stopping)
    try:
        elastic.launch(
            _take_part,
            ((config, folder, settings), leads, channel, stop),
            run=folder.name,
            processes=trainer.processes,
            nodes=trainer.nodes,
            rendezvous=rendezvous,
            hosts=leads,
        )
    except SignalException:
        pass  # the pump knows why
    finally:
        channel.close()
        pump.thread.join()
    if pump.error is not None:
        raise (RequestError if pump.error["exit"] == RequestError.exit_code else RunError)(pump.error["message"])
    if pump.interrupted is not None:
        raise Interrupted(pump.interrupted)


class _Pump:
    """A thread that passes lines on, hands the wish to stop to the processes, and ends the launcher where one of them has failed."""

    def __init__(self, heard: Connection, stop: Any, tell: Tell, stopping: Callable[[], bool]) -> None:
        self.heard, self.stop, self.tell, self.stopping = heard, stop, tell, stopping
        self.error: dict[str, Any] | None = None
        self.interrupted: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True, name="voices of the group")
        self.thread.start()

    def _run(self) -> None:
        rest, patience = b"", SECONDS_TO_SAVE
        while True:
            if self.stopping():
                self.stop.value = 1
                patience -= SECONDS_BETWEEN_LOOKS
                if patience < 0 and self.interrupted is None:
                    self.interrupted = "stopped while the group was not training"
                    self._abort()
            if not wait([self.heard], SECONDS_BETWEEN_LOOKS):
                continue
            data = os.read(self.heard.fileno(), 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # a killed process may leave half a line
                    self._hear(json.loads(line))

    def _hear(self, line: dict[str, Any]) -> None:
        if line["kind"] == "interrupted":
            self.interrupted = line["message"]
        elif line["kind"] != "error":
            self.tell(line)
        elif self.error is None:
            self.error = line
            self._abort()

    def _abort(self) -> None:
        from components.training.elastic import ABORT

        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, ABORT)


def _take_part(asked: tuple[dict[str, Any], Path, Settings], leads: bool, channel: Connection, stop: Any) -> None:
    """Be one process of the group."""
    from components.training import elastic

    tell = Voice(channel.fileno())
    speaks = leads and elastic.local_rank() == 0
    if not speaks:
        warnings.simplefilter("ignore")
    elif elastic.restarts():
        tell(
            {
                "kind": "warning",
                "message": "a process of the group has died; all of them are started again and go on from the last checkpoint",
            }
        )
    try:
        _train(*asked, leads=leads, tell=tell if speaks else lambda _: None, stopping=lambda: bool(stop.value))
    except Interrupted as error:
        if elastic.local_rank() == 0:
            tell({"kind": "interrupted", "message": str(error)})
    except LabError as error:
        tell({"kind": "error", "message": str(error), "exit": error.exit_code})


def _train(config: dict[str, Any], folder: Path, settings: Settings, *, leads: bool, tell: Tell, stopping: Callable[[], bool]) -> None:
    import torch
    from torch import distributed as dist

    from components.training import distributed, elastic
    from flows import experiment
    from flows.parts import prepared_folder

    trainer: Trainer = build(config["trainer"])
    if torch.cuda.is_available() and trainer.device != "cpu":
        torch.cuda.set_device(elastic.local_rank())
    if not trainer.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // trainer.processes))
    store, rank, size = elastic.place(leads=leads)
    with distributed.group(store, rank=rank, size=size):
        data: list[str] = [""] * size
        dist.all_gather_object(data, prepared_folder(config["data"], settings).name)
        if len(set(data)) > 1:
            raise DataError("the machines of the group do not have the same data: their fingerprints differ")
        if rank == 0:
            experiment.run(config, folder, settings, tell=tell, stopping=stopping, fit=distributed.fit)
        else:
            experiment.assist(config, settings, stopping=stopping, fit=distributed.fit)
