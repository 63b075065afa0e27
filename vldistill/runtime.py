"""Where and how a run computes: device, precision (and why), seeds, the accelerate set-up, and threads.

OpenMP's threads spin while they wait. Where another process wants a core, the thread that it delays is waited for at every
operation by all the others: with one busy neighbour on two cores a small model's training fell to a twentieth of its speed.
Threads that sleep while they wait cost an idle machine some speed and a busy one little, and a model whose operations are short
is nearly as fast with one thread, which waits for nobody. Both are chosen here, by the size of the model; what the user sets in
the environment wins. `tests/measure/threads.py` has figures.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vldistill.errors import InputError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


@dataclass(frozen=True)
class Precision:
    """name: "fp32", "bf16" or "fp16"; reason: why it was chosen, for the log."""

    name: str
    reason: str


def choose_precision(wanted: str) -> Precision:
    """Resolves "auto": bf16 on a GPU that has it, else fp16 on a GPU, else fp32. Raises InputError for fp16 on a CPU."""
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "fp16" and not cuda:
        raise InputError("train.precision fp16 needs a GPU", hint="set train.precision=bf16 or fp32")
    if wanted == "bf16" and not cuda and not cpu_has_bf16():
        return Precision(wanted, "as the recipe says, but this CPU has no instructions for it: fp32 is many times faster")
    if wanted != "auto":
        return Precision(wanted, "as the recipe says")
    if not cuda:
        return Precision("fp32", "no GPU")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("bf16", f"{torch.cuda.get_device_name()} supports it")
    return Precision("fp16", f"{torch.cuda.get_device_name()} has no bf16")


def cpu_has_bf16() -> bool:
    """Whether bf16 is worth while on this CPU: with AVX2 alone a matrix product takes many times as long as in fp32."""
    import torch

    return torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT", "NO AVX")


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def launched_processes() -> int:
    """How many processes a launcher, or `srun` (see `join_step`), has started together with this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Whether this process is rank 0, before a process group exists."""
    return os.environ.get("RANK", "0") == "0"


LAST_STEP = 0xFFFFFFF0
"""Step numbers from here on are SLURM's own: of a batch script, of an interactive shell, of what watches over the job."""


def is_step_task() -> bool:
    """Whether `srun` started this process as one of several tasks of a step. A batch script and an interactive shell of a job
    know SLURM's names, too, but are no tasks."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < LAST_STEP and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def join_step() -> None:
    """Takes this process's rank from SLURM where `srun` started several, so that no launcher is needed. Ranks that a launcher has
    given are left alone."""
    if "RANK" in os.environ or not is_step_task() or "SLURM_PROCID" not in os.environ:
        return
    tasks = os.environ["SLURM_NTASKS"]
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host()
    # A port of the job's own, since several jobs may share a node.
    os.environ.setdefault("MASTER_PORT", str(10_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"],
        WORLD_SIZE=tasks,
        LOCAL_RANK=os.environ.get("SLURM_LOCALID", "0"),
        LOCAL_WORLD_SIZE=_tasks_here(tasks),
    )


def _tasks_here(tasks: str) -> str:
    """How many of the step's tasks this node has, from SLURM's list for all nodes: "4(x2),3"."""
    listing = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE") or tasks
    counts = []
    for part in listing.split(","):
        count, _, times = part.partition("(x")
        counts += [count] * int(times.rstrip(")") or 1)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    return counts[min(node, len(counts) - 1)]


def _first_host() -> str:
    """The step's first node. Raises InputError where SLURM does not say."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        process = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30, check=True)
        return process.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        raise InputError(
            f"scontrol does not say which nodes {nodes or 'the step'} has", hint="set MASTER_ADDR to the first node's name"
        ) from None


def refuse_unlaunched() -> None:
    """Raises InputError under `srun` with several tasks that know nothing of each other: each would write the same run."""
    if is_step_task() and "RANK" not in os.environ:
        raise InputError(
            f"srun started {os.environ['SLURM_NTASKS']} tasks without ranks",
            hint="start one task a node with: srun torchrun ... -m vldistill ...",
        )


def make_accelerator(
    precision: Precision, accumulate: int, trackers: Sequence[str], folder: Path, *, uses_all_parameters: bool = True
) -> Accelerator:
    """The accelerate set-up of one run. `uses_all_parameters`: see `Objective`. Raises InputError where a tracker is missing,
    or the launcher asks for what a recipe has to."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, ProjectConfiguration

    for plugin in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "").lower() == "true":
            raise InputError(
                f"accelerate's {plugin} set-up is not read",
                where="accelerate launch",
                hint="launch without it; train.fsdp=true shares a large student out over the processes",
            )
    # accelerate only warns about a tracker that is not installed, and then logs nowhere.
    missing = [name for name in trackers if find_spec(name) is None]
    if missing:
        raise InputError(f"train.trackers: {', '.join(missing)} is not installed", hint=f"pip install {' '.join(missing)}")
    # The schedule counts optimiser steps and the loop's own loader ends where it ends, so neither is left to accelerate.
    accumulation = GradientAccumulationPlugin(num_steps=accumulate, adjust_scheduler=False, sync_with_dataloader=False)
    # Without a GPU accelerate joins the processes of a launcher only where the CPU is asked for.
    several_on_cpu = launched_processes() > 1 and not torch.cuda.is_available()
    return Accelerator(
        cpu=several_on_cpu,
        mixed_precision={"fp32": "no"}.get(precision.name, precision.name),
        gradient_accumulation_plugin=accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not uses_all_parameters)],
        log_with=[*trackers] or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
    )


def reduced(accelerator: Accelerator, value: torch.Tensor, how: str) -> torch.Tensor:
    """A tensor's sum or mean over all processes."""
    return cast("torch.Tensor", accelerator.reduce(value, reduction=how))


def device_name(device: torch.device) -> str:
    """A device as a person would name it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores"


POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""By which users say how threads wait, and how many there are."""
SMALL = 1 << 18
"""Width times width times layers, below which one thread is enough."""


def wait_without_spinning() -> None:
    """To be called before torch is loaded, with which OpenMP reads its settings."""
    if not any(name in os.environ for name in POLICY):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@dataclass(frozen=True)
class Threads:
    """count: to compute with. reason: for the log."""

    count: int
    reason: str


def own_cores() -> int:
    """Cores that this process may use: of the machine, of its affinity, and of its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or no limit
        return count


def use_threads(model: Any, before: int | None = None) -> Threads:
    """Chooses for a student (see `choose_threads`), and has torch compute with so many."""
    import torch

    threads = choose_threads(model.width, model.layers, before)
    if torch.get_num_threads() != threads.count:
        torch.set_num_threads(threads.count)
    return threads


def choose_threads(width: int, layers: int, before: int | None = None) -> Threads:
    """For a model of so many features and layers. before: how many a run had that goes on, whose sums would round otherwise."""
    given = next((name for name in COUNT if os.environ.get(name, "").isdigit()), None)
    if given is not None:
        return Threads(max(1, int(os.environ[given])), f"{given} says so")
    if before is not None and before <= own_cores():
        return Threads(before, "as before")
    if width * width * layers < SMALL:
        return Threads(1, "the model is small")
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Threads(max(1, own_cores() // beside), "all cores" if beside == 1 else f"{own_cores()} cores for {beside} processes")
