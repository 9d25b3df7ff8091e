"""`python -m benchmarks [NAME …]`: run them and print one table."""

from __future__ import annotations

import argparse
import importlib
import os

NAMES = ("loop", "start", "recording", "click", "threads", "sweeps", "ways", "stacked", "recurrent", "transformers", "detection")


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios against named references, from one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)} (default: all)")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    from flows.child import WAITING

    os.environ |= {**WAITING, **os.environ}  # as in the trainer; it is read when torch is loaded
    from benchmarks.report import machine, table

    print(machine(), flush=True)
    rows = []
    for name in names:
        print(f"{name} …", flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").measure()
    print(f"\n{table(rows)}\n\n{machine()}")


if __name__ == "__main__":
    main()
