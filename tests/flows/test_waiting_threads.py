"""How the trainer's threads wait is the supervisor's default and the person's choice."""

import sys
from pathlib import Path

import pytest

from components.errors import RequestError
from flows import supervise
from flows.lab.settings import Settings

PROGRAM = """#!/bin/sh
read request
echo "{\\"kind\\": \\"error\\", \\"exit\\": 2, \\"message\\": \\"$OMP_WAIT_POLICY\\"}"
"""


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, policy: str
) -> None:
    program = tmp_path / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    training = supervise.Training({"overrides": []}, Settings(tmp_path / "lab"))
    try:
        with pytest.raises(RequestError, match=f"^{policy}$"):
            training.wait()
    finally:
        training.close()
