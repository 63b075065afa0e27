"""Safetensors files, written: what its library says of a disk that is full is said as everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vldistill.errors import writing


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes contiguous tensors that share no memory. Raises VldistillError where the disk is full, leaving no file there."""
    with writing(path, sum(value.nbytes for value in tensors.values())):
        try:
            save_file(dict(tensors), path, metadata=metadata)
        except SafetensorError as error:
            path.unlink(missing_ok=True)
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
