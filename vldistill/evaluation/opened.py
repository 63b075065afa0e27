"""A trained model, opened for inference: what `evaluate`, `predict` and the Python interface have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vldistill.data.text import WordTokenizer
from vldistill.evaluation.precision import lowered
from vldistill.models.checkpoint import ModelSpec, read_checkpoint
from vldistill.students.build import load_student, model_of


@dataclass(frozen=True)
class Opened:
    """source: as it was named. model: on `device`, in evaluation mode. autocast: the context that it is to be called in."""

    source: str
    model: nn.Module
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, autocast = lowered(model, precision, device)
    return Opened(source, model, spec, tokenizer, device, autocast)
