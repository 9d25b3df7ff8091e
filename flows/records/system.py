"""What the machine does while a run trains: sampled from outside the training process, under MLflow's own names (`system/…`).

The samples go to system.jsonl in the run folder (the journal's format; `step` counts the samples), so that they reach MLflow by the
same way as everything else. MLflow's own monitor would sample the process that asks, needs the server while it runs, and loses
what it cannot send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import RunError
from flows.records.journal import Journal, read

FILE = "system.jsonl"
SECONDS_BETWEEN = 5.0
SECONDS_TO_FIRST = 1.0

_MEGABYTE = 1e6


class Sampler(threading.Thread):
    """A daemon thread that samples until it is told to stop; a run however short gets one sample."""

    def __init__(self, folder: Path, pid: Callable[[], int | None]) -> None:
        super().__init__(name=f"sampler {folder.name}", daemon=True)
        self._folder, self._pid, self._stopped = folder, pid, threading.Event()

    def run(self) -> None:
        """Sample every five seconds; gives up quietly when the disk is full (the training process reports that)."""
        steps = [line["step"] for line in read(self._folder, file=FILE)]
        step = max(steps, default=-1) + 1
        gauges = Gauges(self._folder)
        try:
            with Journal(self._folder, file=FILE) as journal:
                pause = SECONDS_TO_FIRST
                while True:
                    stopped = self._stopped.wait(pause)
                    if stopped and pause != SECONDS_TO_FIRST:
                        return
                    journal.metrics(gauges.read(self._pid()), step=step, epoch=0.0)
                    if stopped:
                        return
                    step, pause = step + 1, SECONDS_BETWEEN
        except RunError:
            return

    def stop(self) -> None:
        """Take the last sample, if there is none yet, and end; returns within a fraction of a second."""
        self._stopped.set()
        if self.is_alive():
            self.join(timeout=2)


class Gauges:
    """Reads processor, memory, disk, network and (where NVML is there) GPU; percentages of processor time are since the last reading."""

    def __init__(self, folder: Path) -> None:
        import psutil

        self._psutil = psutil
        self._folder = folder
        self._process: Any = None
        self._network = psutil.net_io_counters()
        self._nvml, self._gpus = _nvml()
        psutil.cpu_percent()  # the first call has nothing to compare with and returns 0

    def read(self, pid: int | None) -> dict[str, float]:
        """One value a gauge; the training process's own (`system/process_…`, its children not included) only while it lives."""
        memory, disk, network = self._psutil.virtual_memory(), self._psutil.disk_usage(str(self._folder)), self._psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MEGABYTE,
            "disk_available_megabytes": disk.free / _MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / _MEGABYTE if network else 0.0,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / _MEGABYTE if network else 0.0,
            **self._of_process(pid),
            **self._of_gpus(),
        }
        return {f"system/{name}": round(value, 1) for name, value in values.items()}

    def _of_process(self, pid: int | None) -> dict[str, float]:
        if pid is None:
            return {}
        try:
            if self._process is None or self._process.pid != pid:
                self._process = self._psutil.Process(pid)
                times = self._process.cpu_times()
                lived = max(time.time() - self._process.create_time(), 1e-3)
                processor = (times.user + times.system) / lived * 100  # since it started: there is no reading before
                self._process.cpu_percent()
            else:
                processor = self._process.cpu_percent()
            return {
                "process_cpu_utilization_percentage": processor,
                "process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
            }
        except self._psutil.Error:
            return {}

    def _of_gpus(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for number, gpu in enumerate(self._gpus):
            try:
                memory, use = self._nvml.nvmlDeviceGetMemoryInfo(gpu), self._nvml.nvmlDeviceGetUtilizationRates(gpu)
                power, limit = self._nvml.nvmlDeviceGetPowerUsage(gpu), self._nvml.nvmlDeviceGetEnforcedPowerLimit(gpu)
            except self._nvml.NVMLError:
                continue
            values |= {
                f"gpu_{number}_memory_usage_percentage": memory.used / memory.total * 100,
                f"gpu_{number}_memory_usage_megabytes": memory.used / _MEGABYTE,
                f"gpu_{number}_utilization_percentage": use.gpu,
                f"gpu_{number}_power_usage_watts": power / 1000,
                f"gpu_{number}_power_usage_percentage": power / limit * 100,
            }
        return values


def _nvml() -> tuple[Any, list[Any]]:
    """NVIDIA's management library and a handle for each GPU; no GPUs where either is missing."""
    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return pynvml, []
