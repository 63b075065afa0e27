"""What a call costs: its seconds and memory, measured, and its FLOP by count.

Variants are timed in one process in interleaved rounds after a warm-up, so that a busy machine slows all alike; a measured
speed-up is held against the ratio in FLOP, of which a multiply-add is 2.
"""

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
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.lxmert.model import LxmertConfig
from vldistill.models.vilt.model import EncoderConfig
from vldistill.models.visualbert.model import VisualBertConfig


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


Config = EncoderConfig | RegionBertConfig | VisualBertConfig


def transformer_flops(tokens: int, config: Config) -> float:
    """Forward FLOP of the layers for one sequence (norms, softmax and biases left out)."""
    return config.num_hidden_layers * _layer_flops(tokens, config)


def _layer_flops(tokens: int, config: Config | LxmertConfig) -> float:
    width, inner = config.hidden_size, config.intermediate_size
    return 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width


def patch_flops(patches: int, config: EncoderConfig) -> float:
    """FLOP of projecting the patches of one image."""
    return 2 * patches * 3 * config.patch_size**2 * config.hidden_size


def fusion_flops(tokens: int, patches: int, config: EncoderConfig) -> float:
    """One text-image pair through the fusion encoder, pooler included."""
    return transformer_flops(tokens + patches + 1, config) + patch_flops(patches, config) + 2 * config.hidden_size**2


def image_flops(patches: int, config: EncoderConfig) -> float:
    """One image through the image tower."""
    return transformer_flops(patches + 1, config) + patch_flops(patches, config) + 2 * config.hidden_size**2


def text_flops(tokens: int, config: EncoderConfig) -> float:
    """One text through the text tower."""
    return transformer_flops(tokens, config) + 2 * config.hidden_size**2


def fuse_flops(config: EncoderConfig) -> float:
    """The fusion MLP for one pair: 2D to 2D to D."""
    return 2 * (4 * config.hidden_size**2 + 2 * config.hidden_size**2)


def stream_flops(tokens: int, cells: int, config: RegionBertConfig | VisualBertConfig, *, boxes: int = 0) -> float:
    """One pass of a BERT over a text and regions or cells of a map, their projection and the pooler included. boxes: numbers of a
    box that are projected beside the feature."""
    seen = 2 * cells * (config.region_size + boxes) * config.hidden_size
    return transformer_flops(tokens + cells, config) + seen + 2 * config.hidden_size**2


def lxmert_flops(tokens: int, regions: int, config: LxmertConfig) -> float:
    """One pass of LXMERT. A layer that crosses has attention from each side to the other before a layer of each side's own."""
    width = config.hidden_size
    own = config.l_layers * _layer_flops(tokens, config) + config.r_layers * _layer_flops(regions, config)
    cross = 2 * 4 * width**2 * (tokens + regions) + 2 * 4 * tokens * regions * width
    crossed = config.x_layers * (cross + _layer_flops(tokens, config) + _layer_flops(regions, config))
    seen = 2 * regions * (config.visual_feat_dim + config.visual_pos_dim) * width
    return own + crossed + seen + 2 * width**2


def network_flops(network: nn.Module, height: int, width: int) -> float:
    """One image through a convolutional network, as torch counts it; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to_empty(device="meta").forward_features(torch.empty(1, 3, height, width))
    return counter.get_total_flops()
