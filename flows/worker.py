"""A worker on a machine that is not the lab's: `python -m flows.worker POOL NAME LIMIT`; `lab worker` looks after it.

It is Prefect's process worker with two differences. A flow run gets this machine's settings (LAB_HOME, where the servers are) in place of
those of the machine that deployed it. And it gets the code that it was deployed with, or fails with one line that says why not.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from typing import Any

import anyio
from prefect.states import Failed
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from components.errors import LabError
from flows import code
from flows.lab.settings import Settings


class LabWorker(ProcessWorker):
    """Prefect's process worker, for another machine's lab."""

    type = "process"

    @classmethod
    def __dispatch_key__(cls) -> str:
        """A name of its own: Prefect's own worker stays the one that is meant by `process`."""
        return "lab-process"

    async def run(self, flow_run: Any, configuration: ProcessJobConfiguration, task_status: Any = None) -> ProcessWorkerResult:
        """Run it here with the right settings and the right code; a run whose code cannot be had is marked as failed."""
        settings = Settings.load()
        wanted = code.wanted(configuration.env)
        folder = code.ROOT
        try:
            if wanted is not None:
                look = partial(code.find, wanted, repository=os.environ.get(code.REPOSITORY), cache=settings.home / "code")
                folder = await anyio.to_thread.run_sync(look)
        except LabError as error:
            self.get_flow_run_logger(flow_run).error("%s", error)
            await self.client.set_flow_run_state(flow_run.id, Failed(message=str(error)), force=True)
            if task_status is not None:
                task_status.started(os.getpid())
            return ProcessWorkerResult(status_code=0, identifier="refused")
        theirs = {name: value for name, value in configuration.env.items() if not name.startswith("LAB_")}
        own = {name: value for name, value in os.environ.items() if name.startswith("LAB_")}
        configuration.env = theirs | own | settings.lab_environment() | {code.FOLDER: str(folder), "PYTHONPATH": str(folder)}
        return await super().run(flow_run, configuration, task_status)


def main(pool: str, name: str, limit: str) -> None:
    """Work until stopped."""
    asyncio.run(LabWorker(work_pool_name=pool, name=name, limit=int(limit)).start())


if __name__ == "__main__":
    main(*sys.argv[1:])
