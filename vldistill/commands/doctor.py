"""`vldistill doctor`: what works on this machine."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from vldistill.terminal import say


def doctor() -> None:
    """Say what works on this machine."""
    from rich.text import Text

    marks = {"ok": "green", "note": "yellow", "missing": "red"}
    for mark, subject, finding in findings():
        say(Text.assemble((f"{mark:8}", marks[mark]), f"{subject:12}", finding))


def findings() -> Iterator[tuple[str, str, str]]:
    """(mark, subject, finding) of each check: ok, note or missing, what it is, and what follows."""
    from vldistill.versions import package_versions

    yield "ok", "versions", ", ".join(f"{name} {version}" for name, version in package_versions().items())
    yield from _torch()
    yield from _weights()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield "ok" if free > 10 else "note", "disk", f"{free:.0f} GiB free in {Path.cwd()}"
    yield from _limits()
    if "SLURM_JOB_ID" in os.environ:
        step = "inside a job step" if "SLURM_STEP_ID" in os.environ else "outside any job step"
        yield "ok", "SLURM", f"job {os.environ['SLURM_JOB_ID']}, {step}"
    else:
        sbatch = shutil.which("sbatch")
        yield ("ok", "SLURM", f"sbatch at {sbatch}") if sbatch else ("note", "SLURM", "not here: run stages one after the other")


def _limits() -> Iterator[tuple[str, str, str]]:
    """What processes that read images (data.workers) need."""
    from vldistill.data.loading import shared_free

    shared = shared_free()
    if shared is None:
        yield "note", "/dev/shm", "not here: set data.workers=0"
    else:
        yield "ok" if shared > 2**30 else "note", "/dev/shm", f"{shared / 2**20:,.0f} MiB free, for batches of data.workers"
    for subject, limit, least, option in (
        ("open files", resource.RLIMIT_NOFILE, 4096, "n"),
        ("processes", resource.RLIMIT_NPROC, 1024, "u"),
    ):
        soft, hard = resource.getrlimit(limit)
        enough = hard == resource.RLIM_INFINITY or hard >= least
        yield "ok" if enough else "note", subject, f"{_shown(soft)}, at most {_shown(hard)} (ulimit -{option})"


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _torch() -> Iterator[tuple[str, str, str]]:
    import torch

    from vldistill.devices import MEND, runs_on, unused_gpu

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        yield "missing", "torchvision", f"{reason}; install the torch and torchvision of bin/constraints.txt together"
    else:
        yield "ok", "torchvision", "imports: RandAugment is there"
    yield "ok", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s); OMP_NUM_THREADS sets them"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            usable = runs_on((properties.major, properties.minor), torch.cuda.get_arch_list())
            yield (
                ("ok", f"GPU {index}", gpu)
                if usable
                else (
                    "missing",
                    f"GPU {index}",
                    f"{gpu}: this torch has no code for compute capability {properties.major}.{properties.minor}; {MEND}",
                )
            )
        nccl = torch.distributed.is_nccl_available()
        yield ("ok", "NCCL", ".".join(map(str, torch.cuda.nccl.version()))) if nccl else ("note", "NCCL", "not in this torch")
    elif (unused := unused_gpu()) is not None:
        yield "missing", "GPU", unused
    else:
        yield "note", "GPU", "none visible: training and bench run on the CPU"


def _weights() -> Iterator[tuple[str, str, str]]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        names = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        names = []
    mode = "offline" if constants.HF_HUB_OFFLINE else "online"
    yield "ok" if names else "note", "weights", f"hub {mode}; in the cache: {', '.join(names) or 'no models'}"
