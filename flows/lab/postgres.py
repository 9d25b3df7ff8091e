"""One PostgreSQL address and what is made of it: a database for each of the stores, and addresses that may be shown.

Each store has a database of its own, because Prefect, MLflow and Optuna all keep their migrations in a table `alembic_version`. The
lab's own tables and Optuna's are in the database that `LAB_DATABASE_URL` names; `NAME_prefect` and `NAME_mlflow` are beside it.
Standard library only, but for what connects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from components.errors import RequestError, RunError

SCHEME = "postgresql+psycopg"
Part = Literal["", "prefect", "mlflow"]
PARTS: tuple[Part, ...] = ("", "prefect", "mlflow")
LOGIN = re.compile(r"(?:[^\s/?#@%\[\]]|%(?!00)[0-9a-fA-F]{2})*")
"""A user and a password as all drivers read them in an address."""
NAME = re.compile(r"[\w.-]+")
LOCK = 0x6C6162  # "lab": the advisory lock of whoever makes tables


def checked(given: str) -> str | None:
    """`LAB_DATABASE_URL`; None where nothing is given. RequestError: it is not one; no message holds its password."""
    if not given:
        return None
    example = "it has to be postgresql+psycopg://user@host/database"
    scheme, separator, rest = given.partition("://")
    if f"{scheme}{separator}" != f"{SCHEME}://":
        raise RequestError(f"LAB_DATABASE_URL begins with {scheme.partition(':')[0] + ':'!r}; {example}")
    login, at, place = rest.rpartition("@")
    if at and not LOGIN.fullmatch(login):
        raise RequestError(
            "LAB_DATABASE_URL has signs in its user or password that mean something else in an address: write them as % and two digits "
            "(a space is %20, / is %2F, % is %25), or put the password into a file that LAB_DATABASE_PASSWORD_FILE names"
        )
    try:
        parts = urlsplit(f"{scheme}://{place}")
        _ = parts.port  # asked for only to be judged
    except ValueError:
        raise RequestError(f"LAB_DATABASE_URL has a host or a port that cannot be; {example}") from None
    if not parts.path.strip("/"):
        raise RequestError(f"LAB_DATABASE_URL names no database; {example}")
    if not NAME.fullmatch(parts.path.strip("/")) or re.search(r"\s", place):
        raise RequestError(
            "LAB_DATABASE_URL: the name of a database has letters, digits, '.', '_' and '-' only; options follow behind it as ?name=value"
        )
    return given


def address(url: str, part: Part, password_file: Path | None, *, asynchronous: bool = False) -> str:
    """The address of a store's database for SQLAlchemy, with the password of `password_file` in it where there is one.

    Prefect speaks through asyncpg (`asynchronous`), which calls `sslmode` `ssl` and takes no other of libpq's options.

    Raises:
        RequestError: the file cannot be read, or is no text.
    """
    parts = urlsplit(url)
    scheme, query, place = parts.scheme, parts.query, parts.netloc
    if password_file is not None:
        password = _password(password_file)
        before, _, host = place.rpartition("@")
        place = f"{before.partition(':')[0]}:{quote(password, safe='')}@{host}"
    if asynchronous:
        scheme = "postgresql+asyncpg"
        query = urlencode([("ssl", value) for key, value in parse_qsl(query) if key == "sslmode"])
    return urlunsplit((scheme, place, f"/{database(url, part)}", query, ""))


def _password(file: Path) -> str:
    try:
        found = file.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise RequestError(f"LAB_DATABASE_PASSWORD_FILE {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"LAB_DATABASE_PASSWORD_FILE {file} holds no password: it has to be text, in UTF-8") from None
    if "\0" in found:
        raise RequestError(f"LAB_DATABASE_PASSWORD_FILE {file} holds no password: it has to be text, without zeros")
    return found


def database(url: str, part: Part) -> str:
    """The name of a store's database."""
    name = unquote(urlsplit(url).path.strip("/"))
    return f"{name}_{part}" if part else name


def redacted(text: str) -> str:
    """`text` with the password of every address in it left out: all from the `:` behind the user to the last `@`, whatever is in it."""
    without = re.sub(r"(\w://[^:@]*):.*@", r"\1:…@", text, flags=re.DOTALL)
    return re.sub(r"(password=)[^\s&]+", r"\1…", without)


def shown(url: str) -> str:
    """An address for a message: without its password and without its options."""
    return redacted(url).partition("?")[0]


def reason(error: BaseException) -> str:
    """What a driver, or SQLAlchemy for it, said, in one line without a password.

    Psycopg repeats an address that it cannot read, in pieces: such an error has no SQLSTATE, and its text goes to nobody.
    """
    said = getattr(error, "orig", None) or error
    if type(said).__name__ == "ProgrammingError" and getattr(said, "sqlstate", None) is None:
        return "PostgreSQL's client does not take the address; look at LAB_DATABASE_URL, above all behind its '?'"
    return redacted(" ".join(str(said).split()))


def connect(url: str) -> Any:
    """A psycopg connection that commits each statement, to the database of an SQLAlchemy address; closed by its `with`.

    Raises:
        RunError: the server does not answer, or refuses; its password is in no message.
    """
    import psycopg

    try:
        return psycopg.connect(url.replace(f"{SCHEME}://", "postgresql://", 1), autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        raise RunError(f"the database {shown(url)} cannot be opened: {reason(error)}") from None


def missing(url: str, password_file: Path | None) -> list[str]:
    """The databases of the stores that the server does not have. RunError: it does not answer."""
    names = [database(url, part) for part in PARTS]
    with _administration(url, password_file) as connection:
        return _missing(connection, names)


@contextmanager
def prepared(url: str, password_file: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Make those databases that are missing, and hold the turn of making tables in them, over all machines, until the end of the `with`.

    Raises:
        RunError: the server does not answer, the user may not make a database (the message says which one is wanted), or one that is
            there has another encoding than UTF8.
    """
    import psycopg
    from psycopg import sql

    with _administration(url, password_file) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])  # let go with the connection
        for name in _missing(connection, [database(url, part) for part in PARTS]):
            try:
                connection.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name)))
            except psycopg.Error as error:
                owner = urlsplit(url).username or "you"
                raise RunError(
                    f"the database {name} could not be made ({reason(error)}); let its administrator make it for {owner}"
                ) from None
            say(f"made the database {name}")
        _refuse_other_encodings(connection, [database(url, part) for part in PARTS])
        yield


def _administration(url: str, password_file: Path | None) -> Any:
    """A connection to the database `postgres`, which every server has, or where that is closed to this user, to the lab's own."""
    own = address(url, "", password_file)
    try:
        return connect(urlunsplit(urlsplit(own)._replace(path="/postgres")))
    except RunError:
        return connect(own)


def _missing(connection: Any, names: list[str]) -> list[str]:
    found = {name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname = ANY(%s)", [names])}
    return [name for name in names if name not in found]


def _refuse_other_encodings(connection: Any, names: list[str]) -> None:
    query = (
        "SELECT datname, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = ANY(%s) AND pg_encoding_to_char(encoding) <> 'UTF8'"
    )
    for name, encoding in connection.execute(query, [names]):
        raise RunError(f"the database {name} has the encoding {encoding}; drop it while it is empty, and it is made again with UTF8")
