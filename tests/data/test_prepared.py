"""Preparation: found again by its recipe alone, whole or not there, whatever happens on the way."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from components.data.prepared import CARD, fingerprint, open_prepared, prepare
from components.errors import DataError, SourceError
from components.protocols import Batch, DataSet, Fetch


class Words:
    """A split of words."""

    lengths = None

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def batch(self, index: Tensor, generator: object = None) -> Batch:
        return {"words": [self.words[place] for place in index.tolist()], "index": index}


@dataclass
class Letters:
    """The letters of a source as a data set; counts how often it is prepared."""

    seed: int = 0
    prepared: list[Path] = field(default_factory=list)
    fails: Exception | None = None

    name: ClassVar[str] = "letters"

    def recipe(self) -> dict[str, Any]:
        return {"seed": self.seed, "sources": ["abc"]}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        self.prepared.append(into)
        (into / "deep").mkdir()
        (into / "deep" / "letters.txt").write_text(fetch("letters").read_text())
        if self.fails:
            raise self.fails
        return {"source": "a test", "facts": {"classes": 3}}

    def open(self, folder: Path, card: Mapping[str, Any]) -> dict[str, Words]:
        return {"train": Words(list((folder / "deep" / "letters.txt").read_text()))}

    def read(self, given: str, facts: Mapping[str, Any]) -> Batch:
        return {"words": [given]}


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    (tmp_path / "letters").write_text("abc")
    return lambda name: tmp_path / name


def test_letters_is_a_data_set() -> None:
    assert isinstance(Letters(), DataSet)


def test_the_fingerprint_is_of_content_not_of_order() -> None:
    """The pinned value is `printf '{"a":[1,2.5],"b":"\\u00e9"}' | sha256sum`: canonical JSON and nothing else."""
    assert fingerprint({"b": "é", "a": [1, 2.5]}) == fingerprint({"a": [1, 2.5], "b": "é"})
    assert fingerprint({"b": "é", "a": [1, 2.5]}) == PRINTED
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


PRINTED = "60d4fe7d84d09285a774fa6c850ed0e739e0153890529471751ae4df4e1df886"


def test_prepared_once_and_found_again(tmp_path: Path, fetch: Fetch) -> None:
    dataset, root, told = Letters(), tmp_path / "data", []
    first = prepare(dataset, root, fetch, progress=told.append)
    again = prepare(dataset, root, fetch, progress=told.append)
    assert len(dataset.prepared) == 1
    assert [line.split()[0] for line in told] == ["preparing", "prepared"]
    assert first.folder == again.folder == root / "letters" / fingerprint(dataset.recipe())
    assert again.splits["train"].batch(Tensor([2, 0]).long())["words"] == ["c", "a"]
    assert again.facts == {"classes": 3}
    card = json.loads((first.folder / CARD).read_text())
    assert card == first.card == again.card
    assert card["content"] == {"deep/letters.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert card["sizes"] == {"deep/letters.txt": 3}
    assert {"name", "fingerprint", "recipe", "source", "created", "seconds"} <= set(card)
    assert [entry.name for entry in (root / "letters").iterdir()] == [first.fingerprint]


def test_another_recipe_lies_beside_it(tmp_path: Path, fetch: Fetch) -> None:
    one, two = (prepare(Letters(seed), tmp_path / "data", fetch) for seed in (0, 1))
    assert one.folder.parent == two.folder.parent and one.folder != two.folder


@pytest.mark.parametrize("error", [KeyError("ours"), KeyboardInterrupt(), DataError("no source")])
def test_a_failed_preparation_leaves_nothing(tmp_path: Path, fetch: Fetch, error: BaseException) -> None:
    dataset = Letters(fails=error)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        prepare(dataset, tmp_path / "data", fetch)
    assert list((tmp_path / "data" / "letters").iterdir()) == []
    dataset.fails = None
    assert len(prepare(dataset, tmp_path / "data", fetch).splits["train"]) == 3


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, fetch: Fetch) -> None:
    with pytest.raises(DataError, match="no space left"):
        prepare(Letters(fails=OSError(28, "No space left on device")), tmp_path / "data", fetch)
    assert list((tmp_path / "data" / "letters").iterdir()) == []


def test_only_what_is_wrong_with_a_users_own_files_is_a_wrong_request(tmp_path: Path, fetch: Fetch) -> None:
    for error, own, code in (
        (DataError("line 3 is wrong"), True, 2),
        (DataError("line 3 is wrong"), False, 1),
        (SourceError("nobody answers"), True, 1),
        (OSError(28, "No space left on device"), True, 1),
    ):
        dataset = Letters(fails=error)
        if own:
            dataset.path = "mine.txt"  # type: ignore[attr-defined]
        with pytest.raises(DataError) as caught:
            prepare(dataset, tmp_path / "data", fetch)
        assert caught.value.exit_code == code


@pytest.mark.parametrize("damage", ["shorter", "missing", "no card", "card of nothing", "card of another"])
def test_damage_is_found_and_mended(tmp_path: Path, fetch: Fetch, damage: str) -> None:
    dataset, root = Letters(), tmp_path / "data"
    folder = prepare(dataset, root, fetch).folder
    file, card = folder / "deep" / "letters.txt", folder / CARD
    match damage:
        case "shorter":
            file.write_text("ab")
        case "missing":
            file.unlink()
        case "no card":
            card.unlink()
        case "card of nothing":
            card.write_text("[]")
        case "card of another":
            card.write_text(card.read_text().replace(folder.name, "0" * 64))
    with pytest.raises(DataError, match="cannot be used"):
        open_prepared(dataset, root, folder.name)
    assert len(prepare(dataset, root, fetch).splits["train"]) == 3
    assert len(dataset.prepared) == 2
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_hashes_are_compared_on_demand(tmp_path: Path, fetch: Fetch) -> None:
    dataset, root = Letters(), tmp_path / "data"
    prepared = prepare(dataset, root, fetch)
    open_prepared(dataset, root, prepared.fingerprint, verify=True)
    (prepared.folder / "deep" / "letters.txt").write_text("abd")
    assert len(open_prepared(dataset, root, prepared.fingerprint).splits["train"]) == 3
    with pytest.raises(DataError, match=r"letters\.txt has not the content"):
        open_prepared(dataset, root, prepared.fingerprint, verify=True)
    with pytest.raises(DataError, match=r"card\.json is missing"):
        open_prepared(dataset, root, "0" * 64)


def test_of_two_at_once_one_works_and_the_other_waits_for_it(tmp_path: Path, fetch: Fetch) -> None:
    began, waits, times = threading.Event(), threading.Event(), list[int]()

    class Slow(Letters):
        def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
            times.append(1)
            began.set()
            assert waits.wait(30), "the other has come"
            return super().prepare(fetch, into)

    def tell(line: str) -> None:
        if line == "waiting for letters: somebody else is preparing it":
            waits.set()

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(prepare, Slow(), tmp_path / "data", fetch, progress=tell)
        assert began.wait(30)
        two = pool.submit(prepare, Slow(), tmp_path / "data", fetch, progress=tell)
        first, second = one.result(60), two.result(60)
    assert times == [1]
    assert first.folder == second.folder and first.card == second.card
    assert len(first.splits["train"]) == 3
    assert list((tmp_path / "data" / "letters").iterdir()) == [first.folder]


def test_where_nobody_can_wait_the_second_to_finish_takes_the_first(tmp_path: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, flock = threading.Barrier(2), fcntl.flock

    class Slow(Letters):
        def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
            barrier.wait(30)  # both are at work before either is done
            return super().prepare(fetch, into)

    def without_folders(descriptor: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOLCK, "No locks available")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", without_folders)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: prepare(Slow(), tmp_path / "data", fetch), range(2))
    assert one.folder == two.folder and one.card == two.card
    assert list((tmp_path / "data" / "letters").iterdir()) == [one.folder]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_prepared import Letters
from components.data.prepared import prepare
class Dying(Letters):
    def prepare(self, fetch, into):
        super().prepare(fetch, into)
        os.kill(os.getpid(), 9)
prepare(Dying(), Path(sys.argv[1]) / "data", lambda name: Path(sys.argv[1]) / name)
"""


def test_a_killed_preparation_is_cleaned_up_by_the_next(tmp_path: Path, fetch: Fetch) -> None:
    fetch("letters")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), os.path.dirname(__file__)], check=False)  # noqa: PTH120
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "data" / "letters").iterdir()
    assert left.name.startswith(".partial-")
    prepared = prepare(Letters(), tmp_path / "data", fetch)
    assert list((tmp_path / "data" / "letters").iterdir()) == [prepared.folder]
