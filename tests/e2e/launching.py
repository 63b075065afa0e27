"""Starting several processes, as a user does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """torchrun with two processes on the CPU, in `folder`. arguments: a script with its own, or `-m` and a module's name."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launcher, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def start_pair(folder: Path, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """Two processes of one training, as `srun` starts them: each knows its rank, and none watches the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RANK": rank, "LOCAL_RANK": rank,
                       "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(subprocess.Popen([sys.executable, "-m", "vldistill", *map(str, arguments)], cwd=folder, env=environment,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes


def ends_of(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        return [(process.wait(timeout), process.communicate()[1]) for process in processes]
    finally:
        for process in processes:
            process.kill()
