"""The launcher's own promises, without a group: what it started does not outlive it."""

import subprocess
import sys
import time

import psutil

RANK = "import time; from components.training import elastic; elastic.end_with_launcher(); print('ready', flush=True); time.sleep(600)"
LAUNCHER = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE); "
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
)


def test_a_process_ends_when_its_launcher_is_killed():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], stdout=subprocess.PIPE)
    with launcher:
        rank = psutil.Process(int(launcher.stdout.readline()))
        assert rank.is_running()
        launcher.kill()
    try:
        end = time.monotonic() + 30
        while rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
            time.sleep(0.1)
        assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE
    finally:
        if rank.is_running():
            rank.kill()
