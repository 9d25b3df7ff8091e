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
LOCK = 0x6C6162  # "lab": the advisory lock of whoever makes tables


def checked(given: str) -> str | None:
    """`LAB_DATABASE_URL`; None where nothing is given. RequestError: it is not one; no message holds its password."""
    if not given:
        return None
    example = "it has to be postgresql+psycopg://user@host/database"
    if not given.startswith(f"{SCHEME}://"):
        raise RequestError(f"LAB_DATABASE_URL begins with {given.partition('/')[0]!r}; {example}")
    if not urlsplit(given).path.strip("/"):
        raise RequestError(f"LAB_DATABASE_URL names no database; {example}")
    return given


def address(url: str, part: Part, password_file: Path | None, *, asynchronous: bool = False) -> str:
    """The address of a store's database for SQLAlchemy, with the password of `password_file` in it where there is one.

    Prefect speaks through asyncpg (`asynchronous`), which calls `sslmode` `ssl` and takes no other of libpq's options.

    Raises:
        RequestError: the file cannot be read.
    """
    parts = urlsplit(url)
    scheme, query, place = parts.scheme, parts.query, parts.netloc
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise RequestError(f"LAB_DATABASE_PASSWORD_FILE {password_file} cannot be read: {error.strerror}") from None
        before, _, host = place.rpartition("@")
        place = f"{before.partition(':')[0]}:{quote(password, safe='')}@{host}"
    if asynchronous:
        scheme = "postgresql+asyncpg"
        query = urlencode([("ssl", value) for key, value in parse_qsl(query) if key == "sslmode"])
    return urlunsplit((scheme, place, f"/{database(url, part)}", query, ""))


def database(url: str, part: Part) -> str:
    """The name of a store's database."""
    name = unquote(urlsplit(url).path.strip("/"))
    return f"{name}_{part}" if part else name


def redacted(text: str) -> str:
    """`text` with the password of every address in it left out."""
    return re.sub(r"(\w://[^\s:/@]*):[^\s/]*@", r"\1:…@", text)


def connect(url: str) -> Any:
    """A psycopg connection that commits each statement, to the database of an SQLAlchemy address; closed by its `with`.

    Raises:
        RunError: the server does not answer, or refuses; its password is in no message.
    """
    import psycopg

    try:
        return psycopg.connect(url.replace(f"{SCHEME}://", "postgresql://", 1), autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        said = redacted(" ".join(str(error).split()))
        raise RunError(f"the database {redacted(url.partition('?')[0])} cannot be opened: {said}") from None


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
                said = " ".join(str(error).split())
                owner = urlsplit(url).username or "you"
                raise RunError(f"the database {name} could not be made ({said}); let its administrator make it for {owner}") from None
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
