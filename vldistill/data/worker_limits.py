"""What processes that read images need of the machine: room in /dev/shm, through which batches come, and open files, of which
every tensor on its way is one. Where there is too little, torch's loader waits for a batch that will never come."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from vldistill.errors import VldistillError

SHARED = Path("/dev/shm")
PREFETCH = 2
"""Batches that a worker makes ahead (torch's own number)."""
_IN_HAND = 2
"""Batches that the main process holds: the one that it works on until the next one is there."""
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


@dataclass(frozen=True)
class Need:
    """Of a loader. pairs, bytes, tensors: of its largest batch, in shared memory."""

    workers: int
    pairs: int
    bytes: int
    tensors: int

    @property
    def batches(self) -> int:
        """On their way at once."""
        return PREFETCH * self.workers + _IN_HAND


def need(batch: Any, rows: int, pairs: int, workers: int) -> Need:
    """batch: one of `rows` pairs, on average no smaller than those of a loader's largest batch, which has `pairs`. Each of its
    tensors is a file of whole pages."""
    held, page = list(_tensors(batch)), resource.getpagesize()
    return Need(workers, pairs, sum(-(-value.nbytes * pairs // (rows * page)) * page for value in held), len(held))


def check_room(needs: Sequence[Need]) -> None:
    """Raises VldistillError where batches on their way have no room. needs: of all loaders that live at the same time."""
    if not needs:
        return
    workers, largest = sum(one.workers for one in needs), max(needs, key=lambda one: one.bytes)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = sum(one.bytes * one.batches for one in needs) * here
    free = shared_free()
    if free is not None and free < room:
        raise VldistillError(
            f"has {free / 2**20:,.0f} MiB free; {workers} worker(s) with batches of {largest.pairs} on their way need up to "
            f"{room / 2**20:,.0f}",
            where=str(SHARED),
            hint=f"{_FEWER}, or give it more room (docker, the option shm-size)",
        )
    files = raised_files()
    own = sum(1 for _ in Path("/proc/self/fd").iterdir())
    total = own + sum(one.tensors * one.batches + _OWN_FILES * one.workers for one in needs)
    if files < total:
        raise VldistillError(
            f"{files} files may be open (ulimit -n); {workers} worker(s) need about {total}",
            where="this process",
            hint=f"{_FEWER}, or raise the limit with ulimit -n {max(4096, total)}",
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
