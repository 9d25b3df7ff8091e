"""Which code a worker runs: its own where the content is the same, a commit's where it has a repository, and no other."""

import shutil
import subprocess
from pathlib import Path

import pytest

from components.errors import RunError
from flows import code


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with one commit that looks like the lab's."""
    root = tmp_path / "checkout"
    for name, text in {"components/a.py": "A = 1\n", "flows/b.py": "B = 1\n", "conf/model/m.yaml": "x: 1\n", "README.md": "r"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root.parent, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


def test_the_version_is_of_what_decides_a_run_and_of_nothing_else(checkout: Path, tmp_path: Path) -> None:
    first = code.of(checkout)
    assert len(first.version) == 16
    assert first.commit is not None
    (checkout / "README.md").write_text("other")
    assert code.of(checkout) == code.Code(first.version, None), "changed files: the commit is not what is here"
    shutil.copytree(checkout, tmp_path / "image", ignore=shutil.ignore_patterns(".git"))
    assert code.of(tmp_path / "image") == code.Code(first.version, None)
    (checkout / "conf/model/m.yaml").write_text("x: 2\n")
    assert code.version(checkout) != first.version
    (checkout / "conf/model/m.yaml").rename(checkout / "conf/model/n.yaml")
    (checkout / "conf/model/n.yaml").write_text("x: 1\n")
    assert code.version(checkout) != first.version, "a name counts as well"


def test_a_deployment_says_it_and_a_worker_reads_it(checkout: Path) -> None:
    environment = code.deployed(checkout)
    assert code.wanted(environment) == code.of(checkout)
    assert environment[code.FOLDER] == str(checkout)
    assert code.wanted({}) is None


def test_the_same_content_is_taken_from_where_the_worker_is(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path / "image", ignore=shutil.ignore_patterns(".git"))
    assert code.find(code.of(checkout), repository=None, cache=tmp_path / "cache", root=tmp_path / "image") == tmp_path / "image"


def test_another_version_is_refused_in_one_line_that_names_both(checkout: Path, tmp_path: Path) -> None:
    wanted = code.of(checkout)
    assert wanted.commit is not None
    image = tmp_path / "image"
    shutil.copytree(checkout, image, ignore=shutil.ignore_patterns(".git"))
    (image / "flows/b.py").write_text("B = 2\n")
    with pytest.raises(RunError) as refused:
        code.find(wanted, repository=None, cache=tmp_path / "cache", root=image)
    said = str(refused.value)
    assert f"has code version {code.version(image)}, and the run is of {wanted.version} (commit {wanted.commit[:10]})" in said
    assert "lab worker --git" in said
    assert "\n" not in said
    with pytest.raises(RunError, match=r"\(in no commit\), which no repository has: commit it"):
        code.find(code.Code(wanted.version), repository=str(checkout), cache=tmp_path / "cache", root=image)


def test_a_commit_is_taken_out_of_the_repository_also_a_later_one(checkout: Path, tmp_path: Path) -> None:
    first = code.of(checkout)
    image, cache = tmp_path / "image", tmp_path / "cache"
    image.mkdir()
    found = code.find(first, repository=str(checkout), cache=cache, root=image)
    assert code.version(found) == first.version
    assert (found / "README.md").read_text() == "r"
    (checkout / "flows/b.py").write_text("B = 3\n")
    git(checkout, "commit", "-qam", "two")
    second = code.of(checkout)
    later = code.find(second, repository=str(checkout), cache=cache, root=image)
    assert (later / "flows/b.py").read_text() == "B = 3\n"
    assert (found / "flows/b.py").read_text() == "B = 1\n"
    assert code.find(first, repository=str(tmp_path / "gone"), cache=cache, root=image) == found, "what is here is not asked for again"


def test_a_commit_that_is_not_what_it_should_be_or_is_nowhere_is_refused(checkout: Path, tmp_path: Path) -> None:
    first = code.of(checkout)
    with pytest.raises(RunError, match=f"but in .* that commit has version {first.version}"):
        code.find(code.Code("0" * 16, first.commit), repository=str(checkout), cache=tmp_path / "cache", root=tmp_path)
    with pytest.raises(RunError, match="which cannot be had from"):
        code.find(code.Code("0" * 16, "f" * 40), repository=str(checkout), cache=tmp_path / "cache", root=tmp_path)
    assert not list((tmp_path / "cache").glob(".*")), "nothing half written is left"
