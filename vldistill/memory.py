"""What is said where memory runs out, on a GPU or on the machine itself: one line with the peak, and what to lower."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vldistill.errors import VldistillError

_TRAIN = (
    "lower train.batch.pairs or train.batch.tokens, with more train.batch.accumulate for the same step; or set "
    "train.gradient_checkpointing=true, train.precision=bf16, a smaller image.size"
)
LOWER = {
    "pretrain": _TRAIN,
    "finetune": _TRAIN,
    "distill": _TRAIN,
    "cache": "lower teachers.batch, or set teachers.precision=fp16 on a GPU, bf16 without one",
    "evaluate": "lower --batch, or pass --precision bf16, or fewer --workers",
    "predict": "lower --batch, or pass fewer --workers",
    "bench": "lower --batch; for the rows of retrieval --images and --texts",
    "index build": "lower --batch",
}
"""What takes a command's memory, and can be less of it."""
_NO_LEVER = "free some memory, or use a machine with more"
_ON_THE_CPU = "; CUDA_VISIBLE_DEVICES= before the command leaves the GPU alone"
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED", "bad_alloc")
"""By torch's allocators, by CUDA and by its libraries, whose errors are a RuntimeError like any other."""
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (\w+)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@contextmanager
def saying_what_to_lower(words: list[str]) -> Iterator[None]:
    """Turns whatever an allocator raises inside into a VldistillError of one line. words: of the command."""
    try:
        yield
    except Exception as error:
        shortage = out_of_memory(error)
        if shortage is None or os.environ.get("VLDISTILL_DEBUG"):
            raise
        raise failure(shortage, words) from None


def out_of_memory(error: BaseException) -> BaseException | None:
    """The error of an allocator: `error` itself, or what it replaces, since a reader calls a file broken whatever was raised in
    it. Not one that it names as its cause, which has been understood."""
    seen: BaseException | None = error
    while seen is not None:
        if _is_of_memory(seen):
            return seen
        seen = seen.__context__ if seen.__cause__ is None else None
    return None


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID))


def failure(error: BaseException, words: list[str]) -> VldistillError:
    """What a person reads: where, the peak and what more was asked for, and what of the command to lower."""
    text = str(error)
    hint = LOWER.get(words[0] if words else "") or LOWER.get(" ".join(words[:2])) or _NO_LEVER
    on_gpu = "CUDA" in text or "CUBLAS" in text or "CUDNN" in text
    place, used, there = _of_gpu(text) if on_gpu else ("this machine", peak_memory(), _machine())
    if on_gpu and hint == _NO_LEVER:
        hint += _ON_THE_CPU
    asked = _ASKED.search(text)
    more = f", {_size(float(asked[1]) * _UNITS.get(asked[2], 1))} more were asked for" if asked else ""
    taken = f": {_size(used)} of {_size(there)} at the peak" if there else ""
    return VldistillError(f"out of memory on {place}{taken}{more}", hint=hint)


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_gpu(text: str) -> tuple[str, int, int]:
    """Name, the most bytes that torch held, and those that the GPU has; no bytes where torch does not know."""
    import torch

    number = int(match[1]) if (match := re.search(r"GPU (\d+)", text)) else 0
    if not torch.cuda.is_available():
        return f"GPU {number}", 0, 0
    own = torch.cuda.get_device_properties(number)
    return f"GPU {number}, {own.name}", torch.cuda.max_memory_allocated(number), own.total_memory


def _size(size: float) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.0f} MiB"
