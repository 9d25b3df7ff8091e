"""`make_secrets.py FOLDER`: every secret of compose.yaml and of the Kubernetes manifests, made once, each readable by its owner only.

postgres_password     of the database's user `lab`
credentials.json      everybody's, for the servers
client.json           for workers and for people's machines: Prefect, and the right to write to MLflow
prefect_password      for Prometheus
"""

import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from flows.lab import access  # it needs the standard library only, so this runs before anything is installed


def make(folder: Path) -> list[str]:
    """Make the files that are missing; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ["credentials.json"] if access.make(folder / "credentials.json") else []
    found = access.required(folder / "credentials.json")
    if not (folder / "client.json").exists():
        access.export(found, "editor", folder / "client.json")
        made.append("client.json")
    for name, content in (("postgres_password", secrets.token_urlsafe(32)), ("prefect_password", found.prefect.password)):
        if not (folder / name).exists():
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, access.OWNER_ONLY), "w") as file:
                file.write(content)
            made.append(name)
    return made


if __name__ == "__main__":
    sys.stdout.write("made " + (", ".join(make(Path(sys.argv[1]))) or "nothing: all are there") + "\n")
