"""The database's address: what cannot be one is said in one line, and its password is in no message, whatever signs it has."""

from pathlib import Path

import psycopg
import pytest
from lab_command import lab

from components.errors import RequestError, RunError
from flows.lab import postgres
from flows.lab.settings import Settings
from flows.records.store import Store
from flows.search import storage

PLACE = "127.0.0.1:9"  # nothing listens there
SECRETS = ["my secret", "se/cret", "100%zz", "a@secret", "secret?x", "secret#x", "secret%", "secret[", "sec\tret", "%00secret"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("command", ["init-db", "report last"])
def test_an_address_with_raw_signs_in_its_password_is_refused_in_one_line_without_it(secret: str, command: str, tmp_path: Path) -> None:
    done = lab(Settings(tmp_path, database=f"postgresql+psycopg://lab:{secret}@{PLACE}/lab"), *command.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("lab: LAB_DATABASE_URL has signs in its user or password that mean something else in an address: ")
    assert "LAB_DATABASE_PASSWORD_FILE" in done.err
    assert not [part for part in (secret, "secret", "cret@", "zz@") if part in done.err]


@pytest.mark.parametrize("secret", ["secret", "my%20secret", "se%2Fcret", "100%25zz", "s:ecret", "sécret!$&'()*+,;=~"])
@pytest.mark.parametrize("opened", [postgres.connect, Store, lambda url: storage._storage(url, Path("/tmp"))])
def test_a_server_that_does_not_answer_is_named_without_the_password(secret: str, opened: object) -> None:
    url = postgres.checked(f"postgresql+psycopg://lab:{secret}@{PLACE}/lab?connect_timeout=2")
    assert callable(opened)
    with pytest.raises(RunError) as caught:
        opened(url)
    assert f"database postgresql+psycopg://lab:…@{PLACE}/lab cannot be opened: " in str(caught.value)
    assert "refused" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert secret not in str(caught.value)


@pytest.mark.parametrize("opened", [postgres.connect, Store])
def test_what_the_client_says_about_an_address_that_it_cannot_read_is_passed_on_by_nobody(opened: object) -> None:
    assert callable(opened)
    with pytest.raises(RunError) as caught:
        opened(f"postgresql+psycopg://lab:hidden@{PLACE}/lab?passwort=hunter2")
    assert str(caught.value).endswith(
        f"postgresql+psycopg://lab:…@{PLACE}/lab cannot be opened: PostgreSQL's client does not take the address; "
        "look at LAB_DATABASE_URL, above all behind its '?'"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lab:secret@db/lab", "LAB_DATABASE_URL begins with 'lab:'; it has to be postgresql+psycopg://user@host/database"),
        ("postgres://lab:secret@db/lab", "LAB_DATABASE_URL begins with 'postgres:'; it has to be"),
        ("postgresql+psycopg://lab:secret@db", "LAB_DATABASE_URL names no database; it has to be"),
        ("postgresql+psycopg://lab:secret@db/la b;drop", "the name of a database has letters, digits, '.', '_' and '-' only"),
        ("postgresql+psycopg://lab:secret@db/lab/more", "the name of a database has letters, digits, '.', '_' and '-' only"),
        ("postgresql+psycopg://lab:secret@[db/lab", "LAB_DATABASE_URL has a host or a port that cannot be; it has to be"),
        ("postgresql+psycopg://lab:secret@db:port/lab", "LAB_DATABASE_URL has a host or a port that cannot be; it has to be"),
        ("postgresql+psycopg://lab:secret@db:99999/lab", "LAB_DATABASE_URL has a host or a port that cannot be; it has to be"),
    ],
)
def test_what_is_no_address_is_said_without_its_password(given: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        postgres.checked(given)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("secret", ["my secret", "se/cret", "a:b", "a@b", "a\nb"])
def test_an_address_in_a_text_is_shown_up_to_the_user_and_from_the_host_on(secret: str) -> None:
    assert postgres.redacted(f"no postgresql://lab:{secret}@db:5/lab there") == "no postgresql://lab:…@db:5/lab there"
    assert postgres.shown(f"postgresql://lab:{secret}@db/lab?password=p") == "postgresql://lab:…@db/lab"


def test_an_address_without_a_password_is_shown_whole() -> None:
    text = "postgresql+psycopg://lab@db:5433/lab is not there; http://127.0.0.1:5000 is"
    assert postgres.redacted(text) == text
    assert postgres.redacted("postgresql://lab@db/lab?sslmode=require&password=hunter2&x=1") == (
        "postgresql://lab@db/lab?sslmode=require&password=…&x=1"
    )


def test_what_a_server_itself_says_about_a_statement_is_passed_on() -> None:
    assert postgres.reason(psycopg.errors.InsufficientPrivilege("permission denied\nfor schema public")) == (
        "permission denied for schema public"
    )


@pytest.mark.parametrize("content", [b"\xff\xfe\x00secret", b"sec\0ret"])
def test_a_password_file_that_is_no_text_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    settings = Settings(tmp_path / "home", database=f"postgresql+psycopg://lab@{PLACE}/lab", password_file=tmp_path / "file")
    done = lab(settings, "init-db")
    assert done.code == 2
    assert done.err.startswith(f"lab: LAB_DATABASE_PASSWORD_FILE {tmp_path / 'file'} holds no password: it has to be text, ")
    assert done.err.count("\n") == 1
