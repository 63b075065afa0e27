"""On what a command computes, and what is said where the machine has a GPU that torch cannot use: an old driver, an old card, a
torch that was built without CUDA. Training would be silent and a hundred times slower."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.errors import InputError, first_line
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
