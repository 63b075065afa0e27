"""Timing several variants in one process: interleaved rounds after a warm-up, so that a busy machine slows all alike."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch


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
            seconds[name].append(seconds_of(call, device))
    peaks = {name: peak_memory(call, device) if memory else None for name, call in variants.items()}
    return {
        name: Timing(min(values), statistics.median(values), percentile(values, 95), peaks[name])
        for name, values in seconds.items()
    }


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, until the device has done what it asked for."""
    _synchronise(device)
    start = time.perf_counter()
    call()
    _synchronise(device)
    return time.perf_counter() - start


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 95)
    4.0
    """
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB above what was held before the call: the allocator's on a GPU, the kernel's mark of resident memory on Linux; None
    where there is neither."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    _give_back_freed_memory()
    before = _reset_peak()
    if before is None:
        return None
    call()
    return max(_status("VmHWM") - before, 0) / 2**10


def _give_back_freed_memory() -> None:
    """Without it, what the C library kept of earlier calls would hold this one's, which would seem to need nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> int | None:
    """Sets the kernel's mark of the highest resident memory to what is held now, and returns that in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
