"""A trained model in fewer bits, for inference: how it is made, and how far its vectors and answers stray."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.errors import InputError

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
