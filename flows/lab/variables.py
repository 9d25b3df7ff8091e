"""What a `LAB_…` variable may hold: each function takes the text and gives the value, or says in one line what is allowed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import RequestError

GIGABYTE = 10**9


def home(given: str, folder: Path) -> Path:
    """LAB_HOME, absolute: as given, else `.lab` of the nearest folder above that has one or is a checkout, else of `folder`."""
    if given:
        found = folder / Path(given).expanduser()
    else:
        base = next((above for above in (folder, *folder.parents) if (above / ".lab").is_dir() or (above / ".git").exists()), folder)
        found = base / ".lab"
    found = Path(os.path.abspath(found))  # noqa: PTH100 — `..` has to go, but symbolic links stay as the person wrote them
    if wrong := [sign for sign in "?#%\n" if sign in str(found)]:
        raise RequestError(f"LAB_HOME {str(found)!r} has {wrong[0]!r} in it, which database addresses cannot hold; choose another folder")
    if found.exists() and not found.is_dir():
        raise RequestError(f"LAB_HOME {str(found)!r} is a file; it has to be a folder")
    return found


def integer(values: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    given = values.get(name, "")
    if not given:
        return default
    if not given.isascii() or not given.isdigit() or not low <= int(given) <= high:
        raise RequestError(f"{name} is {given!r}; it has to be a whole number from {low} to {high}")
    return int(given)


def optional_integer(values: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """The same; None where nothing is given."""
    return integer(values, name, low, low, high) if values.get(name, "") else None


def gigabytes(values: Mapping[str, str], name: str) -> int | None:
    """Bytes, from a number of gigabytes (10⁹) greater than 0; None where nothing is given."""
    given = values.get(name, "")
    if not given:
        return None
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise RequestError(f"{name} is {given!r}; it has to be a number of gigabytes, such as 50 or 0.5")
    return round(number * GIGABYTE)


def address(values: Mapping[str, str], name: str) -> str | None:
    """The http(s) address of a server, without a slash at the end; None where nothing is given."""
    given = values.get(name, "").rstrip("/")
    if not given:
        return None
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise RequestError(f"{name} is {given!r}; it has to be an address like https://host:port{'/api' if 'PREFECT' in name else ''}")
    if parts.username or parts.password:
        raise RequestError(f"{name} has a user or password in it, which everybody would see; keep those in the file LAB_CREDENTIALS")
    return given


def hosts(values: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Host names with commas between them."""
    found = tuple(host.strip() for host in values.get(name, "").split(",") if host.strip())
    for host in found:
        if not host.replace("-", "").replace(".", "").isalnum():
            raise RequestError(f"{name} has {host!r} in it; it has to be host names with commas between them, without http:// and port")
    return found


def mirror(given: str, folder: Path) -> str | None:
    """A folder, absolute, or an http(s) address; None where nothing is given."""
    if not given:
        return None
    if given.startswith(("http://", "https://")):
        return given.rstrip("/")
    if "://" in given:
        raise RequestError(f"LAB_DATA_MIRROR is {given!r}; it has to be a folder or an http(s) address")
    return os.path.abspath(folder / Path(given).expanduser())  # noqa: PTH100 — as for LAB_HOME


def artifacts(given: str, folder: Path) -> str | None:
    """A folder, absolute, or the address of an artifact store that MLflow knows (`s3://bucket/lab`); None where nothing is given."""
    if not given or "://" in given:
        return given.rstrip("/") or None
    return os.path.abspath(folder / Path(given).expanduser())  # noqa: PTH100 — as for LAB_HOME


def file(given: str, folder: Path) -> Path | None:
    """A file's path, absolute; None where nothing is given."""
    return Path(os.path.abspath(folder / Path(given).expanduser())) if given else None  # noqa: PTH100 — as for LAB_HOME


def no_proxy(*own: str) -> str:
    """NO_PROXY with the lab's own hosts."""
    given = [host for host in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if host]
    return ",".join([*given, *(host for host in own if host not in given)])
