"""`lab` itself: quick, one line an error, exit codes, and JSON as the only line on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab_processes import stand_in
from typer import Exit

from components.errors import DataError
from flows import cli
from flows.commands.output import Output
from flows.lab import doctor, servers
from flows.lab.doctor import Finding

HEAVY = (
    "torch",
    "prefect",
    "mlflow",
    "hydra",
    "omegaconf",
    "optuna",
    "sqlalchemy",
    "pydantic",
    "httpx",
    "psutil",
    "rich",
    "yaml",
    "numpy",
    "asyncio",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    monkeypatch.setenv("LAB_PREFECT_PORT", "40001")
    monkeypatch.setenv("LAB_MLFLOW_PORT", "40002")
    return tmp_path / "lab"


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from flows import cli
code = cli.run(["--help"])
print([name for name in {HEAVY} if name in sys.modules], code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    for command in ("up", "down", "status", "doctor", "list"):
        assert f"\n  {command} " in done.stdout


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert capsys.readouterr().out.startswith("Usage: lab [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statu"], "lab: No such command 'statu'. Did you mean 'status'?"),
        (["status", "--verbos"], "lab: No such option: --verbos"),
        (["up", "--timeout", "soon"], "lab: Invalid value for '--timeout': "),
        (["list", "modls"], "lab: there are no 'modls' to list; choose from experiments, models, "),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_bad_setting_is_one_line_and_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LAB_WORKERS", "many")
    assert cli.run(["status", "--json"]) == 2
    out, err = capsys.readouterr()
    message = "LAB_WORKERS is 'many'; it has to be a whole number from 1 to 1000"
    assert err == f"lab: {message}\n"
    assert json.loads(out) == {"error": message, "exit_code": 2}


def test_a_failure_is_code_1_and_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> None:
        raise DataError("the data is gone")

    def is_wrong(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(servers, "down", fails)
    assert cli.run(["down"]) == 1
    assert capsys.readouterr().err == "lab: the data is gone\n"
    monkeypatch.setattr(servers, "down", is_wrong)
    with pytest.raises(ZeroDivisionError):
        cli.run(["down"])


def test_ctrl_c_is_code_1_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(servers, "down", interrupted)
    assert cli.run(["down"]) == 1
    assert capsys.readouterr().err == "lab: stopped\n"


def test_the_installed_command_exits_with_the_code() -> None:
    lab = Path(sys.executable).with_name("lab")
    done = subprocess.run([lab, "list", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_list_shows_every_choice_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "optimizers"]) == 0
    text = capsys.readouterr().out
    assert " adam " in text
    assert "RMSprop with momentum" in text
    assert cli.run(["list", "optimizer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["optimizers"]
    assert {"adam", "momentum", "gradient_descent"} <= {choice["name"] for choice in found["optimizers"]}
    assert all(choice["description"] for choice in found["optimizers"])


def test_list_without_a_kind_shows_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "--json"]) == 0
    kinds = "experiments models data optimizers activations initializers schedules objectives trainers searches"
    assert list(json.loads(capsys.readouterr().out)) == kinds.split()


def test_status_without_a_lab(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status"]) == 0
    assert capsys.readouterr().out.count("stopped") == 3
    assert cli.run(["status", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out)["running"] is False
    assert err.count("stopped") == 3, "with --json the text for people goes to stderr"


def test_down_without_a_lab_says_so_and_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["down"]) == 0
    assert capsys.readouterr().out == "the lab was not running\n"
    assert cli.run(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] is False


def test_a_second_up_says_so_and_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in(home):
        assert cli.run(["up"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[0] == "the lab is already running; nothing was changed"
        assert "http://127.0.0.1:40001" in out
        assert cli.run(["up", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["started"] is False


def test_doctor_fails_when_something_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("ok", "disk", "room"), Finding("warn", "clock", "late", "set it")]
    monkeypatch.setattr(doctor, "examine", lambda _settings: findings)
    assert cli.run(["doctor"]) == 0
    assert capsys.readouterr().out == "ok    disk: room\nwarn  clock: late\n      → set it\n"
    findings.append(Finding("fail", "python", "too old"))
    assert cli.run(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["findings"][1] == {"level": "warn", "check": "clock", "found": "late", "mend": "set it"}


def test_what_people_are_told_carries_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.stream(["one\n\x1b", "[31mtwo\t\x9b\x7f"])
    output.say("\x07\r é אב")
    output.table(["a"], [["\x1b[2J\nb"]])
    with pytest.raises(Exit):
        output.fail("no \x1b")
    shown = capsys.readouterr()
    assert shown.out.startswith("one\n\\x1b[31mtwo\t\\x9b\\x7f\n\\x07\\r é אב\n")
    assert [line.strip() for line in shown.out.splitlines()[-3:-1]] == [r"\x1b[2J", "b"]
    assert shown.err == "lab: no \\x1b\n"
    assert cli.run(["predict\x1b"]) == 2
    assert "\x1b" not in capsys.readouterr().err
