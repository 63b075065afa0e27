"""Where a network's weights come from: a folder or file on this machine, "random" (for tests and timings), or None for the
published weights that a library knows by the model's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vldistill.errors import DISK_ERRORS, InputError, failed_file, first_line, unreadable

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
