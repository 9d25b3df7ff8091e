"""infra/backup and infra/restore against a real PostgreSQL: all three databases, nothing overwritten, nothing torn put back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest

from components.errors import RunError
from flows.lab import postgres
from flows.lab.settings import Settings

pytestmark = postgresql.needs_postgresql
INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A lab with one table in each of its databases."""
    folder = tmp_path_factory.mktemp("backup")
    (folder / "secret").write_text(f"{postgresql.PASSWORD}\n")
    with postgresql.server() as port:
        url = f"postgresql+psycopg://lab@127.0.0.1:{port}/the-lab"
        settings = Settings(folder / "home", database=url, password_file=folder / "secret")
        with postgres.prepared(url, settings.password_file, lambda _: None):
            for part in postgres.PARTS:
                with postgres.connect(postgres.address(url, part, settings.password_file)) as connection:
                    connection.execute("CREATE TABLE t (id serial PRIMARY KEY, what text NOT NULL)")
                    connection.execute("INSERT INTO t (what) VALUES (%s), ('한글')", [f"of {part}"])
        yield settings


def run(script: str, folder: Path, settings: Settings) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "PG"))}
    given = kept | settings.lab_environment() | {"PATH": f"{postgresql.PROGRAMS[-1]}:{os.environ['PATH']}"}
    return subprocess.run([INFRA / script, folder], env=given, capture_output=True, text=True, check=False)


def test_a_backup_comes_back_whole_and_overwrites_nothing(lab: Settings, tmp_path: Path) -> None:
    done = run("backup", tmp_path / "saved", lab)
    assert done.returncode == 0, done.stderr
    [saved] = (tmp_path / "saved").iterdir()
    assert done.stdout == f"{saved}\n"
    assert sorted(file.name for file in saved.iterdir()) == [".dump", "SHA256SUMS", "_mlflow.dump", "_prefect.dump"]
    assert saved.stat().st_mode & 0o077 == 0, "it holds everything, hashed passwords too"

    refused = run("restore", saved, lab)
    assert (refused.returncode, refused.stderr) == (1, "the database the-lab exists already; nothing was changed\n")

    back = Settings(lab.home, database=f"{lab.database}-back", password_file=lab.password_file)
    restored = run("restore", saved, back)
    assert restored.returncode == 0, restored.stderr
    for part in postgres.PARTS:
        with postgres.connect(postgres.address(str(back.database), part, back.password_file)) as connection:
            connection.execute("INSERT INTO t (what) VALUES ('new')")  # its numbers go on
            assert connection.execute("SELECT id, what FROM t ORDER BY 1").fetchall() == [(1, f"of {part}"), (2, "한글"), (3, "new")]

    (saved / ".dump").write_bytes(b"torn")
    elsewhere = Settings(lab.home, database=f"{lab.database}-elsewhere", password_file=lab.password_file)
    torn = run("restore", saved, elsewhere)
    assert torn.returncode == 1
    assert ".dump: FAILED" in torn.stdout
    assert postgres.missing(str(elsewhere.database), elsewhere.password_file) == [
        "the-lab-elsewhere",
        "the-lab-elsewhere_prefect",
        "the-lab-elsewhere_mlflow",
    ]

    (saved / "_mlflow.dump").write_bytes((saved / "_mlflow.dump").read_bytes()[:100])
    (saved / ".dump").write_bytes((saved / "_prefect.dump").read_bytes())
    sums = subprocess.run(
        ["sha256sum", "--", *sorted(file.name for file in saved.glob("*dump"))], cwd=saved, capture_output=True, check=True
    )
    (saved / "SHA256SUMS").write_bytes(sums.stdout)
    (tmp_path / "back").symlink_to(INFRA / "restore")
    halved = run(str(tmp_path / "back"), saved, elsewhere)
    assert halved.returncode == 1
    assert halved.stderr.endswith("nothing was restored\n")
    assert len(postgres.missing(str(elsewhere.database), elsewhere.password_file)) == 3, "the two that had come back went again"


def test_scripts_without_a_database_say_which_variable_is_missing(lab: Settings, tmp_path: Path) -> None:
    for script in ("backup", "restore"):
        done = run(script, tmp_path, Settings(lab.home))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "LAB_DATABASE_URL names no database; it has to be postgresql+psycopg://user@host/database\n"


def test_a_database_with_another_encoding_is_refused(lab: Settings) -> None:
    url = f"{lab.database}-ascii"
    with postgres.connect(postgres.address(str(lab.database), "", lab.password_file)) as connection:
        connection.execute("CREATE DATABASE \"the-lab-ascii\" ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(RunError, match=r"the database the-lab-ascii has the encoding SQL_ASCII; drop it while it is empty"):  # noqa: SIM117
        with postgres.prepared(url, lab.password_file, lambda _: None):
            raise AssertionError("it was taken")


def test_a_backup_that_cannot_be_whole_is_none(lab: Settings, tmp_path: Path) -> None:
    nowhere = Settings(lab.home, database=f"{lab.database}-nowhere", password_file=lab.password_file)
    done = run("backup", tmp_path / "saved", nowhere)
    assert done.returncode != 0
    assert [file.suffix for file in (tmp_path / "saved").iterdir()] == [".unfinished"]
    assert postgresql.PASSWORD not in done.stderr
