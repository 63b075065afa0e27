"""Anchored maps: each map from student to teacher features starts as the ridge regression between them, and is trained on.

A map learned from scratch beside a short fine-tuning follows the student instead of leading it. No label is used: only what the
untouched student and the teachers say of the same inputs. The targets are divided by their norm, as the distances compare them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from vldistill.data.datasets import RecordDataset
from vldistill.data.loading import make_loader
from vldistill.data.samplers import CleanBatches
from vldistill.objectives.advl import Distances
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.ridge import Fit, fit_ridge


@dataclass
class AnchorInputs:
    """teachers: of the data that `inputs` come from."""

    teachers: UnimodalTeachers
    inputs: RecordDataset


@torch.no_grad()
def fit_anchors(
    student: nn.Module, distances: Distances, source: AnchorInputs, device: torch.device, *, batch: int
) -> dict[str, Fit]:
    """Fits every map in place; the student is left in the mode it came in. Returns the fits, by name."""
    training, teachers = student.training, source.teachers
    student.eval()
    loader = make_loader(source.inputs, CleanBatches(len(source.inputs), batch))
    samples: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
    for given in loader:
        moved = given.to(device)
        output, taught = student(moved, distances.capture), teachers(moved, distances.capture)
        for own, other, valid, name in distances.pairs(output, taught, moved):
            inputs, targets = samples[name]
            inputs.append((own if valid is None else own[valid]).float().cpu())
            targets.append(F.normalize((other if valid is None else other[valid]).float(), dim=-1).cpu())
    student.train(training)
    fits = {}
    for name, (inputs, targets) in samples.items():
        if not sum(map(len, inputs)):
            continue  # no word that both sides have
        fit = fit_ridge(torch.cat(inputs), torch.cat(targets))
        linear = cast(nn.Linear, distances.maps[name])
        linear.weight.copy_(fit.weight)
        linear.bias.copy_(fit.bias)
        fits[name] = fit
    return fits
