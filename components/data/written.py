"""What a person wrote, on the command line or in a file: read for `lab predict`, and text files that are a data set's source."""

from pathlib import Path

from components.data.durable import sha256_of
from components.errors import DataError, RequestError

LONGEST = 10_000_000
"""Characters of one input; beyond that it is a mistake rather than a text."""


def given_text(given: str) -> str:
    """The text of the file called `given`, where there is one, else `given` itself.

    Raises:
        DataError: there is nothing but white space, it is no UTF-8 text, or far too long.
    """
    path = Path(given).expanduser() if given.strip() and "\n" not in given and len(given) < 4096 else None
    try:
        is_file = path is not None and path.is_file()
    except (OSError, ValueError):  # no file could have such a name
        is_file = False
    text = read_text(path) if path is not None and is_file else given
    if not text.strip():
        raise DataError("there is no text: it is empty")
    if len(text) > LONGEST:
        raise DataError(f"the text has {len(text):,} characters; {LONGEST:,} are the most")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError("the text has bytes that are not UTF-8") from error
    return text


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with line ends as \\n.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,} is not)") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def sha256_of_users(path: str, key: str = "data.path") -> str:
    """SHA-256 of a user's own source file, which the configuration names at `key`.

    Raises:
        RequestError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"{key}: there is no file {file}")
    return sha256_of(file)
