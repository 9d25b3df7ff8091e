"""What a person wrote, on the command line or in a file: read for `lab predict`, and text files that are a data set's source."""

import re
from pathlib import Path

from components.data.durable import sha256_of
from components.errors import DataError, RequestError

LONGEST = 10_000_000
"""Characters of one input; beyond that it is a mistake rather than a text."""

_FILES_NAME = re.compile(r"""[^ <>|"?*]*[^\W\d_][^ <>|"?*]*""")
"""Has a letter, so that 22/11/2026 is a text, and none of the signs in <e1>Oslo</e1>, Who?|||She and JSON."""
_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md")
_LONGEST_NAME = 255
"""Characters; what is longer and has no space in it is rather a text of a script without spaces."""


def given_text(given: str) -> str:
    """The text of the file called `given`, where there is one, else `given` itself.

    Raises:
        RequestError: it looks like a file's name, and there is no such file, or it is a folder.
        DataError: there is nothing but white space, it is no UTF-8 text, or far too long.
    """
    path = Path(given).expanduser() if given.strip() and "\n" not in given and len(given) < 4096 else None
    try:
        is_file, is_folder = (path.is_file(), path.is_dir()) if path is not None else (False, False)
    except (OSError, ValueError):  # no file could have such a name
        path, is_file, is_folder = None, False, False
    if path is not None and not is_file:
        _refuse_path(given, is_folder)
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


def _refuse_path(given: str, is_folder: bool) -> None:
    """Raise RequestError where `given`, which is no file, is a folder with a / in its name or looks like a file's name."""
    if "/" in given and is_folder:
        raise RequestError(f"{given} is a folder; name the files in it (or put a space behind it, if it is the text itself)")
    looks_like_one = ("/" in given or given.lower().endswith(_ENDINGS)) and _FILES_NAME.fullmatch(given)
    if looks_like_one and given.isprintable() and len(given) <= _LONGEST_NAME:
        raise RequestError(f"there is no file {given} (if it is the text itself, put a space behind it)")


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with line ends as \\n.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,} is not)") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def sha256_of_users(path: str, key: str = "data.path") -> str:
    """SHA-256 of a user's own source file, which the configuration names at `key`.

    Raises:
        RequestError: there is no such file, or it cannot be read.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"{key}: there is no file {file}")
    try:
        return sha256_of(file)
    except OSError as error:
        raise RequestError(f"{key}: {file} cannot be read: {error.strerror or error}") from error
