"""What processes that read images need of the machine: room in /dev/shm, through which batches come, and open files, of which
every tensor on its way is one. Where there is too little, torch's loader waits for a batch that will never come."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from vldistill.errors import VldistillError

SHARED = Path("/dev/shm")
PREFETCH = 2
"""Batches that a worker makes ahead (torch's own number)."""
_OWN_FILES = 16  # of a worker: its queues and pipes
_FEWER = "set data.workers lower, or to 0"


def shared_free() -> int | None:
    """Bytes free in /dev/shm; None where there is none."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def raised_files() -> int:
    """How many files this process may have open, once it is as many as its user may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # what there is has to do
    return soft if soft != resource.RLIM_INFINITY else 2**63 - 1


def check_room(batch: Any, pairs: int, workers: int) -> None:
    """Raises VldistillError where the batches of `workers` on their way have no room. batch: one of a single pair, which stands
    for `pairs` of them."""
    held = list(_tensors(batch))
    ahead = PREFETCH * workers
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    need = sum(value.nbytes for value in held) * pairs * ahead * here
    free = shared_free()
    if free is not None and free < need:
        raise VldistillError(
            f"has {free / 2**20:,.0f} MiB free; {workers} worker(s) with batches of {pairs} on their way need about "
            f"{need / 2**20:,.0f}",
            where=str(SHARED),
            hint=f"{_FEWER}, or give it more room (docker, the option shm-size)",
        )
    files = raised_files()
    need = sum(1 for _ in Path("/proc/self/fd").iterdir()) + len(held) * (ahead + PREFETCH) + _OWN_FILES * workers
    if files < need:
        raise VldistillError(
            f"{files} files may be open (ulimit -n); {workers} worker(s) need about {need}",
            where="this process",
            hint=f"{_FEWER}, or raise the limit with ulimit -n {max(4096, need)}",
        )


def limits_now() -> str:
    """For messages."""
    free = shared_free()
    shared = "no /dev/shm" if free is None else f"/dev/shm has {free / 2**20:,.0f} MiB free"
    return f"{shared}, ulimit -n is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
    elif type(value).__module__.startswith("vldistill."):
        for part in vars(value).values():
            yield from _tensors(part)
