"""Weights of a model folder in one safetensors file or in several with an index, as the libraries save large models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vldistill.artifacts import file_digest, fingerprint
from vldistill.errors import InputError, first_line, read_through
from vldistill.places import read_regular

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
