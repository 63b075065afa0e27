"""On what a command computes: what is said where the machine has a GPU that torch cannot use (an old driver, an old card, a torch
built without CUDA; training would be silent and a hundred times slower), and where memory runs out, one line with the peak and
what to lower.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.errors import InputError, VldistillError, first_line
from vldistill.terminal import complain

if TYPE_CHECKING:
    import torch

NODES = Path("/dev")
"""Where the driver has a node for each GPU: nvidia0, nvidia1, ..."""
MEND = (
    "update the driver, or install the same torch for an older CUDA: PIP_EXTRA_INDEX_URL=URL bin/setup, with the address "
    "that PyTorch gives for it; or set CUDA_VISIBLE_DEVICES= to compute on the CPU"
)


def compute_device() -> torch.device:
    """The GPU where torch has one, else the CPU, with a warning on standard error where a GPU lies idle. Raises InputError for a
    GPU that this torch has no code for."""
    import torch

    check_card()
    warn_of_gpus()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def warn_of_gpus() -> None:
    """Says on standard error that a GPU lies idle."""
    if (unused := unused_gpu()) is not None:
        complain(f"vldistill: WARNING: {unused}")


def unused_gpu() -> str | None:
    """Why torch does not use a GPU that this process may open, and the mend; None where there is none, it is used, or it is
    hidden on purpose."""
    import torch

    if torch.cuda.is_available() or _is_hidden() or not any(map(_opens, NODES.glob("nvidia[0-9]*"))):
        return None
    reason = "this torch was built without CUDA" if torch.version.cuda is None else _refusal()
    return f"this machine has a GPU that torch cannot use, so all is computed on the CPU: {reason} ({MEND})"


def _is_hidden() -> bool:
    """By the variable: nothing, or a number below zero, first of all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.strip()[:1] in ("", "-")


def _opens(node: Path) -> bool:
    """Whether the GPU is this process's own: a job without one sees the nodes of a cluster's machine, and may not open them."""
    try:
        os.close(os.open(node, os.O_RDWR))
    except OSError:
        return False
    return True


def _refusal() -> str:
    """What torch says of the driver."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return f"it finds no device (CUDA {torch.version.cuda})"


def check_card() -> None:
    """Raises InputError where torch sees a GPU but has no code for it: its first operation would fail."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        capability, built = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
        if not runs_on(capability, built):
            raise InputError(
                f"GPU {number}, {torch.cuda.get_device_name(number)}, has compute capability {capability[0]}."
                f"{capability[1]}, this torch has code for {', '.join(built)}",
                hint="install a torch that has it: PIP_EXTRA_INDEX_URL=URL bin/setup, with the address that PyTorch "
                "gives; or leave it out with CUDA_VISIBLE_DEVICES",
            )


def runs_on(capability: tuple[int, int], built: Iterable[str]) -> bool:
    """Whether code of these names runs on a GPU: "sm_86" on those of its own major number from 8.6 on, "compute_86" (from which
    the driver makes its own) on all from 8.6 on. An "a" at the end is of that number alone, an "f" of its major number. Of no
    names nothing is known.

    >>> runs_on((8, 9), ["sm_80"]), runs_on((7, 0), ["sm_80"]), runs_on((12, 0), ["sm_90"]), runs_on((12, 0), ["compute_90"])
    (True, False, False, True)
    """
    parts = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name).groups() for name in built]
    versions = [(kind, (int(major), int(minor)), only) for kind, major, minor, only in parts]
    return not versions or any(
        own == capability if only == "a" else own <= capability and (own[0] == capability[0] or (kind == "compute" and not only))
        for kind, own, only in versions
    )


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
