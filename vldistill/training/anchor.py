"""Anchored maps: each map from student to teacher features starts as the ridge regression between them, and is trained on.

A map learned from scratch beside a short fine-tuning follows the student instead of leading it. No label is used: only what the
untouched student and the teachers say of the same inputs. The targets are divided by their norm, as the distances compare them.
The strength of the regression is chosen by leave-one-out, in closed form.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.datasets import RecordDataset
from vldistill.data.loading import make_loader
from vldistill.data.samplers import CleanBatches
from vldistill.errors import needed
from vldistill.objectives.advl import Distances
from vldistill.teachers.unimodal import UnimodalTeachers

STRENGTHS = torch.logspace(-6, 3, 37, dtype=torch.float64)
"""Tried, in units of the features' mean variance times their number."""


@dataclass(frozen=True)
class Fit:
    """weight [E, D] and bias [E] of the map x -> weight x + bias. strength: chosen. r2: share of the targets' variance that
    leave-one-out predictions explain, at most 1."""

    weight: Tensor
    bias: Tensor
    strength: float
    r2: float


def fit_ridge(inputs: Tensor, targets: Tensor) -> Fit:
    """inputs: [N, D], targets: [N, E], N > 1, in float64. The bias is not penalised."""
    x, y = inputs.double(), targets.double()
    centre_x, centre_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - centre_x, y - centre_y
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    scale = values.square().mean().clamp(min=1e-30)
    best: tuple[float, float] | None = None
    for strength in (STRENGTHS * scale).tolist():
        shrunk = values.square() / (values.square() + strength)
        # What each sample contributes to its own prediction, the mean's share included.
        own = (left.square() * shrunk).sum(dim=1) + 1 / len(x)
        residual = (y - left @ (shrunk[:, None] * projected)) / (1 - own).clamp(min=1e-9)[:, None]
        error = float(residual.square().sum())
        if best is None or error < best[0]:
            best = (error, strength)
    error, strength = needed(best, "a strength")
    weight = ((right.T * (values / (values.square() + strength))) @ projected).T
    total = float(y.square().sum())
    return Fit(weight.float(), (centre_y - weight @ centre_x).float(), strength, 1 - error / total if total else 0.0)


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
