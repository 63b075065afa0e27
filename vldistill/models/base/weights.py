"""Weights on disk: safetensors files, whole or in several with an index as the libraries save large models; and where a
library's network takes its own from: a folder or file on this machine, "random" (for tests and timings), or None for the
published ones."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vldistill.artifacts import file_digest, fingerprint
from vldistill.errors import DISK_ERRORS, InputError, failed_file, first_line, read_through, unreadable, writing
from vldistill.places import read_regular

RANDOM = "random"
_WRAPPERS = ("module.", "_orig_mod.")
FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
PREFETCH = "where there is a network: vldistill cache --recipe R --prefetch; or give a local folder"
_SEED = 0


def unwrapped(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights without the prefix that a training wrapper (DataParallel, torch.compile) put before all of their names."""
    while prefix := next((one for one in _WRAPPERS if weights and all(name.startswith(one) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def weights_file(source: Path) -> Path:
    """The file itself, or the one of a folder. Raises InputError where there is none."""
    if source.is_file():
        return source
    for name in FILES:
        if (source / name).is_file():
            return source / name
    raise InputError(f"holds none of {', '.join(FILES)}", where=str(source), hint="give a folder with the model's weights")


@contextmanager
def fixed_random() -> Iterator[None]:
    """Weights drawn inside are always the same, and the caller's generator does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


def fetched(make: Callable[[], Any], name: str, hint: str = PREFETCH) -> Any:
    """What `make` loads. Raises InputError for whatever the hub or a library makes of weights that cannot be had."""
    try:
        return make()
    except InputError:
        raise
    except OSError as error:
        failed = failed_file(error)
        if failed is not None and error.errno in DISK_ERRORS:
            raise unreadable(failed.name, error) from None
        raise InputError(f"cannot be loaded: {first_line(error)}", where=name, hint=hint) from None
    except Exception as error:  # the hub, safetensors, torch and each library raise their own
        raise InputError(f"cannot be loaded: {first_line(error)}", where=name, hint=hint) from None


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


WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_AGAIN = "fetch or make it again"


def read_file(path: Path) -> dict[str, Tensor]:
    """A safetensors file, on the CPU. Raises InputError where it is broken."""
    try:
        read_through(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"cannot be read: {first_line(error)}", where=str(path), hint=_AGAIN) from None


def read_sharded(folder: Path) -> dict[str, Tensor]:
    """All weights that the folder's index names, each from the file that it names. Raises InputError where a file is missing, or
    holds others than the index says."""
    weights: dict[str, Tensor] = {}
    for name, keys in _shards(folder).items():
        shard = read_file(folder / name)
        if shard.keys() != keys:
            faults = [f"lacks {key}" for key in sorted(keys - shard.keys())] + [f"holds {key}" for key in shard.keys() - keys]
            raise InputError(
                f"is not what {INDEX} says: {faults[0]}" + (f", and {len(faults) - 1} more" if faults[1:] else ""),
                where=str(folder / name),
                hint=_AGAIN,
            )
        weights |= shard
    return weights


def digest_of_weights(folder: Path, digest: Callable[[Path], str] = file_digest) -> str | None:
    """What identifies a folder's weights, in one file or in several; None where there are none in safetensors. digest: of a
    file."""
    if (folder / WHOLE).exists():
        return digest(folder / WHOLE)
    if (folder / INDEX).exists():
        return fingerprint({name: digest(folder / name) for name in _shards(folder)})
    return None


def _shards(folder: Path) -> dict[str, set[str]]:
    """The files that the index names, with the weights in each. Raises InputError where it names none, or what is no file of the
    folder."""
    path = folder / INDEX
    try:
        index = json.loads(read_regular(path))["weight_map"]
        shards: dict[str, set[str]] = {}
        for key, name in index.items():
            shards.setdefault(name, set()).add(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("is no index of weights", where=str(path), hint=_AGAIN) from None
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"names {name[:80]!r}, which is no file beside it", where=str(path), hint=_AGAIN)
        if not (folder / name).is_file():
            raise InputError(f"no such file, and {INDEX} names it", where=str(folder / name), hint=_AGAIN)
    if not shards:
        raise InputError("names no weights", where=str(path), hint=_AGAIN)
    return dict(sorted(shards.items()))
