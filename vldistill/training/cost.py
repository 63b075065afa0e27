"""What a training takes: seconds, memory, and energy where the device tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vldistill.devices import peak_memory

POWERCAP = Path("/sys/class/powercap")
"""Where Linux counts the energy of CPU packages (RAPL); many systems let only root read it."""
_EVERY = 20.0
"""Seconds between two readings: a package's counter begins anew after a quarter of an hour at the earliest."""


@dataclass
class Counter:
    """A counter of joules that only grows, but begins anew at `span`. read: its present value; None where it cannot be read."""

    read: Callable[[], float | None]
    span: float | None = None
    last: float | None = None
    total: float = 0.0

    def update(self) -> None:
        """Adds what has been used since the last reading."""
        now = self.read()
        if now is None:
            return
        if self.last is not None:
            used = now - self.last
            self.total += used if used >= 0 or self.span is None else used + self.span
        self.last = now


def package_counters(root: Path = POWERCAP) -> list[Counter]:
    """One for each CPU package whose counter can be read."""
    counters = []
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") == 1 and _joules(zone / "energy_uj") is not None:  # not the parts of a package
            counters.append(Counter(lambda zone=zone: _joules(zone / "energy_uj"), _joules(zone / "max_energy_range_uj")))
    return counters


def _joules(path: Path) -> float | None:
    try:
        return int(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def gpu_counters(device: torch.device) -> list[Counter]:
    """The GPU's own, through NVIDIA's library, where its Python package (nvidia-ml-py) is installed."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, or a GPU that does not count: each raises its own
        return []
    return [Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]


class CostMeter:
    """Measures from its start on; use as a context manager. counters: of energy; those of the device where None."""

    def __init__(self, device: torch.device, counters: list[Counter] | None = None):
        self._device, self._gpu = device, device.type == "cuda"
        available = gpu_counters(device) if self._gpu else package_counters()
        self._counters = available if counters is None else counters
        self._done, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CostMeter:
        self._start = time.perf_counter()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        self._update()
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def read(self) -> dict[str, Any]:
        """seconds; memory_bytes, the largest of this process; gpu_memory_bytes, the most that torch held; energy_j, with what it
        is of. What is not known is left out."""
        cost: dict[str, Any] = {"seconds": round(time.perf_counter() - self._start, 1), "memory_bytes": peak_memory()}
        if self._gpu:
            cost["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        self._update()
        if self._counters and all(counter.last is not None for counter in self._counters):
            cost |= {
                "energy_j": round(sum(counter.total for counter in self._counters), 1),
                "energy_of": "GPU" if self._gpu else "CPU packages",
            }
        return cost

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._update()

    def _update(self) -> None:
        with self._lock:
            for counter in self._counters:
                counter.update()


def add_costs(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """Of a run that was interrupted: seconds and energy of all its parts together, the largest memory of one."""
    if before is None:
        return now
    total = {**now, "seconds": round(before["seconds"] + now["seconds"], 1)}
    total |= {name: max(before.get(name, 0), now[name]) for name in ("memory_bytes", "gpu_memory_bytes") if name in now}
    if "energy_j" in now and "energy_j" in before:
        total["energy_j"] = round(before["energy_j"] + now["energy_j"], 1)
    elif "energy_j" in now:  # a part is not known, so neither is the whole
        del total["energy_j"], total["energy_of"]
    return total
