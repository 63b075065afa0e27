"""Timing several variants in one process: interleaved rounds after a warm-up, so that a busy machine slows all alike."""

from __future__ import annotations

import gc
import math
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: minimum, median and 95th percentile over the rounds. peak_mb: memory above what was held
    before the call, in MiB, or None where it cannot be read."""

    minimum: float
    p50: float
    p95: float
    peak_mb: float | None


def measure(
    variants: dict[str, Callable[[], object]], *, rounds: int, device: torch.device, memory: bool = True
) -> dict[str, Timing]:
    """Calls every variant once to warm up, then in turn for `rounds` rounds; then once more for memory."""
    for call in variants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    peaks = {name: peak_memory(call, device) if memory else None for name, call in variants.items()}
    return {name: Timing(min(values), statistics.median(values), percentile(values, 95), peaks[name])
            for name, values in seconds.items()}


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 95)
    4.0
    """
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB above what was held before the call: the allocator's on a GPU, resident memory sampled each ms on Linux."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not Path("/proc/self/statm").exists():
        return None
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak[0] - before, 0) / 2**20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
