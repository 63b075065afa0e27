"""Reading official checkpoints, which are pickles, without running what else they hold."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor

from vldistill.errors import InputError, read_through
from vldistill.finite import check_weights
from vldistill.models.base.loading import unwrapped
from vldistill.models.base.sharded import read_file


def read_official(source: Path) -> dict[str, Tensor]:
    """The state dict of an official file, wherever in it that is. Nothing is unpickled but tensors, plain containers, a trainer's
    arguments and NumPy's numbers; what else of its own a known trainer has put there is read as an empty dict or a plain one."""
    if not source.is_file():
        raise InputError("no such file", where=str(source), hint="fetch the official checkpoint")
    if source.suffix == ".safetensors":
        content = read_file(source)
        check_weights(content, str(source))
        return unwrapped(content)
    read_through(source)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_numpy_numbers(), *_trainer_objects()]):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or forbidden pickle makes of the reader
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"holds {refused[1]}, which is not read" if refused else "is broken or no checkpoint"
        raise InputError(reason, where=str(source), hint="an official checkpoint is expected") from None
    for key in ("model_state", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError("holds no table of tensors", where=str(source), hint="an official checkpoint is expected")
    check_weights(content, str(source))
    return unwrapped(content)


def current_name(name: str) -> str:
    """A weight's name, where an old BERT calls a norm's weight and bias gamma and beta.

    >>> current_name("LayerNorm.gamma"), current_name("dense.bias")
    ('LayerNorm.weight', 'dense.bias')
    """
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


class _PlainDict:
    """Stands for a trainer's class, whose own code is never imported: making one gives a plain dict."""

    def __new__(cls, *_) -> dict:
        return {}


# Of Lightning (hyper-parameters, and callbacks by which it keys their state) and of Sacred, which ViLT's and METER's code use.
_TRAINER_CLASSES = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "sacred.config.custom_containers.ReadOnlyDict",
)


def _trainer_objects() -> list:
    return [(_PlainDict, name) for name in _TRAINER_CLASSES]


def _numpy_numbers() -> list:
    import numpy as np

    kinds = [np.dtype, *{type(np.dtype(kind)) for kind in ("float32", "float64", "int64", "int32", "bool")}]
    scalar = getattr(np, "_core", None) or np.core
    # NumPy has moved it, and files name it by where it was.
    return [*kinds, *((scalar.multiarray.scalar, f"numpy.{home}.multiarray.scalar") for home in ("core", "_core"))]
