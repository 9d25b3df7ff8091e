"""Stand-ins for the lab's processes: small Python programs that carry the marker, and a Prefect server that answers from a dict."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from flows.lab import processes

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
PROGRAM = """
import os, pathlib, psutil, signal, socket, subprocess, sys, time
here = pathlib.Path.cwd()
{code}
os.write(1, b"ready")
time.sleep(60)
"""


@contextmanager
def stand_in(home: Path, code: str = "", **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the lab in `home` that has run `code` and sleeps; killed at the end. Without variables it counts as the supervisor."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "PREFECT_"))}
    home.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(code=code)],
        env=environment | processes.mark(home) | variables,
        cwd=home,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of `condition`, asked again and again."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


class Asked(list[tuple[str, Any]]):
    """What a server was asked, (path, body) each, and in `headers` with which headers."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []


@contextmanager
def server(answers: dict[str, Any], code: int = 404) -> Iterator[tuple[int, Asked]]:
    """A server that answers `answers[path]` (`code` for other paths); gives its port and what it was asked."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.path, json.loads(self.rfile.read(length)) if length else None))
            asked.headers.append(dict(self.headers))
            found = answers.get(self.path)
            self.send_response(code if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        do_GET = do_POST = do_HEAD = do_PATCH = do_DELETE = answer  # noqa: N815 — the names are http.server's

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield http.server_address[1], asked
        finally:
            http.shutdown()
            thread.join()
