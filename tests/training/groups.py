"""Two processes that train together, for tests: they are started once, and do one thing after the other."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

SIZE = 2


class Pair:
    """Two processes in one group; `together(function, …)` calls it in both and returns what each has to say."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections

    def together(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for connection in self.connections:
            connection.send((function, arguments))
        answers = [connection.recv() for connection in self.connections]
        for error, _ in answers:
            if error:
                raise AssertionError(error)
        return [value for _, value in answers]


@contextmanager
def pair() -> Iterator[Pair]:
    from torch import distributed as dist

    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    channels = [context.Pipe() for _ in range(SIZE)]
    processes = [context.Process(target=_serve, args=(rank, store.port, there)) for rank, (_, there) in enumerate(channels)]
    for process in processes:
        process.start()
    try:
        yield Pair([here for here, _ in channels])
    finally:
        for here, _ in channels:
            here.close()
        for (_, there), process in zip(channels, processes, strict=True):
            there.close()
            process.join(20)
            process.kill()


def _serve(rank: int, port: int, connection: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from torch import distributed as dist

    from components.training.distributed import group

    torch.set_num_threads(1)
    with group(dist.TCPStore("127.0.0.1", port), rank=rank, size=SIZE):
        while True:
            try:
                function, arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send((None, function(*arguments)))
            except Exception:
                connection.send((traceback.format_exc(), None))
