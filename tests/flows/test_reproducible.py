"""What is written down about code and machine."""

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from flows.records import reproducible


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_anything_was_changed(tmp_path: Path) -> None:
    assert reproducible.code(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    assert reproducible.code(tmp_path) == {"commit": None, "dirty": None}
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert reproducible.code(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert reproducible.code(tmp_path) == {"commit": commit, "dirty": True}
    git(tmp_path, "checkout", "-q", "file")
    (tmp_path / "new").write_text("")
    assert reproducible.code(tmp_path) == {"commit": commit, "dirty": True}


def test_a_folder_inside_another_work_tree_is_not_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "first", "--allow-empty")
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert reproducible.code(inside) == {"commit": None, "dirty": None}


def test_versions_are_the_installed_ones() -> None:
    found = reproducible.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert found["mlflow"] == version("mlflow")


def test_requirements_pin_every_package_but_this_one() -> None:
    text = reproducible.requirements({"python": "3.11.7", "torch": "2.14.1", "lecture-lab": "0.1.0", "numpy": "2.4.6"})
    assert text == "# python 3.11.7\nnumpy==2.4.6\ntorch==2.14.1\n"


def test_threads_are_torchs_when_torch_is_there() -> None:
    import torch

    assert reproducible.machine()["threads"] == torch.get_num_threads()


def test_it_is_cheap_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, time; from flows.records import reproducible as r; start = time.perf_counter();"
        "r.code(); r.versions(); r.machine();"
        "print(time.perf_counter() - start, [m for m in ('torch', 'mlflow', 'numpy') if m in sys.modules])"
    )
    start = time.perf_counter()
    seconds, heavy = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 1, f"of {time.perf_counter() - start:.2f} s"
