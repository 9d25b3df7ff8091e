"""`without_cuda.py requirements.lock`: what the CPU image installs by hash on stdout, and torch's own packages, by version, on stderr."""

import re
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia|cuda)-|triton==")
TORCH = re.compile(r"(torch(?:vision)?==[\w.]+)")


def split(lock: str) -> tuple[str, list[str]]:
    """The requirements of a lock that need no CUDA, and torch's packages without their hashes (those are of the builds with CUDA)."""
    kept, torch = [], []
    for requirement in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE):
        if found := TORCH.match(requirement):
            torch.append(found[1])
        elif not CUDA.match(requirement):
            kept.append(requirement)
    return "".join(kept), torch


if __name__ == "__main__":
    locked, torch = split(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write(locked)
    sys.stderr.write("\n".join(torch) + "\n")
