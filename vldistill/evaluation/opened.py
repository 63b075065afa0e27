"""A trained model opened for inference, in full or in fewer bits, and how far its vectors and answers then stray."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.artifacts import MANIFEST
from vldistill.data.records import read_json
from vldistill.data.regions.store import RegionStore, same_regions
from vldistill.data.text import WordTokenizer
from vldistill.devices import compute_device
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec, read_checkpoint, resolve_model
from vldistill.models.build import load_student, model_of
from vldistill.runtime import use_threads

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*DTYPES, "int8")
"""int8: the weights of all Linear layers, and their inputs as they come (dynamic quantisation), on a CPU."""


def lowered(model: nn.Module, precision: str, device: torch.device) -> tuple[nn.Module, Callable[[], Any]]:
    """The model on `device`, and the context that it is to be called in. Raises InputError where the device has no such
    arithmetic."""
    check_precision(precision, device)
    model = model.to(device)
    if precision == "int8":
        return quantised(model), nullcontext
    if precision == "fp32":
        return model, nullcontext
    return model, partial(torch.autocast, device.type, DTYPES[precision])


def check_precision(precision: str, device: torch.device) -> None:
    """Raises InputError for a precision that is not known, or that the device does not have."""
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision} is not known", hint=f"one of {', '.join(PRECISIONS)}")
    if precision == "int8" and device.type != "cpu":
        raise InputError("--precision int8 is for the CPU", hint="use bf16 or fp16 on a GPU")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU", hint="use bf16 or int8 on the CPU")


def quantised(model: nn.Module) -> nn.Module:
    """A copy whose Linear layers compute in int8. Raises InputError where torch has no dynamic quantisation."""
    try:
        from torch.ao.quantization import quantize_dynamic
    except ImportError:
        raise InputError("this torch has no dynamic quantisation", hint="use bf16") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its move to a package of its own
        return quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


@dataclass(frozen=True)
class Straying:
    """cosine: the least between a vector in fewer bits and in fp32. agreement: share of rows with the same largest logit."""

    cosine: float
    agreement: float


def straying(vectors: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor]) -> Straying:
    """vectors: [B, D] in fp32 and in fewer bits. logits: [B, C] likewise."""
    cosine = F.cosine_similarity(*(side.float() for side in vectors), dim=-1).min()
    same = logits[0].argmax(dim=-1) == logits[1].argmax(dim=-1)
    return Straying(cosine.item(), same.float().mean().item())


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
