"""`make_secrets.py FOLDER`: every secret of compose.yaml and of the Kubernetes manifests, made once, each readable by its owner only.

postgres_password     of the database's user `lab`
credentials.json      everybody's, for the servers
client.json           for workers and for people's machines: Prefect, and the right to write to MLflow
prefect_password      for Prometheus
reader_password       for Prometheus: of MLflow's user `reader`
s3_credentials        to be filled in where artifacts go to an S3-compatible store; empty of keys until then
"""

import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from flows.lab import access  # it needs the standard library only, so this runs before anything is installed

S3_CREDENTIALS = """# For LAB_ARTIFACTS=s3://bucket/folder; endpoint_url only where the store is not Amazon's own.
[default]
# aws_access_key_id =
# aws_secret_access_key =
# endpoint_url = https://s3.example.org
"""


def make(folder: Path) -> list[str]:
    """Make the files that are missing; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ["credentials.json"] if access.make(folder / "credentials.json") else []
    found = access.required(folder / "credentials.json")
    if not (folder / "client.json").exists():
        access.export(found, "editor", folder / "client.json")
        made.append("client.json")
    if found.reader is None:
        raise SystemExit(f"{folder / 'credentials.json'} is a client's file of credentials: remove it, and it is made for the servers")
    contents = {
        "postgres_password": secrets.token_urlsafe(32),
        "prefect_password": found.prefect.password,
        "reader_password": found.reader.password,
        "s3_credentials": S3_CREDENTIALS,
    }
    for name, content in contents.items():
        if not (folder / name).exists():
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, access.OWNER_ONLY), "w") as file:
                file.write(content)
            made.append(name)
    return made


if __name__ == "__main__":
    sys.stdout.write("made " + (", ".join(make(Path(sys.argv[1]))) or "nothing: all are there") + "\n")
