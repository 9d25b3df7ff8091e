"""Machines of a test's own: network namespaces with nothing between them but a cable, each with a name and an address."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass


def refused() -> str:
    """Why no namespaces can be made here; empty where they can."""
    if not all(map(shutil.which, ("ip", "unshare"))):
        return "ip and unshare are not installed"
    name = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    bridge = subprocess.run(["ip", "link", "add", name[:15], "type", "bridge"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "link", "del", name[:15]], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return f"no bridges are allowed here: {bridge.stderr.strip()}" if bridge.returncode else ""


@dataclass(frozen=True)
class Machine:
    """A namespace with a network of its own, and a host name."""

    namespace: str
    host: str
    address: str

    def command(self, *words: str) -> list[str]:
        """`words`, run on this machine."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {self.host} && exec "$@"', "sh"]
        return ["ip", "netns", "exec", self.namespace, *named, *words]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def network(*hosts: str) -> Iterator[list[Machine]]:
    """Machines on one cable, of which this one holds an end as well."""
    tag, third = secrets.token_hex(3), secrets.randbelow(250) + 1
    bridge, machines = f"br{tag}", []
    with ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"10.213.{third}.254/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for place, host in enumerate(hosts, 1):
            machine = Machine(f"{host}-{tag}", host, f"10.213.{third}.{place}")
            ip("netns", "add", machine.namespace)
            stack.callback(ip, "netns", "del", machine.namespace)
            ip("link", "add", f"v{tag}{place}", "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
            ip("link", "set", f"v{tag}{place}", "master", bridge, "up")
            ip("-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", machine.namespace, "link", "set", device, "up")
            machines.append(machine)
        yield machines
