"""The command `lab` for tests: in this process, which spares its imports, or as a process of its own that can be sent signals."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainings import environment

from flows import cli
from flows.lab.settings import Settings

LAB = Path(sys.executable).with_name("lab")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that is all there is on stdout."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def lab(settings: Settings, *arguments: str) -> Done:
    """Run `lab` with these arguments here."""
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, environment(settings), clear=True), redirect_stdout(out), redirect_stderr(err):
        code = cli.run(arguments)
    sys.stdout.write(f"$ lab {' '.join(arguments)}\n{err.getvalue()}{out.getvalue()}")  # shown when a test fails
    return Done(code, out.getvalue(), err.getvalue())


def start(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    """`lab` with these arguments as a process of its own, in a group of its own like a command in a terminal."""
    return subprocess.Popen(
        [LAB, *arguments],
        env=environment(settings),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
