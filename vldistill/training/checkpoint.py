"""Checkpoints of a run in training: all that decides its next step, each written whole or not at all.

Tensors lie in a safetensors file, everything else in state.json beside it, which holds the file's digest. Dropout is seeded by
step and data are ordered by (seed, epoch), so no generator's state is among them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from vldistill.artifacts import CHECKSUM, file_digest, is_intact, sealed, write_json
from vldistill.errors import InputError, first_line, writing
from vldistill.models.base.weights import save_tensors
from vldistill.places import read_regular
from vldistill.training.sharding import shared_like

FOLDER = "checkpoints"
"""Below a run."""
KEPT = 2
_STATE, _TENSORS = "state.json", "state.safetensors"
_NAME = re.compile(r"step-(\d{8})$")


@dataclass(frozen=True)
class State:
    """Where a run stands after an optimiser step.

    phase: which of its phases, from 0. step: optimiser steps done. micro: forward passes done. epoch, batch: this rank's next
    batch. values: what is plain (best validation, schedule, meter). tensors: by name. run: what the next process has to share
    with this one: number of processes, threads. validates: whether the step's validation is still to come.
    """

    phase: int
    step: int
    micro: int
    epoch: int
    batch: int
    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    run: dict[str, Any]
    validates: bool = False  # a checkpoint of an earlier version does not say

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a name."""
        return {name.removeprefix(f"{prefix}."): value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_state(run: Path, state: State) -> Path:
    """Writes a checkpoint, then removes all but the newest KEPT. A crash leaves the earlier ones and no half of this one.
    Raises VldistillError where the disk is full."""
    parent = run / FOLDER
    parent.mkdir(exist_ok=True)
    target, temporary = parent / f"step-{state.step:08d}", parent / f".step-{state.step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_tensors(temporary / _TENSORS, _apart(state.tensors), final=target / _TENSORS)
        names = ("phase", "step", "micro", "epoch", "batch", "values", "run", "validates")
        plain = {name: getattr(state, name) for name in names}
        write_json(temporary / _STATE, sealed({**plain, "sha256": file_digest(temporary / _TENSORS)}))
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush(parent)
    for _, old in sorted(_found(parent))[:-KEPT]:
        shutil.rmtree(old)
    return target


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU. Tied weights share their memory, which the file format refuses: all but the first are copied."""
    separate, seen = {}, set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if place in seen else value
        seen.add(place)
    return separate


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with writing(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def _found(parent: Path) -> Iterator[tuple[int, Path]]:
    for path in parent.iterdir() if parent.is_dir() else ():
        if named := _NAME.match(path.name):
            yield int(named[1]), path


def best_steps(run: Path) -> list[int]:
    """Of each checkpoint the step of the best model by then."""
    states = (json.loads((path / _STATE).read_text(encoding="utf-8")) for _, path in _found(run / FOLDER))
    return [state["values"]["best"]["step"] for state in states]


def newest(run: Path) -> Path | None:
    """The run's last checkpoint; None without one. What a crash left half-written is removed."""
    parent = run / FOLDER
    for path in parent.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    return max(_found(parent), default=(0, None))[1]


def load_state(folder: Path) -> State:
    """Raises InputError where the checkpoint is damaged."""
    mend = f"remove {folder}, so that the one before it is taken, or start anew with --overwrite"
    try:
        content = json.loads(read_regular(folder / _STATE))
        if not is_intact(content):
            raise ValueError("its state differs from what was saved")
        content.pop(CHECKSUM, None)
        expected = content.pop("sha256")
        if file_digest(folder / _TENSORS) != expected:
            raise ValueError("its tensors differ from what was saved")
        return State(**content, tensors=load_file(folder / _TENSORS))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"is damaged: {first_line(error)}", where=str(folder), hint=mend) from None


def remove_states(run: Path) -> None:
    """A run that is complete needs none."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain values and tensors of an optimiser: what it holds of parameter number i is named `i.<name>`."""
    whole = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, held in whole["state"].items()
        for name, value in held.items()
        if isinstance(value, Tensor)
    }
    plain = {
        str(index): {name: value for name, value in held.items() if not isinstance(value, Tensor)}
        for index, held in whole["state"].items()
    }
    return {"groups": whole["param_groups"], "plain": plain}, tensors


def load_optimizer(optimizer: Optimizer, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_state`."""
    held: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["plain"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        index, _, own = name.partition(".")
        held.setdefault(int(index), {})[own] = shared_like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": held, "param_groups": plain["groups"]})
