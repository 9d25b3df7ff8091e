"""Data that come from one file of the user's: known by what is in it, wherever it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from components.data.written import sha256_of_users


@dataclass(frozen=True, kw_only=True)
class UsersFile:
    """What all of them share.

    Attributes:
        path: the file.
    """

    path: str

    name: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """Every setting, for a recipe."""
        return asdict(self)

    def recipe(self) -> dict[str, Any]:
        """The file's hash and every setting but where it is; RequestError when there is no such file."""
        settings = {key: value for key, value in self.settings().items() if key != "path"}
        return {"name": self.name, "format": 1, "sources": [sha256_of_users(self.path)], **settings}
