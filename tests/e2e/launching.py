"""Launchers, which start several processes as a user does (without one: see forked.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # Port 0: any that is free.
    "accelerate": [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ],
}


def launch(folder: Path, *arguments: str | Path, launcher: str = "torchrun") -> subprocess.CompletedProcess[str]:
    """A launcher with two processes on the CPU, in `folder`. arguments: a script with its own, or `-m` and a module's name."""
    command = [sys.executable, *LAUNCHERS[launcher], *map(str, arguments)]
    with tempfile.TemporaryDirectory() as temporary:  # where torchrun leaves folders of its own
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": temporary}
        return run_whole(command, folder, environment, 240)


def run_whole(command: list[str], folder: Path, environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A program to its end. Where it takes longer, all that it started is ended with it: a launcher's processes would go on."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        # Whether or not the first of them has ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
