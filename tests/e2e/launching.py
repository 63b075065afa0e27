"""Launchers, which start several processes as a user does (without one: see forked.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # Port 0: any that is free.
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"],
}


def launch(folder: Path, *arguments: str | Path, launcher: str = "torchrun") -> subprocess.CompletedProcess[str]:
    """A launcher with two processes on the CPU, in `folder`. arguments: a script with its own, or `-m` and a module's name."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *LAUNCHERS[launcher], *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
