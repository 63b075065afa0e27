"""How many threads compute, and how they wait for each other.

OpenMP's threads spin while they wait. Where another process wants a core, the thread that it delays is waited for at every
operation by all the others: with one busy neighbour on two cores a small model's training fell to a twentieth of its speed.
Threads that sleep while they wait cost an idle machine some speed and a busy one little, and a model whose operations are short
is nearly as fast with one thread, which waits for nobody. Both are chosen here, by the size of the model; what the user sets in
the environment wins. `tests/measure/threads.py` has figures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
