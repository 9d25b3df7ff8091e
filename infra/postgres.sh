# Sourced by backup and restore: LAB_DATABASE_URL as libpq's own variables, so that no password is in a command line.
eval "$(python3 - <<'PYTHON'
import os, shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

parts = urlsplit(os.environ.get("LAB_DATABASE_URL", ""))
file = os.environ.get("LAB_DATABASE_PASSWORD_FILE")
password = Path(file).read_text().rstrip("\n") if file else unquote(parts.password or "")
found = {"PGHOST": parts.hostname, "PGPORT": parts.port or 5432, "PGUSER": parts.username and unquote(parts.username), "PGPASSWORD": password}
for name, value in found.items():
    if value:
        print(f"export {name}={shlex.quote(str(value))}")
print(f"DATABASE={shlex.quote(unquote(parts.path.strip('/')))}")
PYTHON
)"
[ -n "$DATABASE" ] || { echo "LAB_DATABASE_URL names no database; it has to be postgresql+psycopg://user@host/database" >&2; exit 2; }
