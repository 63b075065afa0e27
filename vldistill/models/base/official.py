"""Reading official checkpoints, which are pickles, without running what else they hold; the names of their answers; and how many
heads of attention they have.

Weights do not tell the heads: 384 numbers may be 6 of 64 or, as in MiniLM and SLIP's small model, 12 of 32. So they are those of
the published models, or a user says them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.records import read_json
from vldistill.errors import InputError, read_through
from vldistill.finite import check_weights
from vldistill.models.base.weights import read_file, unwrapped


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


def read_answers(path: Path) -> list[str]:
    """Names of a VQA head's classes, in order: from a prepared artifact (its folder or its answers.json), a published model's
    config.json (`id2label`), a table by number (ViLT's vqa_dict.json) or of numbers, or a JSON list. Raises InputError where it
    is none of them."""
    content = read_json(path / ANSWERS_FILE if path.is_dir() else path)
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = _numbered(content["id2label"], path)
    elif isinstance(content, dict) and isinstance(content.get("answers"), list):
        content = content["answers"]
    elif isinstance(content, dict) and content and all(key.isascii() and key.isdigit() for key in content):
        content = _numbered(content, path)
    elif isinstance(content, dict) and content and all(type(number) is int for number in content.values()):
        content = _numbered({str(number): name for name, number in content.items()}, path)
    if isinstance(content, list) and None in content:
        raise InputError(f"has no answer {content.index(None)} of 0 to {len(content) - 1}", where=str(path), hint=_WHOLE)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content) or len(set(content)) != len(content):
        raise InputError(
            "does not name each answer once",
            where=str(path),
            hint="a prepared artifact's answers.json, a config.json with id2label, ViLT's vqa_dict.json, or a JSON "
            "list is expected",
        )
    return content


_WHOLE = "fetch the file again: all answers of the checkpoint are expected, in its order"


def _numbered(answers: dict[str, Any], path: Path) -> list[Any]:
    """Answers by their numbers, as a list. Raises InputError naming the first that is missing."""
    missing = [number for number in range(len(answers)) if str(number) not in answers]
    if missing:
        more = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        raise InputError(f"has {len(answers):,} answers, but none of number {missing[0]}{more}", where=str(path), hint=_WHOLE)
    return [answers[str(number)] for number in range(len(answers))]


HEAD_WIDTH = 64
"""Of most published models."""
BERT, CLIP_TEXT, CLIP_IMAGE, SLIP_IMAGE = "bert", "clip text", "clip image", "slip image"
HEADS_OF_WIDTH: dict[str, dict[int, int]] = {
    BERT: {768: 12, 1024: 16},
    CLIP_TEXT: {512: 8, 640: 10, 768: 12, 1024: 16},
    CLIP_IMAGE: {768: 12, 1024: 16},
    SLIP_IMAGE: {384: 12, 768: 12, 1024: 16},
}
"""By kind and width. BERT: base and large (Devlin et al., 2019, section 3), which RoBERTa, ViLT, METER's co-attention and all
students over regions follow. CLIP: tables 19 and 20 of Radford et al. (2021), which DeCLIP and SLIP's text tower follow. SLIP's
images: ViT-S, B and L of its code (Mu et al., 2021), of which the small one has MoCo v3's heads."""


class Stack(NamedTuple):
    """A Transformer of a checkpoint. kind: a key of HEADS_OF_WIDTH."""

    kind: str
    width: int


def heads_of(stacks: dict[str, Stack], given: Sequence[int] | None, source: Path) -> dict[str, int]:
    """Heads of each Transformer, by its name. given: one number for all of them, or one for each in their order; None: the
    published ones. Raises InputError where they are not given and nothing tells them, are not as many, or do not divide a
    width."""
    names = ", ".join(stacks)
    if given is not None and len(given) not in (1, len(stacks)):
        raise InputError(
            f"has {len(stacks)} Transformer(s), --heads {len(given)} numbers",
            where=str(source),
            hint=f"give one number, or one for each of: {names}",
        )
    counts = dict(zip(stacks, [*given] * len(stacks), strict=False)) if given is not None else {}
    if given is None:
        for name, stack in stacks.items():
            if (known := HEADS_OF_WIDTH[stack.kind].get(stack.width)) is not None:
                counts[name] = known
        if unknown := [name for name in stacks if name not in counts]:
            raise _not_told(stacks, unknown, source)
    for name, heads in counts.items():
        if stacks[name].width % heads:
            raise InputError(
                f"{_of(name, stacks)}is {stacks[name].width} wide, which is not a multiple of {heads} heads",
                where=str(source),
                hint="mend --heads",
            )
    return counts


def _not_told(stacks: dict[str, Stack], unknown: list[str], source: Path) -> InputError:
    usual = [HEADS_OF_WIDTH[kind].get(width) or max(width // HEAD_WIDTH, 1) for kind, width in stacks.values()]
    if len(stacks) == 1:
        [(_, width)] = stacks.values()
        message = f"is {width} wide, and does not say how many heads of attention it has"
        hint = f"say it with --heads N, such as {usual[0]} of {width // usual[0]} each"
    else:
        widths = ", ".join(f"{name} is {stacks[name].width} wide" for name in unknown)
        message = f"does not say how many heads of attention its Transformers have: {widths}"
        hint = f"say it with --heads {','.join('N' * len(stacks))} ({', '.join(stacks)}), such as {','.join(map(str, usual))}"
    return InputError(message, where=str(source), hint=hint)


def _of(name: str, stacks: dict[str, Stack]) -> str:
    """The start of a message; a checkpoint with one Transformer is meant itself."""
    return f"its {name} Transformer " if len(stacks) > 1 else ""
