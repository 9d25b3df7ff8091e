"""Plays `infra/compose.yaml` where no engine is: each service as a machine of its own that sees this one's files as its image.

It may write to its volumes and to what is thrown away with it. Files and commands are the image's (`/opt/lab`, `/opt/lecture-lab`), and so
are the user, the rights that it has not, secrets, order and health checks. What builds the image (`infra/Dockerfile`) is not tried.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgresql
from machines import Machine, network
from prefect_runs import until

ROOT = Path(__file__).parents[2]
POSTGRES_IMAGE = """
data=/var/lib/postgresql/data
install -d -o postgres "$data" /var/run/postgresql
install -m 600 -o postgres "$POSTGRES_PASSWORD_FILE" /tmp/password
[ -e "$data/PG_VERSION" ] || {
  runuser -u postgres -- "$PROGRAMS/initdb" -D "$data" -E UTF8 -U "$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --no-sync
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
}
set -- -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql -c fsync=off
exec runuser -u postgres -- "$PROGRAMS/postgres" -D "$data" "$@"
"""
IMAGE = """
set -e
mount -t tmpfs none "$STAGE"; mkdir "$STAGE/upper" "$STAGE/work" "$STAGE/root"
mount -t overlay none -o lowerdir=/,upperdir="$STAGE/upper",workdir="$STAGE/work" "$STAGE/root"
cd "$STAGE/root"
mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs none run; mkdir -m 1777 run/scratch
printf '%s\\n' "$HOSTS" >etc/hosts
for above in $ABOVE; do chmod o+x "./$above"; done
mkdir -p opt/lecture-lab home/lab lab artifacts; chown "$WHO" home/lab lab artifacts
ln -sfn "$VENV" opt/lab
[ -e opt/lecture-lab/pyproject.toml ] || mount --bind "$ROOT" opt/lecture-lab
while IFS=: read -r source target; do
  [ -n "$target" ] || continue
  if [ -d "$source" ]; then mkdir -p "./$target"; else mkdir -p "./${target%/*}"; touch "./$target"; fi
  mount --bind "$source" "./$target"
done <<END
$MOUNTS
END
exec chroot . sh -c 'cd /opt/lecture-lab; trap "kill -TERM \\$child" TERM; "$@" & child=$!; wait "$child"; code=$?
  if kill -0 "$child" 2>/dev/null; then wait "$child"; code=$?; fi; exit "$code"' init "$@"
"""
"""The first process in it passes SIGTERM on, as an engine's `init: true` does."""


