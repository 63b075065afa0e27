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


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, *, final: Path | None = None
) -> None:
    """Writes contiguous tensors that share no memory: to a temporary name, flushed to disk, then renamed into place. final: the
    file that messages name, where `path` is not yet in its place. Raises VldistillError where the disk is full."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(final or path, sum(value.nbytes for value in tensors.values())):
        try:
            _save(dict(tensors), temporary, metadata)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    """Raises OSError where its library tells of one in its own words."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
