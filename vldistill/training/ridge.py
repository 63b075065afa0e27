"""Ridge regression with its strength chosen by leave-one-out, in closed form: what an anchored map is fitted by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vldistill.errors import needed

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