@dataclass
class Service:
    """One service: what compose says of it, and where it runs."""

    name: str
    said: dict[str, Any]
    machine: Machine
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def healthy(self) -> bool:
        """Whether its own health check says so."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-3000:]}"
        if self.first() is None:
            return False
        kind, *test = self.said["healthcheck"]["test"]
        words = test if kind == "CMD" else ["sh", "-c", *test]
        return self.enter(words).returncode == 0

    def enter(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """`docker compose exec`: another process in it."""
        inside = [
            "nsenter",
            "--target",
            str(self.first()),
            "--mount",
            "--uts",
            "--pid",
            "--net",
            "--root",
            "--wdns=/opt/lecture-lab",
            *self.user(),
            *words,
        ]
        return subprocess.run(inside, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    def first(self) -> int | None:
        """Its first process, as this machine counts them; None while it is being made."""
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else None

    def user(self) -> list[str]:
        """What takes rights away from a command."""
        return rights(self.environment["WHO"]) if "cap_drop" in self.said else []

    def stop(self, seconds: float) -> int:
        """SIGTERM as an engine sends it; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None and (first := self.first()):
            os.kill(first, signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its namespace of processes goes with it
            return self.process.wait()


def rights(who: str) -> list[str]:
    """`cap_drop: [ALL]`, `no-new-privileges` and the image's user."""
    return ["setpriv", f"--reuid={who}", f"--regid={who}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


@dataclass
class Engine:
    """The services of a compose file, of which those that are asked for run."""

    compose: dict[str, Any]
    folder: Path
    variables: Mapping[str, str]
    machines: dict[str, Machine]
    services: dict[str, Service] = field(default_factory=dict)

    def filled(self, text: str) -> str:
        """`${NAME:-default}` and `${NAME:?said}` as compose puts them in."""

        def value(found: re.Match[str]) -> str:
            name, default = found[1], found[2]
            assert name in self.variables or default is not None, f"{name} is not given"
            return self.variables.get(name, default or "")

        return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", value, text)

    def place(self, volume: str) -> tuple[Path, str]:
        """A volume's folder here, and where it is inside."""
        source, target = self.filled(volume).removesuffix(":ro").split(":")
        if source.startswith("./"):
            return self.folder / source, target
        kept = self.folder / "volumes" / source
        if not kept.exists():
            kept.mkdir(parents=True)
            if source != "database":  # a new volume belongs to whom the image's folder belongs
                os.chown(kept, int(self.variables["LAB_UID"]), int(self.variables["LAB_UID"]))
        return kept, target

    def make(self, name: str, command: Sequence[str] | None = None) -> Service:
        """A service that does what it does, or another `command`."""
        said, who = self.compose["services"][name], self.variables["LAB_UID"]
        mounts = [self.place(each) for each in said.get("volumes", [])]
        for secret in said.get("secrets", []):
            source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
            mounts.append((self.folder / self.compose["secrets"][source]["file"], f"/run/secrets/{target}"))
        given = {key: self.filled(str(value)) for key, value in said.get("environment", {}).items()}
        own = ["sh", "-c", POSTGRES_IMAGE] if name == "postgres" else [*rights(who), *map(self.filled, command or said["command"])]
        stage = self.folder / "stages" / name
        stage.mkdir(parents=True, exist_ok=True)
        image = {
            "PATH": "/opt/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/home/lab",
            "PYTHONUNBUFFERED": "1",
            "LAB_HOME": "/lab",
            "TMPDIR": "/run/scratch",  # /tmp shows what this machine has there
        }
        hosts = "\n".join(["127.0.0.1 localhost", *(f"{machine.address} {host}" for host, machine in self.machines.items())])
        seen = sys.executable, os.path.realpath(sys.executable), ROOT
        playing = {
            "STAGE": str(stage),
            "ROOT": str(ROOT),
            "VENV": sys.prefix,
            "ABOVE": " ".join(sorted({str(above) for file in seen for above in Path(file).parents})),
            "WHO": who,
            "HOSTS": hosts,
            "MOUNTS": "\n".join(f"{source}:{target}" for source, target in mounts),
            "PROGRAMS": str(postgresql.PROGRAMS[-1]),
        }
        machine = self.machines[name]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", IMAGE, "image"]
        return Service(name, said, machine, machine.command(*apart, *own), image | given | playing, self.folder / "logs" / name)

    def run(self, name: str) -> str:
        """`docker compose run`: one that ends; returns what it said."""
        service = self.services[name] = self.make(name)
        service.start()
        assert service.process is not None
        code = service.process.wait(300)
        assert code == 0, f"{name} ended with {code}: {service.log.read_text()[-3000:]}"
        return service.log.read_text()

    def up(self, *names: str) -> None:
        """`docker compose up --detach --wait`: these and what they depend on, in the order and on the conditions that the file states."""
        for name in names:
            if name in self.services:
                continue
            for other, how in self.compose["services"][name].get("depends_on", {}).items():
                assert how["condition"] in ("service_healthy", "service_completed_successfully")
                self.up(other)
            if self.compose["services"][name].get("restart") == "no":
                self.run(name)
                continue
            service = self.services[name] = self.make(name)
            service.start()
            until(service.healthy, 300)

    def down(self) -> dict[str, int]:
        """Stop all, the last that came first; returns exit codes."""
        seconds = {name: float(str(self.compose["services"][name].get("stop_grace_period", "10s")).rstrip("s")) for name in self.services}
        return {name: service.stop(seconds[name]) for name, service in reversed(self.services.items())}


@contextmanager
def engine(compose: dict[str, Any], folder: Path, variables: Mapping[str, str]) -> Iterator[Engine]:
    """Machines for all services of `compose`, whose relative paths are below `folder`, and for one person: `person`."""
    (folder / "logs").mkdir()
    for name in ("secrets", "backups"):
        (folder / name).mkdir()
        shutil.chown(folder / name, int(variables["LAB_UID"]))
    for above in (folder, *folder.parents[:3]):
        above.chmod(0o755)
    wanted = [name for name, service in compose["services"].items() if service.get("profiles", ["secrets"])[0] in ("secrets", "backup")]
    with ExitStack() as stack:
        machines = {machine.host: machine for machine in stack.enter_context(network(*wanted, "person"))}
        public = f"{machines['prefect'].address},{machines['mlflow'].address}"
        playing = Engine(compose, folder, {"LAB_PUBLIC_HOSTS": public, **variables}, machines)
        try:
            yield playing
        finally:
            playing.down()
            for log in sorted((folder / "logs").iterdir()):
                sys.stdout.write(f"--- {log.name}\n{log.read_text()[-4000:]}\n")
