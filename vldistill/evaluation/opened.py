"""A trained model, opened for inference: what `evaluate`, `predict` and the Python interface have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vldistill.artifacts import MANIFEST
from vldistill.data.records import read_json
from vldistill.data.regions.store import RegionStore, same_regions
from vldistill.data.text import WordTokenizer
from vldistill.devices import compute_device
from vldistill.errors import InputError
from vldistill.evaluation.precision import lowered
from vldistill.models.base.checkpoint import ModelSpec, read_checkpoint, resolve_model
from vldistill.models.build import load_student, model_of
from vldistill.runtime import use_threads


@dataclass(frozen=True)
class Opened:
    """source: as it was named. model: on `device`, in evaluation mode. autocast: the context that it is to be called in."""

    source: str
    model: Any
    spec: ModelSpec
    tokenizer: WordTokenizer
    device: torch.device
    autocast: Callable[[], Any]

    @property
    def gives_tags(self) -> bool:
        """Whether it gives any number of labels, not one."""
        return self.spec.target == "tags"


def open_model(source: str, precision: str = "fp32", *, headless: bool = False) -> Opened:
    """Reads a run, a model folder or a hub name, onto the GPU where there is one. precision: see `lowered`. headless: whether one
    without a head is welcome. Raises InputError where there is no model, or it has no head to answer by."""
    model, spec, tokenizer = model_of(read_checkpoint(source)) if headless else load_student(source)
    _check_regions(source, spec)
    use_threads(model)
    device = compute_device()
    model, autocast = lowered(model, precision, device)
    return Opened(source, model, spec, tokenizer, device, autocast)


def _check_regions(source: str, spec: ModelSpec) -> None:
    """Raises InputError where a run's store of regions is another one than it was trained on."""
    manifest = resolve_model(source).parent / MANIFEST
    if spec.regions is None or not manifest.exists():
        return
    kept = read_json(manifest).get("parents", {}).get("regions")
    current = RegionStore(Path(spec.regions)).manifest["fingerprint"]
    if kept is not None and not same_regions(kept, current):
        raise InputError(
            f"holds other regions, {current[:12]}, than {source} was trained on, {kept[:12]}",
            where=spec.regions,
            hint="put the store back that it was trained on, or train it again",
        )
