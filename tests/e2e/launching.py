"""Starting several processes, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def launch(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """torchrun with two processes on the CPU, in `folder`. arguments: a script with its own, or `-m` and a module's name."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launcher, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
